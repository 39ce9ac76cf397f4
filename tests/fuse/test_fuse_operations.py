"""Every operation through a real mount: what the application sees, and what the lower tree holds.

The last test replays the journal of all of them into an empty directory and compares.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from guarding import GuardProcess

from everup.system.kernelcalls import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    allocate,
    rename,
)

pytestmark = pytest.mark.fuse
AT = -100
NOBODY = 65534


def lower(shared: GuardProcess, path: Path) -> Path:
    return shared.lower() / path.relative_to(shared.tree)


def as_user(command: str, place: Path, *, uid: int = NOBODY, gid: int = NOBODY) -> int:
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=place, user=uid, group=gid, extra_groups=[],
        stderr=subprocess.DEVNULL, timeout=20,
    ).returncode  # fmt: skip


def test_write_read_append_truncate(shared: GuardProcess, place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"hello")
    with path.open("ab") as file:
        file.write(b" world")
    assert path.read_bytes() == b"hello world" == lower(shared, path).read_bytes()
    os.truncate(path, 3)
    assert path.read_bytes() == b"hel" == lower(shared, path).read_bytes()
    os.truncate(path, 5)
    assert path.read_bytes() == b"hel\0\0"
    path.write_bytes(b"x")
    assert path.stat().st_size == 1
    large = os.urandom(3 << 20)
    path.write_bytes(large)
    assert path.read_bytes() == large == lower(shared, path).read_bytes()


def test_open_flags(place: Path) -> None:
    path = place / "file"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400)
    os.write(descriptor, b"new read-only files can be written by their creator")
    os.close(descriptor)
    with pytest.raises(FileExistsError):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    with pytest.raises(NotADirectoryError):
        os.open(path, os.O_DIRECTORY)
    (place / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        os.open(place / "link", os.O_NOFOLLOW)


def test_appenders_do_not_overwrite_each_other(place: Path) -> None:
    path = place / "log"
    path.touch()

    def append(letter: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        for _ in range(200):
            os.write(descriptor, letter * 99 + b"\n")
        os.close(descriptor)

    threads = [threading.Thread(target=append, args=(bytes([65 + i]),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 800
    assert all(len(set(line)) == 1 and len(line) == 99 for line in lines)


def test_names_are_bytes(shared: GuardProcess, place: Path) -> None:
    base = os.fsencode(place)
    for name in (b"n" * 255, b"\xff\xfe not utf-8", b" ", b"\n"):
        (place / os.fsdecode(name)).write_bytes(name)
        assert name in os.listdir(base)
        assert name in os.listdir(os.fsencode(lower(shared, place)))
    with pytest.raises(OSError, match="too long"):
        os.mkdir(base + b"/" + b"n" * 256)


def test_rename_and_its_flags(place: Path) -> None:
    a, b = os.fsencode(place / "a"), os.fsencode(place / "b")
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        rename(AT, a, AT, b, RENAME_NOREPLACE)
    rename(AT, a, AT, b, RENAME_EXCHANGE)
    assert (place / "a").read_bytes() == b"b"
    rename(AT, a, AT, b, 0)
    assert (place / "b").read_bytes() == b"b" and not (place / "a").exists()
    with pytest.raises(OSError) as refused:
        rename(AT, b, AT, a, RENAME_WHITEOUT)
    assert refused.value.errno == errno.EINVAL
    rename(AT, b, AT, a, RENAME_NOREPLACE)
    with pytest.raises(FileNotFoundError):
        rename(AT, a, AT, b, RENAME_EXCHANGE)


def test_rename_of_directories(shared: GuardProcess, place: Path) -> None:
    (place / "one/two").mkdir(parents=True)
    (place / "one/two/file").write_bytes(b"1")
    (place / "empty").mkdir()
    (place / "full").mkdir()
    (place / "full/x").touch()
    with pytest.raises(OSError) as full:
        (place / "one").rename(place / "full")
    assert full.value.errno == errno.ENOTEMPTY
    with pytest.raises(OSError, match="Invalid"):
        (place / "one").rename(place / "one/two/three")
    descriptor = os.open(place / "one/two/file", os.O_RDWR)
    (place / "one").rename(place / "empty")
    os.pwrite(descriptor, b"2", 1)
    os.close(descriptor)
    assert (place / "empty/two/file").read_bytes() == b"12"
    rename(AT, os.fsencode(place / "empty"), AT, os.fsencode(place / "full"), RENAME_EXCHANGE)
    assert (place / "full/two/file").read_bytes() == b"12"
    assert (lower(shared, place) / "full/two/file").read_bytes() == b"12"


def test_rename_over_an_open_file(place: Path) -> None:
    (place / "new").write_bytes(b"new")
    (place / "old").write_bytes(b"old")
    with (place / "old").open("r+b") as held:
        (place / "new").rename(place / "old")
        assert held.read() == b"old"
        held.write(b" still")
        held.flush()
        held.seek(0)
        assert held.read() == b"old still"
        assert os.fstat(held.fileno()).st_nlink == 0
    assert (place / "old").read_bytes() == b"new"


def test_hard_links(place: Path) -> None:
    (place / "a").write_bytes(b"1")
    (place / "b").hardlink_to(place / "a")
    assert (place / "a").stat().st_nlink == 2 == (place / "b").stat().st_nlink
    assert (place / "a").stat().st_ino == (place / "b").stat().st_ino
    (place / "b").write_bytes(b"2")
    assert (place / "a").read_bytes() == b"2"
    (place / "a").unlink()
    assert (place / "b").stat().st_nlink == 1
    with pytest.raises(FileExistsError):
        (place / "b").hardlink_to(place / "b")
    (place / "s").symlink_to("b")
    os.link(place / "s", place / "s2", follow_symlinks=False)
    assert os.readlink(place / "s2") == "b"


def test_unlinked_but_open(shared: GuardProcess, place: Path) -> None:
    path = place / "directory" / "file"
    path.parent.mkdir()
    with path.open("w+b") as held:
        held.write(b"x" * 10000)
        held.flush()
        path.unlink()
        path.parent.rmdir()
        assert os.fstat(held.fileno()).st_nlink == 0
        held.write(b"y")
        held.flush()
        os.ftruncate(held.fileno(), 5)
        os.fchmod(held.fileno(), 0o600)
        os.fsync(held.fileno())
        held.seek(0)
        assert held.read() == b"xxxxx"
    orphans = shared.lower() / ".everup-orphans"
    for _ in range(100):
        if not os.listdir(orphans):
            return
        threading.Event().wait(0.02)
    raise AssertionError("an orphan was not removed")


def test_removed_working_directory_answers(place: Path) -> None:
    command = "mkdir d && cd d && rmdir ../d && ls && ! touch x 2>/dev/null"
    assert as_user(command, place, uid=0, gid=0) == 0


def test_unlink_rmdir_errors(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/f").touch()
    with pytest.raises(OSError) as full:
        (place / "d").rmdir()
    assert full.value.errno == errno.ENOTEMPTY
    with pytest.raises(IsADirectoryError):
        os.unlink(place / "d")
    with pytest.raises(NotADirectoryError):
        os.rmdir(place / "d/f")
    with pytest.raises(FileNotFoundError):
        os.unlink(place / "nothing")


def test_special_files(shared: GuardProcess, place: Path) -> None:
    os.mkfifo(place / "fifo", 0o644)
    os.mknod(place / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as channel:
        channel.bind(f"/proc/self/fd/{os.open(place, os.O_PATH)}/socket")
    (place / "long").symlink_to("x" * 4095)
    assert stat.S_ISFIFO((place / "fifo").stat().st_mode)
    assert (place / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISSOCK((place / "socket").stat().st_mode)
    assert os.readlink(place / "long") == "x" * 4095
    os.chown(place / "long", 1, 2, follow_symlinks=False)
    os.utime(place / "long", ns=(5, 7), follow_symlinks=False)
    status = os.lstat(lower(shared, place) / "long")
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (1, 2, 7)
    os.chmod(place / "fifo", 0o600)
    thread = threading.Thread(target=lambda: (place / "fifo").write_bytes(b"through"))
    thread.start()
    assert (place / "fifo").read_bytes() == b"through"
    thread.join()
    for name in ("fifo", "null", "socket", "long"):
        (place / name).unlink()
    os.mkfifo(place / "left")


def test_owner_mode_and_umask(shared: GuardProcess, place: Path) -> None:
    place.chmod(0o777)
    assert as_user("umask 027; echo x > f; mkdir d; ln -s f l; mkfifo p", place) == 0
    for name, mode in (("f", 0o640), ("d", 0o750), ("p", 0o640)):
        status = (lower(shared, place) / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (
            mode, NOBODY, NOBODY,
        )  # fmt: skip
    assert os.lstat(lower(shared, place) / "l").st_uid == NOBODY
    assert as_user("echo y > f", place, uid=1234, gid=1234) != 0
    assert as_user("chmod 777 f", place, uid=1234, gid=1234) != 0


def test_set_group_id_and_sticky_directories(shared: GuardProcess, place: Path) -> None:
    os.chown(place, 0, 777)
    place.chmod(0o3777)
    assert as_user("touch f; mkdir d", place) == 0
    below = lower(shared, place)
    assert (below / "f").stat().st_gid == 777
    status = (below / "d").stat()
    assert status.st_gid == 777 and status.st_mode & stat.S_ISGID
    assert as_user("rm -f f", place, uid=1234, gid=1234) != 0
    assert as_user("rm -f f", place) == 0


def test_set_id_bits_and_capabilities_are_cleared(shared: GuardProcess, place: Path) -> None:
    path = place / "program"
    path.write_bytes(b"x")
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o6755)
    assert as_user("echo y >> program", place) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert stat.S_IMODE(lower(shared, path).stat().st_mode) == 0o755
    path.chmod(0o6755)
    os.chown(path, 0, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    path.chmod(0o4755)
    with path.open("ab") as file:
        file.write(b"root keeps it")
    assert stat.S_IMODE(path.stat().st_mode) == 0o4755
    capability = bytes.fromhex("0100000202040000000000000000000000000000")
    os.setxattr(path, "security.capability", capability)
    with path.open("ab") as file:
        file.write(b"z")
    with pytest.raises(OSError):
        os.getxattr(path, "security.capability")
    assert "security.capability" not in os.listxattr(lower(shared, path))


def test_times(shared: GuardProcess, place: Path) -> None:
    path = place / "file"
    path.touch()
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    status = path.stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    os.utime(path, ns=(-5_000_000_001, -1))
    assert lower(shared, path).stat().st_mtime_ns == -1 == path.stat().st_mtime_ns
    before = place.stat().st_mtime_ns
    (place / "other").touch()
    assert place.stat().st_mtime_ns > before
    os.utime(path)
    assert path.stat().st_mtime_ns > before


def test_xattrs(shared: GuardProcess, place: Path) -> None:
    path = place / "file"
    path.touch()
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    with pytest.raises(OSError) as missing:
        os.setxattr(path, "user.b", b"2", os.XATTR_REPLACE)
    assert missing.value.errno == errno.ENODATA
    os.setxattr(path, "user.a", b"v" * 2000)
    assert os.getxattr(path, "user.a") == b"v" * 2000
    os.setxattr(path, "trusted.x", b"t")
    assert sorted(os.listxattr(path)) == ["trusted.x", "user.a"]
    assert "trusted.everup.id" in os.listxattr(lower(shared, path))
    for call in (
        lambda: os.getxattr(path, "trusted.everup.id"),
        lambda: os.setxattr(path, "trusted.everup.id", b"x"),
        lambda: os.removexattr(path, "user.none"),
    ):
        with pytest.raises(OSError):
            call()
    os.removexattr(path, "trusted.x")
    assert os.listxattr(path) == ["user.a"]


def test_default_access_list_is_inherited(shared: GuardProcess, place: Path) -> None:
    def acl(*entries: tuple[int, int, int]) -> bytes:
        head = (2).to_bytes(4, "little")
        undefined = 0xFFFFFFFF
        return head + b"".join(
            tag.to_bytes(2, "little") + permission.to_bytes(2, "little")
            + (identity if identity >= 0 else undefined).to_bytes(4, "little")
            for tag, permission, identity in entries
        )  # fmt: skip

    value = acl((1, 7, -1), (2, 6, 1234), (4, 5, -1), (16, 7, -1), (32, 0, -1))
    os.setxattr(place, "system.posix_acl_default", value)
    old = os.umask(0o077)
    try:
        (place / "file").touch(0o666)
        (place / "directory").mkdir()
    finally:
        os.umask(old)
    below = lower(shared, place)
    assert "system.posix_acl_access" in os.listxattr(below / "file")
    assert "system.posix_acl_default" in os.listxattr(below / "directory")
    assert stat.S_IMODE((place / "file").stat().st_mode) == 0o660
    assert as_user("echo x > file", place, uid=1234, gid=1234) == 0
    assert as_user("echo x > file", place, uid=1235, gid=1235) != 0


def test_sparse_files_and_fallocate(shared: GuardProcess, place: Path) -> None:
    path = place / "sparse"
    with path.open("w+b") as file:
        file.seek(8 << 20)
        file.write(b"end")
        file.flush()
        number = file.fileno()
        assert os.lseek(number, 0, os.SEEK_DATA) == 8 << 20
        assert os.lseek(number, 0, os.SEEK_HOLE) == 0
        assert path.stat().st_blocks < 100
        allocate(number, 0, 0, 1 << 20)
        assert path.stat().st_blocks >= 2048
        os.pwrite(number, b"x" * 65536, 0)
        allocate(number, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 4096, 8192)
        assert os.pread(number, 16384, 0) == b"x" * 4096 + b"\0" * 8192 + b"x" * 4096
        allocate(number, FALLOC_ZERO_RANGE, 0, 4096)
        assert os.pread(number, 4096, 0) == bytes(4096)
        allocate(number, FALLOC_KEEP_SIZE, 20 << 20, 4096)
        assert os.fstat(number).st_size == (8 << 20) + 3
        with pytest.raises(OSError):
            allocate(number, 8, 0, 4096)
    assert lower(shared, path).read_bytes() == path.read_bytes()


def test_copy_file_range(place: Path) -> None:
    data = os.urandom(2_500_000)
    (place / "a").write_bytes(data)
    with (place / "a").open("rb") as source, (place / "b").open("w+b") as target:
        left = len(data)
        while left:
            left -= os.copy_file_range(source.fileno(), target.fileno(), left)
    assert (place / "b").read_bytes() == data


def test_shared_mapping(shared: GuardProcess, place: Path) -> None:
    path = place / "mapped"
    path.write_bytes(bytes(16384))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 16384) as view:
        view[5000:5005] = b"store"
        view.flush()
        assert lower(shared, path).read_bytes()[5000:5005] == b"store"
        os.pwrite(file.fileno(), b"written", 100)
        assert view[100:107] == b"written"
    assert path.read_bytes()[5000:5005] == b"store"


def test_direct_io(shared: GuardProcess, place: Path) -> None:
    page = mmap.mmap(-1, 8192)
    page.write(os.urandom(8192))
    for extra in (0, os.O_DSYNC):
        descriptor = os.open(place / "direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT | extra)
        assert os.pwrite(descriptor, page, 4096) == 8192
        back = mmap.mmap(-1, 8192)
        assert os.preadv(descriptor, [back], 4096) == 8192
        assert back[:] == page[:]
        os.close(descriptor)
    assert lower(shared, place / "direct").read_bytes()[4096:] == page[:]


def test_sync_of_files_and_directories(place: Path) -> None:
    descriptor = os.open(place / "file", os.O_RDWR | os.O_CREAT | os.O_SYNC)
    os.write(descriptor, b"x")
    os.fsync(descriptor)
    os.fdatasync(descriptor)
    os.close(descriptor)
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    assert ctypes.CDLL(None).syncfs(os.open(place, os.O_RDONLY)) == 0


def test_locks_are_kept_by_the_kernel(place: Path) -> None:
    with (place / "lock").open("w") as one, (place / "lock").open("w") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(one, fcntl.LOCK_EX)
    assert as_user("flock -n lock true", place, uid=0, gid=0) == 0


def test_directories_with_many_entries(place: Path) -> None:
    names = {f"entry-{i:05d}" for i in range(3000)}
    for name in names:
        (place / name).touch()
    assert set(os.listdir(place)) == names
    with os.scandir(place) as entries:
        kinds = {entry.name: entry.is_file() for entry in entries}
    assert kinds == dict.fromkeys(names, True)
    for name in sorted(names)[::2]:
        (place / name).unlink()
    assert set(os.listdir(place)) == set(sorted(names)[1::2])


def test_statfs_and_inode_numbers(shared: GuardProcess, place: Path) -> None:
    assert os.statvfs(place).f_blocks == os.statvfs(shared.lower()).f_blocks
    (place / "f").touch()
    assert (place / "f").stat().st_ino == lower(shared, place / "f").stat().st_ino


def test_hidden_directory_cannot_be_reached(shared: GuardProcess) -> None:
    hidden = shared.tree / ".everup-orphans"
    assert ".everup-orphans" not in os.listdir(shared.tree)
    assert not hidden.exists()
    with pytest.raises(PermissionError):
        hidden.mkdir()


def test_ioctl_is_refused(place: Path) -> None:
    with (place / "f").open("w") as file, pytest.raises(OSError) as refused:
        fcntl.ioctl(file, 0x40086602, b"\0" * 8)
    assert refused.value.errno in (errno.ENOTTY, errno.EOPNOTSUPP)


def test_programs_run(place: Path) -> None:
    shutil.copy("/bin/true", place / "true")
    assert subprocess.run([place / "true"], timeout=10).returncode == 0


def test_zz_the_journal_of_all_this_gives_the_same_tree(shared: GuardProcess) -> None:
    shared.compare()
