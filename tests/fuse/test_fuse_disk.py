"""The lower file system's own disk: what a sync has promised survives a power cut, a write that the
disk took only a part of is recorded as what it was, one that took too long is not acknowledged."""

import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cutting import SmallDisk
from guarding import GuardProcess

from everup.journal.activity import Activity, load_mark
from everup.model.position import ORIGIN

pytestmark = pytest.mark.fuse
MEBIBYTES = 24
JOURNAL_MEBIBYTES = 256
SYNCED_FILES = 20
ENTRIES = 40


class OnDisk:
    """A guard whose protected directory lies on a small disk of its own."""

    def __init__(self, base: Path) -> None:
        self.guard = GuardProcess(base)
        self.disk = SmallDisk(base / "image", self.guard.tree, MEBIBYTES)
        self.mounted = True
        self.below = base / "below"

    def start(self) -> None:
        self.guard.start()
        self.guard.arm()
        self.guard.open()

    def cut_power(self) -> Path:
        """Where the directory can be read as the disk has it."""
        self.below.mkdir()
        subprocess.run(
            ["mount", "--bind", str(self.guard.lower()), str(self.below)], check=True, timeout=10
        )
        self.disk.path = self.below
        self.disk.cut_power()
        self.guard.stop()
        # The directory was mounted twice: the disk itself, and the bind just made.
        subprocess.run(["umount", str(self.guard.tree)], check=False, timeout=10)
        self.disk.unmount()
        self.disk.mount()
        return self.below

    def stop(self) -> None:
        self.guard.stop()
        for path in (self.below, self.guard.tree):
            while path.is_mount():
                subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=10)


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[OnDisk]:
    with ExitStack() as stack:
        made = OnDisk(tmp_path)
        stack.callback(made.stop)
        made.start()
        yield made


def write_through(path: Path, data: bytes, sync: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, data, 0)
    if sync == "fsync":
        os.fsync(descriptor)
    elif sync == "fdatasync":
        os.fdatasync(descriptor)
    os.close(descriptor)


def entry(number: int) -> bytes:
    return f"entry {number}.".encode().ljust(4096)


def append_through(path: Path, entries: int) -> None:
    path.write_bytes(bytes(entries * 4096))
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    for number in range(entries):
        os.pwrite(descriptor, entry(number), number * 4096)
        os.fdatasync(descriptor)
    os.close(descriptor)


def fill(path: Path) -> None:
    """Take all blocks that the disk still has."""
    free = os.statvfs(path.parent)
    at = free.f_bavail * free.f_frsize - (200 << 10)
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, at)
        with suppress(OSError):
            while True:
                at += os.pwrite(file.fileno(), bytes(4096), at)


def test_what_was_synced_survives_a_power_cut(on_disk: OnDisk) -> None:
    tree = on_disk.guard.tree
    for name in ("fsync", "fdatasync", "nothing"):
        (tree / name).write_bytes(bytes(5000))
    # Once for all files: what was there before the guard counted changes.
    write_through(tree / "nothing", bytes(5000), "fsync")
    for name in ("nothing", "fsync", "fdatasync"):
        write_through(tree / name, name.encode() * 1000, name)
    below = on_disk.cut_power()
    for name in ("fsync", "fdatasync"):
        assert (below / name).read_bytes()[:5000] == (name.encode() * 1000)[:5000]
    # Control: this disk does lose what was not synced.
    assert (below / "nothing").read_bytes()[:5000] == bytes(5000)


def test_what_the_activity_mark_says_survives_a_power_cut(on_disk: OnDisk) -> None:
    """Nobody has synced this file but the guard, before it says that everything is on the disk."""
    guard = on_disk.guard
    content = b"never synced by its application" * 100
    (guard.tree / "file").write_bytes(content)
    written = guard.call("status")["sequence"]
    # A tree that joins makes a mark due at once, for all of them.
    second = guard.base / "second"
    second.mkdir()
    guard.paths.append(second)
    guard.arm()
    for _ in range(1000):
        mark = load_mark(guard.places.state)
        if mark is not None and mark.position.sequence >= written:
            break
        time.sleep(0.01)
    assert mark is not None and mark.position.sequence >= written
    assert (on_disk.cut_power() / "file").read_bytes() == content


def test_a_short_write_is_recorded_as_what_was_written(on_disk: OnDisk) -> None:
    tree = on_disk.guard.tree
    descriptor = os.open(tree / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"a" * 300_000, 0)
    os.fsync(descriptor)
    fill(tree / "ballast")
    # The first part has its blocks already; there are none for the rest.
    wanted = os.urandom(1 << 20)
    written = os.pwrite(descriptor, wanted, 0)
    os.close(descriptor)
    assert 0 < written < len(wanted), "the disk took only a part"
    assert (tree / "file").read_bytes() == wanted[:written] + b"a" * (300_000 - written)
    (tree / "ballast").unlink()
    on_disk.guard.compare()


def test_a_change_that_took_longer_than_the_lease_is_not_acknowledged(on_disk: OnDisk) -> None:
    """It was begun in time, and is recorded; but its success must not be said any more."""
    guard = on_disk.guard
    path = guard.tree / "file"
    path.write_bytes(bytes(100))
    results: list[int] = []

    def write() -> None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            results.append(os.pwrite(descriptor, b"late", 0))
        except OSError as error:
            results.append(-(error.errno or 0))
        os.close(descriptor)

    with SmallDisk.frozen(guard.lower()):
        thread = threading.Thread(target=write)
        thread.start()
        for _ in range(500):
            if guard.call("status")["trees"][0]["open_requests"]:
                break
            time.sleep(0.01)
        guard.lend(1)
        time.sleep(0.05)
        assert results == []
    thread.join(30)
    assert results == [-errno.EIO]
    guard.lend()
    assert path.read_bytes()[:4] == b"late"
    guard.compare()


def test_the_record_is_on_the_disk_before_the_data_that_it_names(tmp_path: Path) -> None:
    """The journal's disk loses power as soon as `fdatasync` has returned: contents that may have
    reached the other disk are named. Else nobody would ever compare them."""
    guard = GuardProcess(tmp_path)
    guard.places.journal.mkdir(parents=True, exist_ok=True)
    disk = SmallDisk(tmp_path / "image", guard.places.journal, JOURNAL_MEBIBYTES)
    try:
        guard.start()
        guard.arm()
        guard.open()
        for number in range(SYNCED_FILES):
            (guard.tree / f"file{number}").write_bytes(bytes(5000))
        for number in range(SYNCED_FILES):
            write_through(guard.tree / f"file{number}", f"content {number}.".encode(), "fdatasync")
        # A log that grows in place, as databases write theirs: the likeliest thing that nobody has.
        append_through(guard.tree / "log", ENTRIES)
        disk.cut_power()
        guard.stop()
        disk.unmount()
        disk.mount()
        named = {
            bytes(record.payload) for record in Activity(guard.places.journal, ORIGIN).records()
        }
        assert {f"content {number}.".encode() for number in range(SYNCED_FILES)} <= named
        assert {entry(number) for number in range(ENTRIES)} <= named
    finally:
        guard.stop()
        disk.unmount()
