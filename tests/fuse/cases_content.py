"""Cases of content: data, sizes, holes, copies, maps, direct I/O, syncs. See `differential`."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import subprocess
from pathlib import Path

from differential import USER, Log, become, in_child

from everup.system.kernelcalls import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    allocate,
)

_PAGE = 4096
_libc = ctypes.CDLL(None, use_errno=True)


def _file(name: str = "f", data: bytes = b"") -> int:
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    os.write(descriptor, data)
    return descriptor


def _all(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 24, 0)


def write_and_read(t: Log) -> None:
    f = _file()
    for offset, length in ((0, 1), (4095, 2), (4096, 4096), (100_000, 3), (131_071, 131_074)):
        t(os.pwrite, f, bytes([offset % 251]) * length, offset)
        t.stat(f)
    t(_all, f)
    t(os.pread, f, 100, 1 << 40)
    t(os.pwrite, f, b"", 1 << 30)
    t.stat(f)
    t(os.pwritev, f, [b"a" * 5000, b"b" * 70_000, b"c"], 333)
    t(os.pwrite, f, b"x" * (5 << 20), 777)
    t.stat(f)
    t(os.write, f, b"at the descriptor's own offset")
    t(os.lseek, f, -5, os.SEEK_END)
    t(os.read, f, 100)
    t(os.lseek, f, -1, os.SEEK_SET)
    t(os.pwrite, f, b"x", (1 << 63) - 1)
    t(os.pwrite, f, b"x", 1 << 44)
    os.ftruncate(f, 1 << 20)


def truncate_sizes(t: Log) -> None:
    f = _file(data=b"d" * 10_000)
    for size in (9_999, 5_000, 4_096, 4_095, 1, 0, 6_000, 1 << 33, 3):
        t(os.ftruncate, f, size)
        t.stat(f)
        t.note(os.pread(f, 8192, 0)[:50], os.fstat(f).st_size)
    t(os.ftruncate, f, -1)
    t(os.ftruncate, f, 1 << 60)
    t(os.truncate, "f", 77)
    t(os.truncate, "nothing", 0)
    t(os.truncate, "f/", 0)
    # What lay behind the end must not come back.
    os.pwrite(f, b"s" * 4096, 0)
    os.ftruncate(f, 10)
    os.ftruncate(f, 4096)
    t(_all, f)
    before = os.fstat(f).st_mtime_ns
    os.ftruncate(f, 4096)
    t.note(os.fstat(f).st_mtime_ns > before)


def append(t: Log) -> None:
    f = _file(data=b"start\n")
    one = os.open("f", os.O_WRONLY | os.O_APPEND)
    two = os.open("f", os.O_WRONLY | os.O_APPEND)
    t(os.write, one, b"one\n")
    t(os.write, two, b"two\n")
    t(os.pwrite, one, b"appended all the same\n", 0)
    t(os.ftruncate, f, 3)
    t(os.write, two, b"after\n")
    t(os.lseek, two, 0, os.SEEK_CUR)
    fcntl.fcntl(f, fcntl.F_SETFL, os.O_APPEND)
    t(os.write, f, b"set later\n")
    t(_all, f)


def holes(t: Log) -> None:
    f = _file()
    os.pwrite(f, b"d" * _PAGE, 1 << 20)
    os.pwrite(f, b"d" * _PAGE, 3 << 20)
    os.ftruncate(f, 5 << 20)
    os.fsync(f)
    for offset in (0, 1 << 20, (1 << 20) + 5, (1 << 20) + _PAGE, 3 << 20, 4 << 20, 5 << 20, -1):
        t(os.lseek, f, offset, os.SEEK_DATA)
        t(os.lseek, f, offset, os.SEEK_HOLE)
    t.note(os.fstat(f).st_blocks)
    t(os.lseek, f, 0, 17)


def fallocate_modes(t: Log) -> None:
    f = _file(data=b"d" * 20_000)
    for mode, offset, length in (
        (0, 0, 100_000), (FALLOC_KEEP_SIZE, 200_000, 50_000),
        (FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 4_096, 8_192),
        (FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 100, 50),
        (FALLOC_PUNCH_HOLE, 0, 10), (FALLOC_ZERO_RANGE, 16_000, 10),
        (FALLOC_ZERO_RANGE, 90_000, 40_000),
        (FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 120_000, 90_000),
        (0, 0, 0), (0, -1, 10), (0, 10, -1), (0, 1 << 62, 1 << 62), (1 << 10, 0, 10),
    ):  # fmt: skip
        t(allocate, f, mode, offset, length)
        t.stat(f)
        t(_all, f)
    t.note(os.fstat(f).st_blocks)
    t(allocate, os.open(".", os.O_RDONLY), 0, 0, 10)
    reader, writer = os.pipe()
    t(allocate, writer, 0, 0, 10)
    os.close(reader)


def copies(t: Log) -> None:
    data = bytes(range(256)) * 3000
    a, b = _file("a", data), _file("b")

    def copy(length: int, source: int, target: int) -> None:
        done = 0
        while done < length:
            count = os.copy_file_range(a, b, length - done, source + done, target + done)
            if not count:
                break
            done += count
        t.note(length, source, target, done)

    for length, source, target in (
        (len(data), 0, 0), (5000, 100, 4_000), (10, len(data), 0), (100, len(data) - 10, 0),
        (3 << 30, 0, 3 << 30), (1, 5, (5 << 30) + 1),
    ):  # fmt: skip
        copy(length, source, target)
        t.stat(b)
    t.note(os.pread(b, 3000, 3 << 30), os.pread(b, 10, 5 << 30))
    # Nobody shall read gigabytes of zeros when the trees are compared.
    os.ftruncate(b, 1 << 20)
    t(os.copy_file_range, a, a, 100, 0, 50)
    t(os.copy_file_range, a, a, 100, 0, 500)
    t(os.copy_file_range, a, os.open("b", os.O_RDONLY), 10)
    t(os.copy_file_range, a, os.open("b", os.O_WRONLY | os.O_APPEND), 10)
    t(os.copy_file_range, os.open(".", os.O_RDONLY), b, 10)
    t(os.sendfile, b, a, 1000, 4096)
    reader, writer = os.pipe()
    t(os.splice, a, writer, 3000, offset_src=77)
    t(os.splice, reader, b, 3000, offset_dst=9)
    t.note(os.pread(b, 8192, 0))


def copy_sees_what_was_written(t: Log) -> None:
    a, b = _file("a", b"1" * 10_000), _file("b")
    with mmap.mmap(a, 10_000) as mapped:
        mapped[5_000:5_005] = b"mmap!"
        os.pwrite(a, b"write", 9_000)
        done = 0
        while done < 10_000:
            done += os.copy_file_range(a, b, 10_000 - done, done, done)
    t(_all, b)


def shared_mapping(t: Log) -> None:
    f = _file(data=bytes(5 * _PAGE))
    with mmap.mmap(f, 5 * _PAGE) as one, mmap.mmap(f, 5 * _PAGE) as two:
        one[10:15] = b"store"
        t.note(two[10:15], os.pread(f, 5, 10))
        os.pwrite(f, b"write", 20)
        t.note(one[20:25])
        os.utime(f, ns=(1, 1))
        one[_PAGE] = 7
        one.flush(_PAGE, _PAGE)
        one[2 * _PAGE : 2 * _PAGE + 4] = b"sync"
        os.fsync(f)
        direct = os.open("f", os.O_RDONLY | os.O_DIRECT)
        page = mmap.mmap(-1, _PAGE)
        os.preadv(direct, [page], 2 * _PAGE)
        t.note(page[:4])
        os.ftruncate(f, 2 * _PAGE)
        t.note(one[10:15])
        t.note(in_child(lambda: _bus_error(one, 3 * _PAGE)))
        os.ftruncate(f, 5 * _PAGE)
        t.note(one[2 * _PAGE : 2 * _PAGE + 4])
    t(_all, f)
    t(mmap.mmap, os.open("f", os.O_RDONLY), _PAGE, mmap.MAP_SHARED, mmap.PROT_WRITE)


def _bus_error(mapped: mmap.mmap, offset: int) -> str:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        mapped[offset]
        os._exit(0)
    return signal.Signals(os.WTERMSIG(os.waitpid(child, 0)[1])).name


def private_mapping(t: Log) -> None:
    f = _file(data=b"p" * 3 * _PAGE)
    with mmap.mmap(f, 3 * _PAGE, flags=mmap.MAP_PRIVATE) as mapped:
        mapped[0:4] = b"mine"
        t.note(os.pread(f, 4, 0), mapped[0:4])
        os.pwrite(f, b"new", _PAGE)
        t.note(mapped[_PAGE : _PAGE + 3])
    t(_all, f)


def map_beyond_the_end(t: Log) -> None:
    f = _file(data=b"x" * 100)
    mapped = mmap.mmap(f, 100)
    mapped[99] = 65
    mapped.flush()
    mapped.close()
    t.stat(f)
    os.ftruncate(f, 200)
    t(_all, f)


def mixed_direct_and_buffered(t: Log) -> None:
    f = _file(data=b"b" * 16 * _PAGE)
    direct = os.open("f", os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, _PAGE)
    page.write(b"D" * _PAGE)
    with mmap.mmap(f, 16 * _PAGE) as mapped:
        for number in range(8):
            os.pwrite(f, bytes([number]) * 5000, number * _PAGE + 100)
            t(os.pwrite, direct, page, (number + 3) * _PAGE)
            mapped[(number + 4) * _PAGE + 7] = 255
            t.note(os.pread(f, 2 * _PAGE, (number + 3) * _PAGE))
            back = mmap.mmap(-1, _PAGE)
            t(os.preadv, direct, [back], (number + 4) * _PAGE)
            t.note(back[:])
        t.note(mapped[:])
    t(os.pwrite, direct, page, 40 * _PAGE)
    t.stat(f)
    t(_all, f)


def syncs(t: Log) -> None:
    f = os.open("f", os.O_RDWR | os.O_CREAT | os.O_SYNC)
    t(os.write, f, b"1")
    g = os.open("g", os.O_RDWR | os.O_CREAT | os.O_DSYNC | os.O_APPEND)
    t(os.write, g, b"2")
    os.mkdir("d")
    os.mkfifo("p")
    for descriptor in (f, g, os.open("d", os.O_RDONLY), os.open(".", os.O_RDONLY)):
        t(os.fsync, descriptor)
        t(os.fdatasync, descriptor)
        t.note(_libc.syncfs(descriptor))
        t.note(_libc.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), 7) == 0)
    t(os.fsync, os.open("p", os.O_RDWR))
    t(os.posix_fadvise, f, 0, 0, os.POSIX_FADV_DONTNEED)
    t(os.read, os.open("f", os.O_RDONLY), 10)


def size_limit(t: Log) -> None:
    f = _file(data=b"x" * 1000)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    t(os.pwrite, f, b"y" * 5000, 8_000)
    t.stat(f)
    t(os.pwrite, f, b"y", 10_000)
    t(os.pwrite, f, b"y", 20_000)
    t(os.ftruncate, f, 10_001)
    t(os.ftruncate, f, 9_999)
    t(allocate, f, 0, 5_000, 10_000)
    t(os.write, os.open("f", os.O_WRONLY | os.O_APPEND), b"z" * 100)
    t.stat(f)
    a = _file("a", b"a" * 10_000)
    t(os.copy_file_range, a, f, 5_000, 0, 9_000)
    t(os.copy_file_range, a, f, 5_000, 0, 10_000)
    t.stat(f)


def sizes_too_large(t: Log) -> None:
    f = _file()
    # The largest file of the file system, which the mount itself does not know.
    for size in ((1 << 44) - 4096, 1 << 44, 1 << 50, (1 << 63) - 1):
        t(os.ftruncate, f, size)
        t(os.pwrite, f, b"x", size)
        t(allocate, f, FALLOC_KEEP_SIZE, size, 1)
    t.note(errno.EFBIG)
    os.ftruncate(f, 0)


def executed_files(t: Log) -> None:
    program = _file("sleep", Path("/bin/sleep").read_bytes())
    os.fchmod(program, 0o755)
    os.close(program)
    running = subprocess.Popen(["./sleep", "30"])
    t(os.open, "sleep", os.O_WRONLY)
    t(os.truncate, "sleep", 0)
    t(os.rename, "sleep", "moved")
    running.kill()
    running.wait()
    t(os.open, "moved", os.O_WRONLY)
    writer = os.open("moved", os.O_WRONLY)
    try:
        subprocess.Popen(["./moved", "0"]).wait()
        t.note("ran")
    except OSError as error:
        t.note(errno.errorcode[error.errno or 0])
    os.close(writer)
    os.chmod("moved", 0o644)
    try:
        subprocess.Popen(["./moved", "0"]).wait()
    except OSError as error:
        t.note(errno.errorcode[error.errno or 0])


def owners_write(t: Log) -> None:
    f = _file(data=b"root")
    os.fchmod(f, 0o666)
    os.close(f)
    become()
    f = os.open("f", os.O_RDWR)
    t(os.write, f, b"user")
    t(os.fchmod, f, 0o600)
    t(os.fchown, f, USER, USER)
    t(os.ftruncate, f, 2)
    t(os.setxattr, f, "user.k", b"v")
    t(os.setxattr, f, "trusted.k", b"v")
    t(os.utime, f, ns=(1, 2))
    t(os.utime, f)
    t.stat(f)
