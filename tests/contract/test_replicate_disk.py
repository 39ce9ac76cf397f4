"""Disks of the passive side: full, failing, and what an acknowledgement promises."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID, wait_for
from standin_guard import StandInGuard
from test_replicate_pair import Pair

from everup.config.load import load_group
from everup.journal.reader import Cursor
from everup.model.position import ORIGIN, Position
from everup.places import Places
from everup.replicate.context import Context
from everup.replicate.receivelog import ReceiveLog
from everup.replicate.seal import Seal
from everup.replicate.target import Target
from everup.replicate.treestate import AT, TreeState, save_tree_state
from everup.system.files import Door
from everup.wire.frames import BatchFrame

pytestmark = pytest.mark.fuse  # needs root: mounts, trusted extended attributes

END_BYTES = 113


@contextmanager
def small_disk(image: Path, at: Path, mebibytes: int) -> Iterator[None]:
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    (at / "lost+found").rmdir()
    at.chmod(0o755)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("part", ["tree", "receive"])
def test_full_disk_on_the_passive(pair: Pair, tmp_path: Path, part: str) -> None:
    """The source goes on, the state says what is wrong, and it catches up when there is room."""
    place = pair.beta.lower() if part == "tree" else pair.beta.places.receive
    with small_disk(tmp_path / "image", place, 80):
        pair.start()
        pair.wait_in_sync()
        guard = pair.guard
        guard.create("filler")
        ballast = place / "ballast"
        with ballast.open("wb") as file:
            file.write(bytes(60 << 20))
        code = {"tree": "apply-no-space", "receive": "receive-no-space"}[part]
        for number in range(40):
            guard.write("filler", number << 20, os.urandom(1 << 20))
            guard.end_batch()
        error = wait_for(lambda: pair.beta.call("status")["apply_error"], 20, "an error is shown")
        assert error["code"] == code, error
        wait_for(lambda: (pair.peer()["error"] or {}).get("code") == code, 10)
        assert not pair.peer()["in_sync"]
        # The application goes on.
        guard.create("afterwards")
        guard.end_batch()
        ballast.unlink()
        wait_for(lambda: pair.peer()["in_sync"], 40, "in sync again")
        pair.compare()
        assert pair.beta.call("status")["apply_error"] is None
        pair.beta.stop()


class RecordingDoor(Door):
    """Notes which writes of the receive log were on the disk at which moment."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.fail: set[str] = set()

    def fdatasync(self, operation: str, descriptor: int) -> None:
        if operation in self.fail:
            raise OSError(5, "input/output error")
        super().fdatasync(operation, descriptor)
        self.synced.append(operation)


def made_target(tmp_path: Path, door: Door) -> tuple[Target, StandInGuard]:
    source, places = Places.below(tmp_path / "source"), Places.below(tmp_path / "target")
    for each in (source, places):
        each.make()
        each.lower(1).mkdir()
    guard = StandInGuard(source, GROUP_ID)
    guard.open(1, "alpha")
    for number in range(5):
        guard.create(f"file{number}")
        guard.write(f"file{number}", 0, b"content")
        guard.end_batch()
    places.group_settings.write_text(
        f'version = 1\ngroup = "test"\ngroup_id = "{GROUP_ID}"\n'
        '[[protect]]\nid = 1\npath = "/srv/x"\n'
    )
    os.setxattr(places.lower(1), "trusted.everup.group", GROUP_ID.encode())
    save_tree_state(places.tree, TreeState(AT, ORIGIN))
    context = Context(places, "beta", load_group(places.group_settings), door=door)
    target = Target(context, Seal(context.seal_path), lambda: None)
    target.log.open()
    target.log.reset(ORIGIN)
    target.start()
    return target, guard


def frames_of(guard: StandInGuard) -> list[tuple[BatchFrame, Position]]:
    cursor = Cursor(guard.places.journal, ORIGIN)
    found = []
    while (batch := cursor.next()) is not None:
        found.append((BatchFrame(batch.data, END_BYTES), batch.end))
    cursor.close()
    return found


