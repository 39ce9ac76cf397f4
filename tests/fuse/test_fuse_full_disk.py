"""A file system that is full, has large attributes, or allows less: the mount says what it says,
and the journal has exactly what was written."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from differential import in_child
from guarding import GuardProcess
from loopdisk import small_disk
from replaying import SET_XATTR, entries

from everup.system.capabilities import give_up

pytestmark = pytest.mark.fuse
DISK_MB = 24
FSETID = 4


@pytest.fixture
def full(tmp_path: Path) -> Iterator[GuardProcess]:
    """A guard over a small file system."""
    process = GuardProcess(tmp_path)
    with small_disk(tmp_path / "image", process.tree, DISK_MB, "nosuid,nodev,noexec"):
        try:
            process.start()
            process.arm()
            process.open()
            yield process
        finally:
            process.stop()


def fill(path: Path, chunk: int = 1 << 20) -> int:
    """Write until the disk is full; returns how many bytes the file has."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"f" * chunk)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return os.fstat(file.fileno()).st_size


def test_short_writes_are_recorded_as_they_were(full: GuardProcess) -> None:
    (full.tree / "kept").write_bytes(b"k" * 10_000)
    size = fill(full.tree / "big", (1 << 20) + 4321)
    assert (full.lower() / "big").stat().st_size == size
    with pytest.raises(OSError, match="No space"):
        (full.tree / "more").write_bytes(b"m" * (1 << 20))
    with (full.tree / "big").open("r+b") as file, pytest.raises(OSError, match="No space"):
        os.posix_fallocate(file.fileno(), size, 1 << 22)
    (full.tree / "kept").write_bytes(b"l" * 10_000)
    assert (full.tree / "kept").read_bytes() == b"l" * 10_000
    full.compare()


def test_removing_makes_room_at_once(full: GuardProcess) -> None:
    for _ in range(8):
        size = fill(full.tree / "big")
        assert size > DISK_MB << 19
        (full.tree / "big").unlink()
        (full.tree / "next").write_bytes(b"n" * (size - (1 << 20)))
        (full.tree / "next").unlink()


def test_the_room_of_a_removed_file_is_shown_soon(full: GuardProcess) -> None:
    before = os.statvfs(full.tree).f_bfree
    (full.tree / "big").write_bytes(b"b" * (8 << 20))
    assert os.statvfs(full.tree).f_bfree <= before - 2048
    (full.tree / "big").unlink()
    until = time.monotonic() + 5
    while os.statvfs(full.tree).f_bfree < before - 256:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_many_files_can_be_removed_from_a_full_disk(full: GuardProcess) -> None:
    """The orphan directory cannot grow any more when all of them are open."""
    held = []
    for number in range(700):
        held.append((full.tree / f"{number}{'n' * 200}").open("w+b"))
        held[-1].write(b"%d" % number)
        held[-1].flush()
    fill(full.tree / "big", 4096)
    for number in range(600):
        (full.tree / f"{number}{'n' * 200}").unlink()
    for number in range(600, 650):
        (full.tree / f"{number}{'n' * 200}").rename(full.tree / f"{number + 50}{'n' * 200}")
    for number in (*range(600), *range(650, 700)):
        held[number].seek(0)
        assert held[number].read() == b"%d" % number
        assert os.fstat(held[number].fileno()).st_nlink == 0
    for file in held:
        file.close()
    assert len(os.listdir(full.tree)) == 51
    full.compare()


def test_bits_that_a_failed_write_took_away_are_recorded(full: GuardProcess) -> None:
    path = full.tree / "program"
    path.touch()
    fill(full.tree / "big", 4096)
    path.chmod(0o6755)

    def work() -> int:
        give_up(FSETID)
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, b"x" * 100_000, 0)
        except OSError as error:
            return error.errno or 0
        return 0

    assert in_child(work) == errno.ENOSPC
    assert (full.lower() / "program").stat().st_mode & 0o7777 == 0o755
    assert path.stat().st_mode & 0o7777 == 0o755
    full.compare()


def test_attributes_of_64_kib(full: GuardProcess) -> None:
    path = full.tree / "file"
    path.touch()
    largest = os.urandom(65536)
    os.setxattr(path, "user.largest", largest)
    assert os.getxattr(path, "user.largest") == largest
    assert os.getxattr(full.lower() / "file", "user.largest") == largest
    with pytest.raises(OSError) as refused:
        os.setxattr(path, "user.larger", largest + b"x")
    assert refused.value.errno == errno.E2BIG
    for number in range(20):
        os.setxattr(path, f"user.{number:03}", b"")
    assert len(os.listxattr(path)) == 21
    time.sleep(0.1)
    recorded = [e.payload for e in entries(full.places.journal) if e.operation == SET_XATTR]
    assert largest in recorded and len(recorded) == 21


def test_what_the_lower_file_system_forbids_is_forbidden(full: GuardProcess) -> None:
    (full.tree / "program").write_bytes(Path("/bin/true").read_bytes())
    (full.tree / "program").chmod(0o4755)
    with pytest.raises(PermissionError):
        subprocess.run([full.tree / "program"], timeout=10)
    os.mknod(full.tree / "null", 0o20666, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        (full.tree / "null").open("rb")
    flags = os.statvfs(full.tree).f_flag
    assert flags & os.ST_NOSUID and flags & os.ST_NODEV and flags & os.ST_NOEXEC
