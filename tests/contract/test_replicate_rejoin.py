"""After a power cut of the active server only what its disk may have lost is compared: its lower
tree lies on a real disk whose power is cut, everything else of it stays. Names, attributes and all
content must be equal afterwards, and what was written long before is never read."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "fuse"))

from cutting import SmallDisk
from replicating import differences, wait_for
from standin_guard import StandInGuard
from test_replicate_pair import Pair
from test_replicate_roles import promote_beta, wait_back

from everup.journal.activity import MARGIN_NS, Mark, save_mark
from everup.replicate.blocks import BLOCK_BYTES
from everup.system.clock import wall_ns

pytestmark = pytest.mark.fuse  # mounts a disk image
LARGE_BYTES = 48 << 20
SMALL_FILES = 200
CUT_MIB = 160


class Rejoin(Pair):
    """alpha's tree lies on a disk of its own; it will lose power, beta take over."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.disk = SmallDisk(base / "disk", self.alpha.lower(), CUT_MIB)
        self.guard.root.chmod(0o755)
        self.other: StandInGuard | None = None

    def fill(self) -> None:
        """Data that lies there for long when the power goes."""
        root = self.alpha.lower()
        (root / "old").mkdir()
        for number in range(SMALL_FILES):
            (root / "old" / f"file{number}").write_bytes(os.urandom(3000))
        (root / "large").write_bytes(os.urandom(LARGE_BYTES))
        (root / "shrinking").write_bytes(os.urandom(1 << 20))
        for name in ("one", "two", "one/moving", "doomed"):
            (root / name).mkdir()
        (root / "one" / "moving" / "inner").write_bytes(os.urandom(300_000))
        (root / "doomed" / "file").write_bytes(b"soon gone")
        os.link(root / "large", root / "two" / "linked")

    def mark(self) -> None:
        """What the guard does every 30 s."""
        now = wall_ns()
        position = self.guard.end_batch()
        os.sync()
        save_mark(self.alpha.places.state, Mark(position, now))

    def age(self) -> None:
        """Until what was changed before is older than the margin."""
        time.sleep(MARGIN_NS / 1e9 + 0.2)

    def write_hot(self) -> None:
        """Both servers have these; the disk of the first one does not, mostly."""
        guard = self.guard
        guard.create("fresh")
        guard.write("fresh", 0, os.urandom(200_000))
        guard.write("large", 5 * BLOCK_BYTES + 77, b"changed in the middle")
        guard.write("old/file7", 1000, b"changed")
        guard.truncate("shrinking", 1000)
        guard.write("shrinking", 700_000, b"far behind a hole")
        guard.rename("one/moving", "two/moved")
        guard.write("two/moved/inner", 100, b"inside")
        guard.unlink("doomed/file")
        guard.unlink("doomed")
        guard.create("late", 0o040755)
        guard.create("late/file")
        guard.write("late/file", 0, b"late content")
        guard.attributes("old/file9", mode=0o600)
        guard.set_xattr("old/file10", "user.note", b"new")

    def cut_power(self) -> None:
        """beta has everything up to here; alpha's disk keeps what was synced."""
        self.alpha.kill()
        self.disk.cut_power()
        self.guard.stop()
        self.disk.unmount()
        self.disk.mount()

    def rejoin(self) -> dict[str, Any]:
        """beta is active, writes, and alpha comes back; the finished sync."""
        self.promote()
        return self.come_back()

    def promote(self) -> StandInGuard:
        self.other = promote_beta(self, 2)
        self.other.write("large", 40 * BLOCK_BYTES, b"the new active goes on")
        self.other.create("newest")
        self.other.write("newest", 0, b"written on the new active")
        return self.other

    def come_back(self) -> dict[str, Any]:
        assert self.other is not None
        self.alpha.start()
        self.alpha.call("target")
        wait_back(self, self.other)
        assert differences(self.beta.lower(), self.alpha.lower()) == []
        return self.alpha.call("status")["sync"]

    def stop(self) -> None:
        super().stop()
        if self.other is not None:
            self.other.stop()
        self.disk.unmount()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Rejoin]:
    made = Rejoin(tmp_path)
    try:
        made.fill()
        made.start()
        made.wait_in_sync()
        os.sync()
        yield made
    finally:
        made.stop()


def test_what_nobody_received_is_kept_and_undone(pair: Rejoin) -> None:
    """The pair was cut before the power went: names and content that only alpha has."""
    pair.mark()
    pair.age()
    pair.settle()
    pair.alpha.kill()
    guard = pair.guard
    guard.write("large", 9 * BLOCK_BYTES, b"only alpha wrote this")
    guard.create("lonely", 0o040755)
    guard.create("lonely/file")
    guard.write("lonely/file", 0, b"lonely content")
    guard.rename("old/file3", "two/file3")
    guard.unlink("old/file4")
    guard.end_batch()
    os.sync()
    sync = pair.rejoin()
    assert sync["narrow"], sync
    (bundle,) = pair.alpha.places.divergence.iterdir()
    entries = json.loads((bundle / "manifest.json").read_text())["objects"]
    changes = {(entry["before"] or entry["after"])["path"]: entry["change"] for entry in entries}
    assert (
        changes.items()
        >= {
            "large": "changed",
            "lonely": "only-here",
            "lonely/file": "only-here",
            "two/file3": "renamed",
            "old/file4": "removed-here",
        }.items()
    )


def test_a_copy_that_is_broken_off_goes_on_narrowed(pair: Rejoin) -> None:
    pair.mark()
    pair.age()
    pair.write_hot()
    pair.settle()
    pair.cut_power()
    other = pair.promote()
    for delay in (0.0, 0.05, 0.2):
        pair.alpha.start()
        pair.alpha.call("target")
        wait_for(lambda: pair.alpha.call("status")["sync"]["state"] != "none", 20)
        time.sleep(delay)
        pair.alpha.kill()
    other.write("large", 70 * BLOCK_BYTES, b"meanwhile")
    sync = pair.come_back()
    assert sync["state"] == "none" or sync["narrow"] or sync["compared_bytes"] == 0, sync


def test_without_a_mark_everything_is_compared(pair: Rejoin) -> None:
    pair.write_hot()
    pair.settle()
    pair.cut_power()
    sync = pair.rejoin()
    assert not sync["narrow"] and sync["compared_bytes"] > LARGE_BYTES


def test_control_a_mark_that_was_not_true_is_seen(pair: Rejoin) -> None:
    """The mark is saved although nothing was synced: what the disk lost is not compared then."""
    pair.mark()
    pair.age()
    pair.guard.write("large", 5 * BLOCK_BYTES + 77, b"changed in the middle")
    save_mark(pair.alpha.places.state, Mark(pair.guard.end_batch(), wall_ns()))
    pair.settle()
    pair.cut_power()
    pair.promote()
    with pytest.raises(AssertionError, match="large"):
        pair.come_back()


def test_only_what_the_disk_may_have_lost_is_compared(pair: Rejoin) -> None:
    pair.mark()
    pair.age()
    pair.write_hot()
    pair.settle()
    pair.cut_power()
    root = pair.alpha.lower()
    assert not (root / "fresh").exists() and (root / "one/moving").exists()
    sync = pair.rejoin()
    assert sync["narrow"] and sync["compared_bytes"] < 10 << 20, sync
    assert "objects were being written" in sync["sentence"]
    proven = pair.alpha.call("status")["proven"]
    assert proven["touched"]["objects"] > SMALL_FILES
    assert proven["touched"]["bytes"] < 10 << 20