def test_nothing_is_acknowledged_before_it_is_on_the_disk(tmp_path: Path) -> None:
    """`receive` returns what may be acknowledged: never without a sync after the append."""
    door = RecordingDoor()
    target, guard = made_target(tmp_path, door)
    stream = object()
    try:
        target.take_over_stream(stream, 1, "alpha")
        for frame, end in frames_of(guard):
            before = len(door.synced)
            assert target.receive(stream, 1, [frame]) == end
            assert "append-receive" in door.synced[before:]
    finally:
        target.stop()


def test_a_failed_sync_acknowledges_nothing_and_writes_again(tmp_path: Path) -> None:
    door = RecordingDoor()
    target, guard = made_target(tmp_path, door)
    stream = object()
    try:
        target.take_over_stream(stream, 1, "alpha")
        frames = frames_of(guard)
        target.receive(stream, 1, [frames[0][0]])
        door.fail = {"append-receive"}
        with pytest.raises(OSError):
            target.receive(stream, 1, [frame for frame, _ in frames[1:3]])
        assert target.log.durable == frames[0][1] == target.log.end
        size = sum(path.stat().st_size for path in target.log.directory.glob("*.segment"))
        assert size == 64 + len(frames[0][0].data), "what was not synced is cut off"
        door.fail = set()
        assert target.receive(stream, 1, [f for f, _ in frames[1:]]) == frames[-1][1]
        assert target.drain(10_000) == frames[-1][1]
        assert (target._context.places.lower(1) / "file4").read_bytes() == b"content"
    finally:
        target.stop()


def test_a_comparison_that_lost_its_other_side_holds_up_no_takeover(tmp_path: Path) -> None:
    """The active server asked for a pause, and lost its power before it said what to compare."""
    target, guard = made_target(tmp_path, RecordingDoor())
    stream = object()
    try:
        target.take_over_stream(stream, 1, "alpha")
        frames = frames_of(guard)
        assert target.applier is not None
        target.applier.hold(True)
        target.receive(stream, 1, [frame for frame, _ in frames])
        assert target.drain(5_000) == frames[-1][1]
    finally:
        target.stop()


def test_the_apply_waits_for_the_disk_too(tmp_path: Path) -> None:
    """Nothing that is not durable in the log reaches the tree."""
    door = RecordingDoor()
    target, guard = made_target(tmp_path, door)
    stream = object()
    try:
        target.take_over_stream(stream, 1, "alpha")
        door.fail = {"append-receive"}
        with pytest.raises(OSError):
            target.receive(stream, 1, [frame for frame, _ in frames_of(guard)])
        time.sleep(0.3)
        assert not (target._context.places.lower(1) / "file0").exists()
    finally:
        target.stop()


def received(tmp_path: Path) -> tuple[Places, list[tuple[BatchFrame, Position]]]:
    """A receive log with acknowledged batches, at rest."""
    target, guard = made_target(tmp_path, RecordingDoor())
    stream = object()
    target.take_over_stream(stream, 1, "alpha")
    frames = frames_of(guard)
    target.receive(stream, 1, [frame for frame, _ in frames])
    target.stop()
    return target._context.places, frames


def test_a_damaged_receive_log_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    """What this server acknowledged before the damage would be missing without a word."""
    places, frames = received(tmp_path)
    path = next(places.receive.glob("*.segment"))
    data = bytearray(path.read_bytes())
    data[64 + len(frames[0][0].data) + 90] ^= 1
    path.write_bytes(data)
    log = ReceiveLog(places.receive)
    assert log.open() is None
    assert log.problem is not None and path.name in log.problem.sentence


def test_a_torn_tail_of_the_receive_log_is_cut(tmp_path: Path) -> None:
    places, frames = received(tmp_path)
    path = next(places.receive.glob("*.segment"))
    os.truncate(path, path.stat().st_size - 10)
    log = ReceiveLog(places.receive)
    assert log.open() == frames[-2][1] and log.problem is None
    log.close()
