"""Cases of creation: kinds, modes, owners, directories with bits, files without a name."""

import os
import socket
import stat

from differential import GROUP, OTHER, USER, Log, as_user, become, name_again


def _write(path: str | bytes, data: bytes = b"x") -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, data)
    os.close(descriptor)


def special_files(t: Log) -> None:
    os.umask(0)
    for name, kind, device in (
        ("c", stat.S_IFCHR, os.makedev(1, 3)), ("b", stat.S_IFBLK, os.makedev(255, 1048575)),
        ("w", stat.S_IFCHR, 0), ("p", stat.S_IFIFO, 0), ("s", stat.S_IFSOCK, 0),
        ("r", stat.S_IFREG, 0), ("d", stat.S_IFDIR, 0),
    ):  # fmt: skip
        t(os.mknod, name, kind | 0o640, device)
        if os.path.lexists(name):
            t.stat(name)
            t(os.chmod, name, 0o600)
            t(os.chown, name, 7, 8)
            t(os.utime, name, ns=(9, 10))
            t.note(os.lstat(name).st_mtime_ns)
    with socket.socket(socket.AF_UNIX) as channel:
        t(channel.bind, "listening")
        channel.listen()
        with socket.socket(socket.AF_UNIX) as other:
            t(other.connect, "listening")
            t(other.connect, "s")
    t(os.open, "c", os.O_RDWR)
    t(os.open, "p", os.O_WRONLY | os.O_NONBLOCK)
    t(os.open, "s", os.O_RDONLY)
    t(os.setxattr, "p", "user.k", b"v")
    t(os.setxattr, "p", "trusted.k", b"v")
    t(os.truncate, "p", 0)
    t(os.rename, "p", "q")
    t(os.unlink, "q")
    t(os.unlink, "c")
    os.chmod(".", 0o777)
    become()
    t(os.mkfifo, "mine")
    t(os.mknod, "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    t(os.mknod, "white", stat.S_IFCHR | 0o600, 0)


def modes_and_umask(t: Log) -> None:
    os.chmod(".", 0o777)
    become()
    for mask in (0, 0o022, 0o077, 0o777):
        os.umask(mask)
        t(os.mkdir, f"d{mask}", 0o7777)
        t(os.open, f"f{mask}", os.O_CREAT | os.O_WRONLY, 0o7777)
        t(os.mkfifo, f"p{mask}", 0o666)
        t(os.symlink, "x", f"s{mask}")
        for kind in "dfps":
            t.stat(f"{kind}{mask}")


def permissions(t: Log) -> None:
    os.mkdir("no-search", 0o600)
    os.mkdir("no-read", 0o711)
    os.mkdir("no-write", 0o755)
    for name in ("no-search/f", "no-read/f", "no-write/f"):
        _write(name)
    _write("secret")
    os.chmod("secret", 0o600)
    _write("group")
    os.chown("group", 0, GROUP)
    os.chmod("group", 0o060)
    for mode in (0o4, 0o2, 0o1):
        _write(f"m{mode}")
        os.chmod(f"m{mode}", mode)
    become()
    for name in ("no-search/f", "no-read/f", "secret", "group", "m1", "m2", "m4"):
        for how in (os.R_OK, os.W_OK, os.X_OK):
            t(os.access, name, how)
        t(os.open, name, os.O_RDONLY)
        t(os.open, name, os.O_WRONLY)
        t(os.open, name, os.O_RDONLY | os.O_TRUNC)
    t(os.listdir, "no-read")
    t(os.listdir, "no-search")
    t(os.mkdir, "no-write/d")
    t(os.open, "no-write/f2", os.O_CREAT)
    t(os.chmod, "secret", 0o777)
    t(os.chown, "secret", USER, USER)
    t(os.truncate, "secret", 0)
    t(os.utime, "secret")
    t(os.utime, "m2")
    t(os.utime, "m2", ns=(1, 1))


def set_group_id_directories(t: Log) -> None:
    for name, group in (("theirs", OTHER), ("ours", GROUP)):
        os.mkdir(name)
        os.chown(name, 0, group)
        os.chmod(name, 0o2777)

    def fill() -> list[object]:
        os.umask(0)
        for name in ("theirs", "ours"):
            os.mkdir(f"{name}/d", 0o2770)
            os.mkdir(f"{name}/d/e")
            os.close(os.open(f"{name}/f", os.O_CREAT | os.O_WRONLY, 0o2770))
            os.close(os.open(f"{name}/g", os.O_CREAT | os.O_WRONLY, 0o2760))
            os.mkfifo(f"{name}/p", 0o2770)
            os.symlink("x", f"{name}/s")
            os.chmod(f"{name}/g", 0o2770)
        return []

    t.note(as_user(fill))
    for name in ("theirs", "ours"):
        for inside in ("d", "d/e", "f", "g", "p", "s"):
            t.stat(f"{name}/{inside}")


def sticky_directories(t: Log) -> None:
    os.mkdir("tmp")
    os.chmod("tmp", 0o1777)
    as_user(lambda: _write("tmp/f"))
    as_user(lambda: os.mkdir("tmp/d"))
    for uid in (OTHER, USER):
        t.note(as_user(lambda: os.rename("tmp/f", "tmp/g"), uid, uid))
        t.note(as_user(lambda: os.unlink("tmp/g"), uid, uid))
        t.note(as_user(lambda: os.rmdir("tmp/d"), uid, uid))


def nameless_files(t: Log) -> None:
    held = t(os.open, ".", os.O_TMPFILE | os.O_RDWR, 0o640)
    t.stat(held)
    t(os.write, held, b"content")
    t(os.ftruncate, held, 1 << 20)
    t(os.pwrite, held, b"tail", 900_000)
    t(os.setxattr, held, "user.k", b"v")
    t(os.fchown, held, 11, 12)
    t(os.fchmod, held, 0o604)
    t(os.utime, held, ns=(21, 22))
    t(os.listdir, ".")
    t(name_again, held, "named")
    t.stat(held)
    t.stat("named")
    t.note(os.stat("named").st_mtime_ns)
    t(os.pwrite, held, b"after", 100)
    t(os.link, "named", "second")
    t(os.unlink, "named")
    t.stat(held)
    t(os.unlink, "second")
    t.stat(held)
    t(name_again, held, "third")
    lonely = t(os.open, ".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    t(os.write, lonely, b"never")
    t(name_again, lonely, "fourth")
    t(os.open, ".", os.O_TMPFILE | os.O_RDONLY)
    t(os.open, "nowhere", os.O_TMPFILE | os.O_RDWR)
    kept = t(os.open, ".", os.O_TMPFILE | os.O_WRONLY, 0o600)
    os.write(kept, b"kept" * 1000)
    t(name_again, kept, "kept")
    t(name_again, kept, "kept2")
    t(name_again, kept, "kept2")
    over = t(os.open, ".", os.O_TMPFILE | os.O_WRONLY, 0o600)
    t(name_again, over, "kept")
    t.stat(over)
    t(os.fsync, over)


def nameless_files_of_users(t: Log) -> None:
    os.mkdir("shared")
    os.chown("shared", 0, OTHER)
    os.chmod("shared", 0o2777)

    def make() -> tuple[str, int, int]:
        os.umask(0o027)
        held = os.open("shared", os.O_TMPFILE | os.O_RDWR, 0o666)
        os.write(held, b"mine")
        name_again(held, "shared/f")
        status = os.fstat(held)
        return oct(status.st_mode), status.st_uid, status.st_gid

    t.note(as_user(make))
    t.stat("shared/f")
    os.chmod("shared", 0o755)
    t.note(as_user(make))
