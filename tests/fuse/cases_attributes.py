"""Cases of attributes: times, owners, set-id bits, extended attributes, access lists, locks."""

import ctypes
import fcntl
import os
import stat
import struct
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from differential import GROUP, OTHER, USER, Log, as_user, become, in_child, name_again

from everup.system.capabilities import give_up
from everup.system.kernelcalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, allocate

_CAPABILITY = bytes.fromhex("0100000202040000000000000000000000000000")
_FSETID = 4
_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_libc = ctypes.CDLL(None, use_errno=True)
_S = 1_000_000_000


def _file(name: str = "f", mode: int = 0o644, data: bytes = b"data") -> int:
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, data)
    os.fchmod(descriptor, mode)
    return descriptor


def _utimensat(name: bytes, access: tuple[int, int], modified: tuple[int, int]) -> None:
    times = struct.pack("<qqqq", *access, *modified)
    if _libc.utimensat(-100, ctypes.c_char_p(name), ctypes.c_char_p(times), 0x100) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _xattrs(name: str) -> list[str]:
    return sorted(os.listxattr(name))


def _times(t: Log, name: str) -> None:
    """Times that were set are noted as they are, others as `now`."""
    status = os.lstat(name)
    t.note(
        *(
            "now" if 1_700_000_000 * _S < value < 4_000_000_000 * _S else value
            for value in (status.st_atime_ns, status.st_mtime_ns)
        )
    )


def times(t: Log) -> None:
    os.close(_file())
    os.mkdir("d")
    os.symlink("x", "s")
    for name in ("f", "d", "s"):
        for access, modified in (
            ((1, 1), (2, 2)), ((0, _OMIT), (3, 999_999_999)), ((4, 4), (0, _OMIT)),
            ((0, _NOW), (5, 5)), ((6, 6), (0, _NOW)), ((0, _OMIT), (0, _OMIT)),
            ((0, _NOW), (0, _NOW)), ((-5, 7), (-1, 999_999_999)), ((0, 0), (0, 0)),
            ((1, _S), (1, 1)), ((1 << 33, 5), (1 << 33, 6)), ((1 << 40, 5), (1 << 40, 6)),
            ((-(1 << 40), 5), (-(1 << 40), 6)),
        ):  # fmt: skip
            t(_utimensat, name.encode(), access, modified)
            _times(t, name)
        # A journal's times end in 2262: the trees would differ from here on.
        os.utime(name, ns=(7, 8), follow_symlinks=False)
    t(os.utime, "nothing")


def times_change_with_content(t: Log) -> None:
    f = _file()
    os.mkdir("d")

    def changed(what: str, name: str) -> None:
        status = os.stat(name)
        t.note(what, status.st_mtime_ns > 1, os.utime(name, ns=(1, 1)))

    changed("start", "f")
    changed("start", "d")
    os.pwrite(f, b"x", 0)
    changed("write", "f")
    os.ftruncate(f, 1)
    changed("truncate", "f")
    os.ftruncate(f, 1)
    changed("same size", "f")
    allocate(f, FALLOC_KEEP_SIZE, 0, 8192)
    changed("allocate", "f")
    allocate(f, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, 0, 4096)
    changed("punch", "f")
    os.chmod("f", 0o600)
    changed("mode", "f")
    os.setxattr("f", "user.k", b"v")
    changed("xattr", "f")
    os.link("f", "d/l")
    changed("link", "f")
    changed("link into", "d")
    os.rename("d/l", "d/m")
    changed("rename", "d")
    os.chmod("d/m", 0o600)
    changed("mode inside", "d")
    os.unlink("d/m")
    changed("unlink", "d")
    os.rename("d", "e")
    changed("renamed", "e")


def change_time_moves(t: Log) -> None:
    f = _file()
    os.mkdir("d")
    last = [os.fstat(f).st_ctime_ns]

    def moved(what: str) -> None:
        now = os.fstat(f).st_ctime_ns
        t.note(what, now > last[0])
        last[0] = now

    for what, change in (
        ("chmod", lambda: os.chmod("f", 0o600)), ("chown", lambda: os.chown("f", 1, 1)),
        ("link", lambda: os.link("f", "d/l")), ("unlink", lambda: os.unlink("d/l")),
        ("rename", lambda: os.rename("f", "d/f")), ("write", lambda: os.pwrite(f, b"y", 0)),
        ("xattr", lambda: os.setxattr(f, "user.a", b"")), ("utime", lambda: os.utime(f)),
        ("truncate", lambda: os.ftruncate(f, 3)), ("read", lambda: os.pread(f, 1, 0)),
        ("remove", lambda: os.removexattr(f, "user.a")),
    ):  # fmt: skip
        time.sleep(0.008)
        change()
        moved(what)


