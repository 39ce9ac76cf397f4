"""A full disk: votes and seals are still saved, and what fills it stops before that."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_replicate_disk import RecordingDoor, frames_of, made_target, small_disk

from everup.errors import Refused
from everup.limits import STATE_FREE_BYTES_MIN
from everup.replicate.divergence import Divergence
from everup.replicate.receivelog import ReceiveLog
from everup.replicate.receiving import receive_error
from everup.replicate.suspects import Suspects
from everup.system.files import RESERVE_NAME, keep_reserve, load_json, save_json

pytestmark = pytest.mark.fuse  # needs root: mounts

RESERVE_BYTES = 2 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "image", tmp_path / "disk", 48):
        yield tmp_path / "disk"


def fill(disk: Path) -> None:
    """To the very last block, as another program would."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as problem:
                assert problem.errno == errno.ENOSPC


def test_a_vote_is_saved_on_a_full_disk(disk: Path) -> None:
    vote = {"promised": "x" * 20_000}
    save_json(disk / "vote.json", {"promised": "old"}, operation="save-vote")
    keep_reserve(disk, RESERVE_BYTES)
    assert (disk / RESERVE_NAME).stat().st_blocks * 512 >= RESERVE_BYTES
    fill(disk)
    save_json(disk / "vote.json", vote, operation="save-vote")
    assert load_json(disk / "vote.json") == vote
    assert not (disk / RESERVE_NAME).exists()
    keep_reserve(disk, RESERVE_BYTES)
    assert not (disk / RESERVE_NAME).exists(), "it does not take the last space back"
    (disk / "ballast").unlink()
    keep_reserve(disk, RESERVE_BYTES)
    assert (disk / RESERVE_NAME).exists()


def test_without_a_reserve_the_old_vote_stays(disk: Path) -> None:
    save_json(disk / "vote.json", {"promised": "old"}, operation="save-vote")
    fill(disk)
    with pytest.raises(OSError) as caught:
        save_json(disk / "vote.json", {"promised": "x" * 20_000}, operation="save-vote")
    assert caught.value.errno == errno.ENOSPC
    assert load_json(disk / "vote.json") == {"promised": "old"}


def test_the_receive_log_leaves_room(disk: Path) -> None:
    log = ReceiveLog(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(disk)
        room = free.f_bavail * free.f_frsize - STATE_FREE_BYTES_MIN
        os.posix_fallocate(file.fileno(), 0, room + (1 << 20))
    with pytest.raises(OSError) as caught:
        log._check_room()
    assert caught.value.errno == errno.ENOSPC
    assert receive_error(caught.value).code == "receive-no-space"
    ballast.unlink()
    log._check_room()


def test_the_receive_log_keeps_to_its_quota(tmp_path: Path) -> None:
    """Nothing is acknowledged over it, and it goes on when the quota is raised."""
    target, guard = made_target(tmp_path, RecordingDoor())
    stream = object()
    try:
        target.take_over_stream(stream, 1, "alpha")
        first, second = frames_of(guard)[:2]
        end = target.receive(stream, 1, [first[0]])
        settings = target._context.group
        target._context.group = msgspec.structs.replace(settings, journal_quota_bytes=100)
        target.log._room_at = 0.0
        with pytest.raises(OSError) as caught:
            target.receive(stream, 1, [second[0]])
        assert caught.value.errno == errno.EDQUOT and "quota" in str(caught.value)
        assert target.log.durable == end
        target._context.group = settings
        assert target.receive(stream, 1, [second[0]]) == second[1]
    finally:
        target.stop()


def test_no_quota_left_for_what_only_this_server_has(tmp_path: Path) -> None:
    """The object is not overwritten: keeping it raises before."""
    root, thing = tmp_path / "divergence", tmp_path / "thing"
    root.mkdir()
    thing.write_bytes(os.urandom(100_000))
    suspects = Suspects(changed_after_ns=0)
    descriptor = os.open(thing, os.O_RDONLY)
    try:
        Divergence(root, suspects, quota_bytes=1 << 20).keep(1, b"a" * 16, b"thing", descriptor)
        with pytest.raises(Refused) as caught:
            Divergence(root, suspects, quota_bytes=150_000).keep(1, b"a" * 16, b"x", descriptor)
    finally:
        os.close(descriptor)
    assert caught.value.code == "no-room-for-divergence"
    assert str(root) in caught.value.sentence and caught.value.remedy
