"""A journal that cannot be written: the application goes on, no promise is made that breaks."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guarding import GuardProcess

from everup.errors import Corrupt
from everup.journal.activity import load_mark
from everup.journal.dirty import BLOCK_BYTES, load_map
from everup.journal.reader import NEW_CHAIN, Cursor, split_batch
from everup.journal.record import Record
from everup.model.position import ORIGIN, Position
from everup.system.files import load_json

pytestmark = pytest.mark.fuse
DISK_BYTES = 384 << 20
ROOM_BYTES = 1 << 20


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[GuardProcess]:
    """A guard whose journal lies on a small file system of its own."""
    process = GuardProcess(tmp_path)
    journal = process.places.journal
    options = f"size={DISK_BYTES}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(journal)]
    subprocess.run(command, check=True, timeout=10)
    try:
        process.start()
        process.arm()
        yield process
    finally:
        process.stop()
        subprocess.run(["umount", str(journal)], check=True, timeout=10)


def fill(guard: GuardProcess) -> None:
    """Take the journal's room, then write: the writes themselves succeed."""
    ballast = guard.places.journal / "ballast"
    free = os.statvfs(guard.places.journal)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - ROOM_BYTES)
    with (guard.tree / "filler").open("wb", buffering=0) as file:
        for _ in range(4 * ROOM_BYTES // 65536):
            file.write(os.urandom(65536))
    status = guard.call("status")
    assert status["journal"]["state"] == "full", status["journal"]
    assert status["journal"]["sentence"]


def test_a_durable_sync_is_not_acknowledged_without_the_other_server(cramped: GuardProcess) -> None:
    cramped.open(mode="durable", needs=("secondary",))
    fill(cramped)
    done = threading.Event()

    def save() -> None:
        with (cramped.tree / "promised").open("wb") as file:
            file.write(b"x" * 100)
            file.flush()
            os.fsync(file.fileno())
        done.set()

    thread = threading.Thread(target=save)
    thread.start()
    sequence = cramped.call("status")["sequence"]
    cramped.call("acknowledged", server="secondary", sequence=sequence)
    assert not done.wait(0.5), "fsync returned although no other server has the data"
    cramped.call("policy", mode="async", must_acknowledge=[])
    assert done.wait(5), "the application must go on when nobody is asked for any more"
    thread.join()


def test_a_new_worker_knows_that_the_journal_has_a_gap(cramped: GuardProcess) -> None:
    cramped.open()
    fill(cramped)
    before = cramped.worker()
    cramped.kill_worker()
    for _ in range(200):
        if cramped.worker() != before:
            break
        time.sleep(0.02)
    (cramped.tree / "later").write_bytes(b"goes on")
    assert cramped.call("status")["journal"]["state"] == "full"
    assert cramped.call("close", grace_ms=100)["clean"] is False
    tree = load_json(cramped.places.tree)
    assert tree is not None and tree["state"] == "open", "the tree is at no position"


def await_journal(guard: GuardProcess, state: str, seconds: float = 10) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = guard.call("status")
        if status["journal"]["state"] == state:
            return status
        time.sleep(0.02)
    raise AssertionError(f"the journal is not {state}: {status['journal']}")


def await_mark(guard: GuardProcess, there: bool) -> None:
    deadline = time.monotonic() + 10
    while (load_mark(guard.places.state) is not None) is not there:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_power_cut_while_the_journal_is_full_leaves_no_mark_behind(cramped: GuardProcess) -> None:
    """What is written now would be named by nothing: everything is to be compared then."""
    cramped.open()
    (cramped.tree / "before").write_bytes(b"recorded")
    await_mark(cramped, True)
    fill(cramped)
    await_mark(cramped, False)
    (cramped.places.journal / "ballast").unlink()
    await_journal(cramped, "ok")
    (cramped.tree / "after").write_bytes(b"recorded again")
    await_mark(cramped, True)


def test_it_goes_on_by_itself_when_there_is_room(cramped: GuardProcess) -> None:
    """Behind a gap: nobody is streamed over it, and what is written from then on is recorded."""
    cramped.open()
    (cramped.tree / "before").write_bytes(b"recorded")
    before = Position.from_json(cramped.call("status")["position"])
    fill(cramped)
    full = cramped.call("status")
    (cramped.places.journal / "ballast").unlink()
    again = Position.from_json(await_journal(cramped, "ok")["position"])
    assert again.epoch == 1 and again.sequence >= full["sequence"] + 2
    (cramped.tree / "after").write_bytes(b"recorded again")
    cramped.call("close", grace_ms=100)
    cursor = Cursor(cramped.places.journal, again)
    records = [r for b in iter(cursor.next, None) for r in split_batch(b.data, b.start)[0]]
    cursor.close()
    assert b"recorded again" in [bytes(record.payload) for record in records]
    for old in (before, Position.from_json(full["position"])):
        with pytest.raises(Corrupt) as caught:
            Cursor(cramped.places.journal, old)
        assert caught.value.code == "position-unknown"
    tree = load_json(cramped.places.tree)
    assert tree is not None and tree["state"] == "at", "the new chain has a whole end"


def test_a_sync_waits_for_the_chain_behind_the_gap(cramped: GuardProcess) -> None:
    """What was acknowledged of the old chain, however much, answers nobody."""
    cramped.open(mode="durable", needs=("secondary",))
    fill(cramped)
    full = cramped.call("status")["sequence"]
    done = threading.Event()

    def save() -> None:
        with (cramped.tree / "promised").open("wb") as file:
            file.write(b"x" * 100)
            file.flush()
            os.fsync(file.fileno())
        done.set()

    thread = threading.Thread(target=save)
    thread.start()
    (cramped.places.journal / "ballast").unlink()
    again = await_journal(cramped, "ok")["position"]["sequence"]
    cramped.call("acknowledged", server="secondary", sequence=full)
    cramped.kill_worker()
    assert not done.wait(0.5)
    cramped.wait_served()
    cramped.call("acknowledged", server="secondary", sequence=full)
    assert not done.wait(0.5), "fsync returned although no other server has the data"
    assert again > full
    cramped.call("acknowledged", server="secondary", sequence=cramped.call("status")["sequence"])
    assert done.wait(5), "a server that has the new chain has what was written"
    thread.join()


def test_a_worker_that_dies_while_it_is_full_leaves_it_to_the_next(cramped: GuardProcess) -> None:
    cramped.open()
    fill(cramped)
    cramped.kill_worker()
    (cramped.places.journal / "ballast").unlink()
    cramped.wait_served()
    await_journal(cramped, "ok")
    (cramped.tree / "after").write_bytes(b"recorded")
    assert cramped.call("close", grace_ms=100)["clean"] is True


def test_what_is_not_recorded_is_known(cramped: GuardProcess) -> None:
    """Shown while it goes on, kept over a killed worker, and saved when the journal goes on."""
    cramped.open()
    big = cramped.tree / "big"
    with big.open("wb") as file:
        file.truncate(64 << 20)
    (cramped.tree / "untouched").write_bytes(b"x" * 100)
    fill(cramped)
    with big.open("r+b", buffering=0) as file:
        file.seek(10 << 20)
        file.write(b"y" * 100)
    dirty = cramped.call("status")["journal"]["dirty"]
    assert dirty["complete"] is True and dirty["objects"] == 2, dirty
    assert (3 << 20) < dirty["bytes"] < (6 << 20), dirty
    assert "2 objects" in dirty["sentence"]
    before = cramped.worker()
    cramped.kill_worker()
    (cramped.tree / "third").write_bytes(b"z")
    assert cramped.worker() != before
    assert cramped.call("status")["journal"]["dirty"]["objects"] == 3
    ids = {
        name: os.getxattr(cramped.lower() / name, "trusted.everup.id")[:16]
        for name in ("big", "filler", "third", "untouched")
    }
    (cramped.places.journal / "ballast").unlink()
    assert await_journal(cramped, "ok")["journal"]["dirty"] is None
    maps = cramped.places.state / "dirty"
    for _ in range(200):
        if list(maps.glob("*.map")):
            break
        time.sleep(0.02)
    (path,) = maps.glob("*.map")
    parts = load_map(cramped.places.state, path.stem)
    assert {part[1] for part in parts} == {ids["big"], ids["filler"], ids["third"]}
    big_parts = [part for part in parts if part[1] == ids["big"]]
    assert big_parts == [(1, ids["big"], 10 << 20, (10 << 20) + BLOCK_BYTES)]
    # Also of what the batch held that was open when the journal failed.
    starts = {first for _, name, first, _ in parts if name == ids["filler"]}
    recorded = sum(len(r.payload) for r in _records(cramped) if r.object_id == ids["filler"])
    whole = recorded - recorded % BLOCK_BYTES
    assert starts | set(range(0, whole, BLOCK_BYTES)) >= set(range(0, 4 << 20, BLOCK_BYTES))


def _records(guard: GuardProcess) -> list[Record]:
    """Of all closed batches before the gap."""
    cursor = Cursor(guard.places.journal, ORIGIN, over_gaps=True)
    found: list[Record] = []
    try:
        while (batch := cursor.next()) is not None:
            found += split_batch(batch.data, batch.start)[0]
    except Corrupt as problem:
        assert problem.code == NEW_CHAIN
    finally:
        cursor.close()
    return found


def test_a_quota_is_kept_without_the_replicator(cramped: GuardProcess) -> None:
    """Nobody deletes segments: the journal stops growing instead of filling the disk."""
    cramped.open()
    cramped.call("release_segments", up_to_sequence=0, quota_bytes=1 << 20)
    assert cramped.call("status")["journal"]["quota_bytes"] == 1 << 20
    assert cramped.call("status")["journal"]["state"] == "ok"
    block = os.urandom(1 << 20)
    with (cramped.tree / "much").open("wb", buffering=0) as file:
        for _ in range(150):
            file.write(block)
            file.seek(0)
    status = await_journal(cramped, "full")
    assert "quota" in status["journal"]["sentence"]
    cramped.call("release_segments", up_to_sequence=0, quota_bytes=1 << 30)
    assert await_journal(cramped, "ok")["position"] != status["position"], "raised live"


def test_the_gate_opens_again_when_there_is_room(cramped: GuardProcess) -> None:
    cramped.open()
    fill(cramped)
    cramped.call("close", grace_ms=100)
    (cramped.places.journal / "ballast").unlink()
    cramped.open(epoch=2)
    (cramped.tree / "after").write_bytes(b"recorded")
    assert cramped.call("status")["journal"]["state"] == "ok"
    assert cramped.call("close", grace_ms=100)["clean"] is True