def chown_and_chmod(t: Log) -> None:
    os.close(_file("f", 0o6755))
    os.mkdir("d")
    os.chmod("d", 0o7777)
    for name in ("f", "d"):
        os.chmod(name, 0o6755)
        t(os.chown, name, 1, 2)
        t.stat(name)
        t(os.chown, name, -1, 3)
        t(os.chown, name, 4, -1)
        t.stat(name)
    os.chmod("f", 0o6711)
    t(os.chown, "f", 5, 5)
    t.stat("f")
    os.chmod("f", 0o2644)
    t(os.chown, "f", 6, 6)
    t.stat("f")
    os.chown("f", USER, OTHER)
    os.chown("d", USER, OTHER)
    become()
    t(os.chmod, "f", 0o2755)
    t.stat("f")
    t(os.chmod, "d", 0o2755)
    t.stat("d")
    t(os.chown, "f", -1, GROUP)
    t(os.chmod, "f", 0o6755)
    t.stat("f")
    t(os.chown, "f", -1, USER)
    t.stat("f")
    t(os.chown, "f", -1, OTHER)
    t(os.chown, "f", 0, -1)


def set_id_bits_are_cleared(t: Log) -> None:
    for mode in (0o6777, 0o2676):
        for name, change in (
            ("write", lambda f: os.pwrite(f, b"x", 0)),
            ("truncate", lambda f: os.ftruncate(f, 2)),
            ("allocate", lambda f: allocate(f, 0, 0, 10_000)),
            ("punch", lambda f: allocate(f, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, 0, 1)),
            ("copy", lambda f: os.copy_file_range(os.open("source", os.O_RDONLY), f, 4, 0, 0)),
            ("open", lambda f: os.open(f"/proc/self/fd/{f}", os.O_WRONLY | os.O_TRUNC)),
            ("chown", lambda f: os.fchown(f, -1, GROUP)),
        ):
            for uid in (0, USER):
                path = f"{name}-{mode:o}-{uid}"
                os.close(_file("source"))
                os.close(_file(path, mode))
                os.chown(path, uid, uid)
                os.chmod(path, mode)
                os.setxattr(path, "security.capability", _CAPABILITY)

                def work(path: str = path, change: Callable[[int], object] = change) -> None:
                    change(os.open(path, os.O_RDWR))

                t.note(name, as_user(work, uid, uid, (GROUP,) if uid else ()))
                t.stat(path)
                t(os.listxattr, path)


def suid_is_not_run_from_the_cache(t: Log) -> None:
    """After a write by somebody else the next execution must not use the old bits.

    Nor after one by a root that may not keep them, of which the kernel tells only with the write.
    """

    def user_of(program: str) -> object:
        become()
        return subprocess.run([program, "-u"], capture_output=True, text=True).stdout

    def touch(program: str) -> None:
        f = os.open(program, os.O_RDWR)
        os.pwrite(f, os.pread(f, 1, 0), 0)

    def touch_as_lesser_root(program: str) -> None:
        give_up(_FSETID)
        touch(program)

    for program in ("./one", "./other"):
        os.close(_file(program, 0o4777, Path("/usr/bin/id").read_bytes()))
        os.chmod(program, 0o4777)
        t.note(in_child(partial(user_of, program)))
        if program == "./one":
            t.note(as_user(partial(touch, program)))
        else:
            t.note(in_child(partial(touch_as_lesser_root, program)))
        t.note(in_child(partial(user_of, program)))


