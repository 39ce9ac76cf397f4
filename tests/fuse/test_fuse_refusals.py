"""What is refused, or different from the lower file system, on purpose: see the page of operations.

Each refusal has the error with which programs fall back quietly.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import subprocess
from pathlib import Path

import pytest
from guarding import GuardProcess

from everup.system.kernelcalls import HandleCalls, allocate, rename
from everup.system.mounts import MNT_DETACH, bind_private, unmount

pytestmark = pytest.mark.fuse
AT = -100
WHITEOUT = 4
COLLAPSE, INSERT, UNSHARE = 8, 32, 64
GET_FLAGS, SET_FLAGS, CLONE = 0x80086601, 0x40086602, 0x40049409


def error_of(call: object, *arguments: object) -> int:
    with pytest.raises(OSError) as refused:
        call(*arguments)  # type: ignore[operator]
    return int(refused.value.errno or 0)


def test_flags_and_reflinks_are_refused_quietly(place: Path) -> None:
    """chattr says that it cannot; cp, tar and mv fall back without a word."""
    (place / "a").write_bytes(b"data" * 1000)
    with (place / "a").open("r+b") as a, (place / "b").open("w+b") as b:
        for request in (GET_FLAGS, SET_FLAGS):
            assert error_of(fcntl.ioctl, a, request, bytes(8)) in (
                errno.ENOTTY, errno.EOPNOTSUPP,
            )  # fmt: skip
        assert error_of(fcntl.ioctl, b, CLONE, a.fileno()) in (errno.EOPNOTSUPP, errno.EXDEV)
    for command in (
        ["cp", "-a", "--reflink=auto", "a", "c"], ["mv", "c", "d"], ["tar", "cf", "t.tar", "d"],
        ["tar", "xpf", "t.tar", "--xattrs", "--acls"], ["cp", "--sparse=always", "d", "e"],
        ["install", "-m", "644", "d", "f"], ["sort", "-o", "d", "d"],
    ):  # fmt: skip
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), command
    assert (place / "f").read_bytes() == b"data" * 1000


def test_rename_with_whiteout(place: Path) -> None:
    (place / "a").touch()
    old, new = os.fsencode(place / "a"), os.fsencode(place / "b")
    assert error_of(rename, AT, old, AT, new, WHITEOUT) == errno.EINVAL


def test_ranges_are_not_moved_inside_files(place: Path) -> None:
    with (place / "f").open("w+b") as file:
        file.write(bytes(65536))
        file.flush()
        for mode in (COLLAPSE, INSERT, UNSHARE):
            assert error_of(allocate, file.fileno(), mode, 4096, 4096) == errno.EOPNOTSUPP


def test_no_file_handles_are_given_out(shared: GuardProcess, place: Path) -> None:
    (place / "f").touch()
    number = error_of(HandleCalls().of, os.open(place, os.O_RDONLY), b"f")
    assert number in (errno.EOPNOTSUPP, errno.EOVERFLOW)


def test_direct_io_need_not_be_aligned(shared: GuardProcess, place: Path) -> None:
    """More than below: the guard writes through the page cache of the lower file system."""
    descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.pwrite(descriptor, b"odd", 5) == 3
    assert os.pwrite(descriptor, b"x" * 10_001, 777) == 10_001
    assert os.pread(descriptor, 3, 5) == b"odd"
    os.close(descriptor)
    below = shared.lower() / place.name / "f"
    assert below.read_bytes() == (place / "f").read_bytes()


def test_a_store_through_a_mapping_changes_the_time_at_its_sync(place: Path) -> None:
    (place / "f").write_bytes(bytes(8192))
    with (place / "f").open("r+b") as file, mmap.mmap(file.fileno(), 8192) as view:
        os.utime(place / "f", ns=(1, 1))
        view[5000] = 7
        view.flush()
        assert (place / "f").stat().st_mtime_ns > 1


def test_leases_are_the_kernels_own(place: Path) -> None:
    (place / "f").touch()
    descriptor = os.open(place / "f", os.O_RDONLY)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        assert fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
    except OSError as error:
        # Kernels from 6.19 on refuse leases on FUSE.
        assert error.errno == errno.EINVAL
    os.close(descriptor)


def test_locks_outlive_the_worker(guard: GuardProcess) -> None:
    path = guard.tree / "f"
    path.touch()
    one, two = path.open("r+b"), path.open("r+b")
    data = struct.pack("<hhxxxxqqixxxx", fcntl.F_WRLCK, 0, 0, 10, 0)
    ofd_set = 37
    fcntl.fcntl(one, ofd_set, data)
    fcntl.flock(one, fcntl.LOCK_EX)
    guard.kill_worker()
    guard.wait_served()
    assert error_of(fcntl.fcntl, two, ofd_set, data) == errno.EAGAIN
    assert error_of(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB) == errno.EAGAIN
    one.close()
    fcntl.fcntl(two, ofd_set, data)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    two.close()


def test_other_file_systems_mounted_inside_stay_apart(guard: GuardProcess, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "theirs").touch()
    inside = guard.tree / "inside"
    inside.mkdir()
    (guard.tree / "mine").touch()
    bind_private(other, inside)
    try:
        assert os.listdir(inside) == ["theirs"]
        assert error_of(os.rename, guard.tree / "mine", inside / "mine") == errno.EXDEV
        assert error_of(os.link, guard.tree / "mine", inside / "mine") == errno.EXDEV
        assert error_of(os.rmdir, inside) == errno.EBUSY
        (inside / "new").touch()
        assert os.listdir(guard.lower() / "inside") == []
    finally:
        unmount(inside, MNT_DETACH)
    inside.rmdir()
    assert error_of(os.link, guard.tree / "mine", guard.paths[1] / "mine") == errno.EXDEV
    guard.compare()


def test_owner_given_as_unchanged_by_root_keeps_set_id_bits(place: Path) -> None:
    """Below, even chown(-1, -1) clears them; the request cannot be told from one that must not."""
    (place / "f").touch()
    (place / "f").chmod(0o4755)
    os.chown(place / "f", -1, -1)
    assert (place / "f").stat().st_mode & 0o7777 == 0o4755


def test_syncfs_reaches_the_disk_by_itself(place: Path) -> None:
    """The kernel does not forward it: what it says is that the page cache was written."""
    assert ctypes.CDLL(None).syncfs(os.open(place, os.O_RDONLY)) == 0
