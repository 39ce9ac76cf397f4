"""The shared memory of the guard has no room: applications go on, nobody is killed by a page that
cannot be had (SIGBUS), and what cannot be kept over the worker's death is said."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guarding import GuardProcess

from everup.capture.behind import STARTING
from everup.capture.gate import load_armed
from everup.errors import EverupError
from everup.journal.dirty import BLOCK_BYTES, DirtyMap
from everup.journal.operation import encode_write
from everup.journal.record import Operation
from everup.system.files import load_json
from everup.system.sharedmemory import STEP_BYTES, Growing, NoRoom, Turns, map_file

pytestmark = pytest.mark.fuse
MEMORY_BYTES = 16 << 20
SHORT, LONG = 2 * STEP_BYTES // 64, STEP_BYTES // 280 + 200


@contextmanager
def little_room(place: Path) -> Iterator[Path]:
    """A directory becomes a small tmpfs."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEMORY_BYTES}", "tmpfs", str(place)]
    subprocess.run(mount, check=True, timeout=10)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=10)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    with little_room(place):
        yield place


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[GuardProcess]:
    """A guard whose shared memory has little room."""
    process = GuardProcess(tmp_path)
    with little_room(process.places.guard_memory):
        try:
            process.start()
            process.arm()
            yield process
        finally:
            process.stop()


def fill(place: Path) -> Path:
    """Take all room that is left, and see that it is; returns what to remove."""
    ballast = place / "ballast"
    while room := os.statvfs(place).f_bavail * os.statvfs(place).f_frsize:
        with ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), room)
    return ballast


def test_files_beyond_the_room_are_served(cramped: GuardProcess) -> None:
    cramped.open()
    for _ in range(500):
        if cramped.call("status")["behind"]["state"] != STARTING:
            break
        time.sleep(0.01)
    fill(cramped.places.guard_memory)
    for number in range(SHORT):
        (cramped.tree / f"{number}").touch()
    for number in range(LONG):
        (cramped.tree / f"{number:0250}").touch()
    cramped.call("policy", mode="durable", must_acknowledge=[])
    status = cramped.call("status")
    assert status["worker"]["restarts"] == 0
    assert status["memory"]["state"] == "full" and status["memory"]["sentence"]
    assert status["trees"][0]["known_nodes"] >= SHORT + LONG
    cramped.compare()
    cramped.kill_worker()
    status = cramped.wait_served()
    assert status["gate"] == "open" and status["mode"] == "durable"
    for name in ("0", f"{SHORT - 1}", f"{LONG - 1:0250}"):
        (cramped.tree / name).write_bytes(b"after the worker's death")
    assert cramped.wait_served()["worker"]["restarts"] == 1
    cramped.compare()


def test_no_gate_opens_without_room(cramped: GuardProcess) -> None:
    ballast = fill(cramped.places.guard_memory)
    with pytest.raises(EverupError) as refused:
        cramped.open()
    assert "no room for shared memory" in refused.value.sentence and refused.value.remedy
    assert cramped.wait_served()["gate"] == "closed"
    # Nothing was mounted, so nothing was left uncleanly: the others need not be compared.
    assert (load_json(cramped.places.tree) or {})["state"] == "at"
    ballast.unlink()
    cramped.open(epoch=2)
    (cramped.tree / "f").write_bytes(b"1")
    assert cramped.wait_served()["memory"]["state"] == "ok"
    cramped.compare()


def test_a_tree_that_cannot_join_the_open_gate_stays_a_plain_directory(
    cramped: GuardProcess,
) -> None:
    cramped.open()
    more = cramped.base / "more"
    more.mkdir()
    fill(cramped.places.guard_memory)
    with pytest.raises(EverupError) as refused:
        cramped.call("arm", trees=[{"id": 9, "path": str(more)}])
    assert "no room for shared memory" in refused.value.sentence
    (more / "f").write_bytes(b"its users go on")
    assert [tree.tree_id for tree in load_armed(cramped.places)] == [
        number + 1 for number in range(len(cramped.paths))
    ]
    (cramped.tree / "f").write_bytes(b"1")
    cramped.compare()


def test_a_dirty_map_without_room_knows_nothing_and_says_so(small: Path) -> None:
    dirty = DirtyMap(small / "dirty")
    fill(small)
    number = 0
    while dirty.facts()["complete"]:
        arguments = encode_write(number * BLOCK_BYTES, b"hint")
        dirty.note(1, Operation.WRITE, bytes(16), arguments, 1)
        number += 1
    assert number > 1000
    assert dirty.take() is None
    dirty.note(1, Operation.WRITE, bytes(16), encode_write(0, b"hint"), 1)
    assert dirty.take() is not None


def test_room_is_asked_for_before_it_is_used(small: Path) -> None:
    Turns(small / "kept", 100).write(b"kept")
    growing = Growing(small / "growing", MEMORY_BYTES)
    ballast = fill(small)
    for make in (
        lambda: map_file(small / "one", 4096),
        lambda: Growing(small / "two", MEMORY_BYTES),
        lambda: Turns(small / "three", 100),
    ):
        with pytest.raises(NoRoom) as refused:
            make()
        assert refused.value.code == "no-memory-room" and refused.value.remedy
    assert growing.has(STEP_BYTES) and not growing.has(STEP_BYTES + 1)
    ballast.unlink()
    assert growing.has(STEP_BYTES + 1)
    assert Turns(small / "kept", 100).read() == b"kept"


def test_memory_of_this_process_begins_where_the_room_ends(small: Path) -> None:
    growing = Growing(small / "growing", 4 * STEP_BYTES)
    fill(small)
    growing.memory[:4] = b"kept"
    assert not growing.has(2 * STEP_BYTES)
    growing.go_on_alone()
    assert growing.has(4 * STEP_BYTES) and growing.shared_bytes == STEP_BYTES
    growing.memory[4 * STEP_BYTES - 4 :] = b"lost"
    assert growing.memory[:4] == b"kept" and growing.memory[-4:] == b"lost"
    with (small / "growing").open("rb") as file:
        assert file.read(4) == b"kept"