def xattrs(t: Log) -> None:
    f = _file()
    os.mkdir("d")
    for name in ("f", "d"):
        t(os.setxattr, name, "user.a", b"1", os.XATTR_CREATE)
        t(os.setxattr, name, "user.a", b"1", os.XATTR_CREATE)
        t(os.setxattr, name, "user.b", b"2", os.XATTR_REPLACE)
        t(os.setxattr, name, "user.a", b"22", os.XATTR_REPLACE)
        t(os.getxattr, name, "user.a")
        t(os.getxattr, name, "user.none")
        t(os.setxattr, name, "user.empty", b"")
        t(os.getxattr, name, "user.empty")
        t(os.removexattr, name, "user.none")
        t(os.setxattr, name, "user." + "n" * 250, b"long")
        t(os.setxattr, name, "user." + "n" * 251, b"too long")
        t(os.setxattr, name, "user.", b"x")
        t(os.setxattr, name, "nothing.x", b"x")
        t(os.getxattr, name, "plain")
        t(os.setxattr, name, "security.x", b"label")
        t(os.setxattr, name, "trusted.t", b"t")
        t(os.setxattr, name, "system.other", b"t")
        t(os.setxattr, name, "user.two", b"v" * 2000)
        t(os.setxattr, name, "user.big", b"v" * 65536)
        t(os.setxattr, name, "user.bigger", b"v" * 65537)
        t(_xattrs, name)
        t(os.removexattr, name, "user.a")
        t(_xattrs, name)
    buffer = ctypes.create_string_buffer(4000)
    for call, name in ((_libc.fgetxattr, b"user.two"), (_libc.flistxattr, None)):
        for size in (0, 1, 1999, 2000, 4000):
            arguments = (name, buffer, size) if name else (buffer, size)
            t.note(size, call(f, *arguments), ctypes.get_errno())
            ctypes.set_errno(0)
    os.symlink("f", "s")
    t(os.setxattr, "s", "user.x", b"x", follow_symlinks=False)
    t(os.setxattr, "s", "trusted.x", b"x", follow_symlinks=False)
    t(os.listxattr, "s", follow_symlinks=False)


