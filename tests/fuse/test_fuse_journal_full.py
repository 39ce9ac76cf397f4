"""A journal that cannot be written: the application goes on, no promise is made that breaks."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarding import GuardProcess

from everup.system.files import load_json

pytestmark = pytest.mark.fuse
DISK_BYTES = 256 << 20
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


def test_the_gate_opens_again_when_there_is_room(cramped: GuardProcess) -> None:
    cramped.open()
    fill(cramped)
    cramped.call("close", grace_ms=100)
    (cramped.places.journal / "ballast").unlink()
    cramped.open(epoch=2)
    (cramped.tree / "after").write_bytes(b"recorded")
    assert cramped.call("status")["journal"]["state"] == "ok"
    assert cramped.call("close", grace_ms=100)["clean"] is True