def xattrs_of_users(t: Log) -> None:
    os.close(_file("f", 0o644))
    os.setxattr("f", "trusted.secret", b"x")
    os.setxattr("f", "user.open", b"x")
    os.setxattr("f", "security.label", b"x")
    os.close(_file("closed", 0o600))
    os.setxattr("closed", "user.k", b"x")
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    become()
    t(_xattrs, "f")
    t(os.getxattr, "f", "trusted.secret")
    t(os.getxattr, "f", "user.open")
    t(os.setxattr, "f", "user.open", b"y")
    t(os.setxattr, "f", "security.label", b"y")
    t(os.removexattr, "f", "user.open")
    t(os.getxattr, "closed", "user.k")
    t(_xattrs, "closed")
    t(os.setxattr, "sticky", "user.k", b"v")


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """Of (tag, permission, identity): 1 owner, 2 user, 4 group, 8 named, 16 mask, 32 other."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permission, identity & 0xFFFFFFFF)
        for tag, permission, identity in entries
    )


def access_lists(t: Log) -> None:
    os.close(_file("f", 0o640))
    full = _acl((1, 6, -1), (2, 6, USER), (4, 4, -1), (8, 2, GROUP), (16, 6, -1), (32, 0, -1))
    t(os.setxattr, "f", _ACCESS, full)
    t.stat("f")
    t(os.getxattr, "f", _ACCESS)
    t(_xattrs, "f")
    t(os.chmod, "f", 0o604)
    t.stat("f")
    t(os.getxattr, "f", _ACCESS)
    t(os.chmod, "f", 0o664)
    for uid, groups in ((USER, ()), (OTHER, (GROUP,)), (OTHER, ())):
        for how in (os.R_OK, os.W_OK):
            may = partial(os.access, "f", how)
            t.note(uid, groups, how, as_user(may, uid, uid, groups))
    t(os.setxattr, "f", _ACCESS, _acl((1, 7, -1), (4, 5, -1), (32, 1, -1)))
    t.stat("f")
    t(_xattrs, "f")
    t(os.removexattr, "f", _ACCESS)
    t(os.removexattr, "f", _ACCESS)
    t(os.setxattr, "f", _ACCESS, b"nonsense")
    t(os.setxattr, "f", _ACCESS, _acl((1, 7, -1)))
    t(os.setxattr, "f", _DEFAULT, full)
    t(os.getxattr, "f", _DEFAULT)
    os.chown("f", USER, OTHER)
    os.chmod("f", 0o2770)
    t.note(as_user(lambda: os.setxattr("f", _ACCESS, full), USER, USER, ()))
    t.stat("f")
    t.note(as_user(lambda: os.setxattr("f", _ACCESS, full), OTHER, OTHER, ()))


def default_access_lists(t: Log) -> None:
    os.mkdir("d")
    os.chmod("d", 0o777)
    value = _acl((1, 7, -1), (2, 6, OTHER), (4, 5, -1), (16, 7, -1), (32, 0, -1))
    t(os.setxattr, "d", _DEFAULT, value)

    def fill() -> None:
        os.umask(0o077)
        os.close(os.open("d/f", os.O_CREAT | os.O_WRONLY, 0o666))
        os.close(os.open("d/suid", os.O_CREAT | os.O_WRONLY, 0o6755))
        os.mkdir("d/e", 0o777)
        os.mkdir("d/e/deeper", 0o700)
        os.mkfifo("d/p", 0o666)
        os.symlink("x", "d/s")
        held = os.open("d", os.O_TMPFILE | os.O_RDWR, 0o666)
        name_again(held, "d/t")

    t.note(as_user(fill))
    for name in ("d", "d/f", "d/suid", "d/e", "d/e/deeper", "d/p", "d/s", "d/t"):
        t.stat(name)
        for key in (_ACCESS, _DEFAULT):
            t(os.getxattr, name, key, follow_symlinks=False)
    t.note(as_user(lambda: os.access("d/f", os.W_OK), OTHER, OTHER, ()))
    t(os.setxattr, "d", _DEFAULT, _acl((1, 7, -1), (4, 5, -1), (32, 5, -1)))
    os.close(os.open("d/plain", os.O_CREAT | os.O_WRONLY, 0o666))
    t.stat("d/plain")
    t(os.removexattr, "d", _DEFAULT)
    t(os.removexattr, "d", _DEFAULT)
    os.umask(0o077)
    os.close(os.open("d/g", os.O_CREAT | os.O_WRONLY, 0o666))
    t.stat("d/g")
    t(os.rename, "d/e/deeper", "out")
    t(os.getxattr, "out", _DEFAULT)


def locks(t: Log) -> None:
    one = _file()
    two = os.open("f", os.O_RDWR)

    def lock(descriptor: int, kind: int, start: int, length: int, command: int) -> str:
        data = struct.pack("<hhxxxxqqixxxx", kind, 0, start, length, 0)
        try:
            fcntl.fcntl(descriptor, command, data)
        except OSError as error:
            return str(error.errno)
        return "held"

    ofd_set, ofd_get = 37, 36
    t.note(lock(one, fcntl.F_WRLCK, 0, 10, ofd_set))
    t.note(lock(two, fcntl.F_WRLCK, 5, 10, ofd_set))
    t.note(lock(two, fcntl.F_WRLCK, 10, 10, ofd_set))
    t.note(lock(two, fcntl.F_RDLCK, 0, 1, ofd_set), ofd_get)
    t(fcntl.flock, one, fcntl.LOCK_EX)
    t(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    t(fcntl.flock, one, fcntl.LOCK_SH)
    t(fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    t(fcntl.lockf, one, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 1000)

    def other() -> list[str]:
        mine = os.open("f", os.O_RDWR)
        return [lock(mine, fcntl.F_WRLCK, start, 1, fcntl.F_SETLK) for start in (0, 50, 1050)]

    t.note(in_child(other))
    # Closing any descriptor of a file drops its process locks.
    os.close(os.open("f", os.O_RDONLY))
    t.note(in_child(other))


def statx_fields(t: Log) -> None:
    os.close(_file("f", 0o644, b"x" * 5000))
    os.mkdir("d")
    for name in (b"f", b"d"):
        buffer = ctypes.create_string_buffer(256)
        everything = 0xFFF
        t.note(_libc.statx(-100, name, 0x100, everything, buffer))
        mask, _, _, links, uid, gid, mode = struct.unpack_from("<IIQIIIH", buffer)
        birth, birth_ns = struct.unpack_from("<qI", buffer, 80)
        t.note(bool(mask & 0x800), links, uid, gid, oct(mode), birth > 1_700_000_000)
        changed, changed_ns = struct.unpack_from("<qI", buffer, 96)
        t.note((birth, birth_ns) <= (changed, changed_ns))
    t.note(stat.S_ISDIR(os.stat("d").st_mode))
