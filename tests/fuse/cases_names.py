"""Cases of names: creation, links, renames, removal, directories. See `differential`."""

import os
import socket
import stat

from differential import GROUP, OTHER, USER, Log, as_user, become, name_again

from everup.system.kernelcalls import RENAME_EXCHANGE, RENAME_NOREPLACE, rename

_AT = -100
_BOTH = RENAME_NOREPLACE | RENAME_EXCHANGE


def _write(path: str | bytes, data: bytes = b"x") -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, data)
    os.close(descriptor)


def _read(path: str | bytes) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    data = os.read(descriptor, 1 << 20)
    os.close(descriptor)
    return data


def _rename(old: str, new: str, flags: int) -> None:
    rename(_AT, old.encode(), _AT, new.encode(), flags)


def open_flags(t: Log) -> None:
    t(os.open, "f", os.O_RDWR)
    t(os.open, "f", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400)
    t(os.open, "f", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400)
    t(os.open, "f", os.O_RDONLY | os.O_DIRECTORY)
    t(os.open, ".", os.O_WRONLY)
    t(os.open, ".", os.O_RDONLY | os.O_CREAT)
    os.symlink("f", "s")
    os.symlink("nowhere", "dangling")
    t(os.open, "s", os.O_RDONLY | os.O_NOFOLLOW)
    t(os.open, "s", os.O_RDONLY | os.O_CREAT | os.O_EXCL)
    t(os.open, "dangling", os.O_RDONLY)
    t(os.open, "dangling", os.O_RDWR | os.O_CREAT, 0o600)
    t.stat("nowhere")
    _write("f", b"content")
    t(os.open, "f", os.O_RDONLY | os.O_TRUNC)
    t.stat("f")
    t(os.open, "f/", os.O_RDONLY)
    t(os.open, "new/", os.O_RDWR | os.O_CREAT)
    t(os.open, "f/below", os.O_RDONLY)
    t(os.open, "loop", os.O_RDONLY)
    os.symlink("loop", "loop")
    t(os.open, "loop", os.O_RDONLY)


def access_of_descriptors(t: Log) -> None:
    _write("f", b"data")
    reader, writer = os.open("f", os.O_RDONLY), os.open("f", os.O_WRONLY)
    t(os.write, reader, b"x")
    t(os.read, writer, 1)
    t(os.ftruncate, reader, 1)
    t(os.posix_fallocate, reader, 0, 10)
    t(os.pread, reader, 10, -1)
    t(os.pwrite, writer, b"x", -1)
    path = os.open("f", os.O_PATH)
    t(os.read, path, 1)
    t(os.fsync, path)
    t(os.ftruncate, os.open(".", os.O_RDONLY), 0)
    t(os.read, os.open(".", os.O_RDONLY), 1)


def long_and_odd_names(t: Log) -> None:
    for name in (b"n" * 255, b"n" * 256, b"n" * 1025, b"\xff\xfe", b" ", b"\n", b"-", b"a\\b"):
        t(os.mkdir, name)
        t(os.rename, name, name[:-1] + b"z")
        t(os.unlink, name)
        t(os.stat, b"x" * 256)
    t(os.link, b"n" * 256, b"m")
    t(os.symlink, b"x", b"l" * 256)
    t(os.mkdir, b"")
    t(os.mkdir, b".")
    t(os.rmdir, b".")
    t(os.mkdir, b"deep")
    t(os.rmdir, b"deep/..")
    t(os.rmdir, b"deep/.")
    t(os.mkdir, b"deep/" + b"d/" * 2048)
    t.note(sorted(os.listdir(b".")))


def symbolic_links(t: Log) -> None:
    for length in (1, 59, 60, 255, 4095, 4096):
        t(os.symlink, "t" * length, f"s{length}")
        t(os.readlink, f"s{length}")
    t(os.symlink, "", "empty")
    t(os.symlink, b"\xff\xfe", b"\xfe")
    t(os.readlink, b"\xfe")
    t(os.symlink, "a", "s1")
    t(os.readlink, ".")
    t(os.chown, "s1", 5, 6, follow_symlinks=False)
    t(os.utime, "s1", ns=(1, 2), follow_symlinks=False)
    t.stat("s1")
    os.mkdir("d")
    os.symlink("d", "to-d")
    t(os.rmdir, "to-d")
    t(os.mkdir, "to-d/inside")
    t(os.unlink, "to-d/")
    t(os.rename, "to-d/", "moved")
    t(os.unlink, "to-d")


def hard_links(t: Log) -> None:
    _write("a")
    t(os.link, "a", "b")
    t.stat("a")
    t.stat("b")
    t(os.link, "a", "b")
    t(os.link, "nothing", "c")
    os.mkdir("d")
    t(os.link, "d", "e")
    t(os.link, "a", "d/a")
    t(os.link, "a", "missing/a")
    t.stat("a")
    t(os.rename, "a", "b")
    t.stat("a")
    t(os.unlink, "a")
    t.stat("b")
    _write("b", b"changed")
    t(_read, "d/a")
    t(os.unlink, "b")
    t.stat("d/a")
    os.symlink("x", "s")
    t(os.link, "s", "s2", follow_symlinks=False)
    os.mkfifo("p")
    t(os.link, "p", "p2")
    t.stat("p2")
    descriptor = os.open("d/a", os.O_RDWR)
    t(name_again, descriptor, "again")
    t.stat(descriptor)
    os.chmod(".", 0o777)
    os.chmod("again", 0o600)
    t.note(as_user(lambda: os.link("again", "stolen")))


def many_links(t: Log) -> None:
    _write("f")
    for i in range(300):
        os.link("f", f"l{i}")
    t.stat("f")
    for i in range(0, 300, 2):
        os.unlink(f"l{i}")
    t.stat("l1")
    os.rename("l1", "l3")
    t.stat("l3")
    os.rename("l5", "f")
    t.stat("f")


def rename_of_files(t: Log) -> None:
    _write("a", b"a")
    _write("b", b"b")
    os.mkdir("d")
    t(os.rename, "a", "a")
    t(os.rename, "a", "d")
    t(os.rename, "d", "a")
    t(os.rename, "a", "b/")
    t(os.rename, "a/", "c")
    t(os.rename, "a", "missing/a")
    t(os.rename, "nothing", "a")
    t(os.rename, "a", ".")
    t(os.rename, "a", "b")
    t(_read, "b")
    t(os.stat, "a/")
    t(os.rename, "b", "d/b")
    held = os.open("d/b", os.O_RDWR)
    _write("new", b"new")
    t(os.rename, "new", "d/b")
    t.stat(held)
    t(os.pwrite, held, b"old", 0)
    t(os.pread, held, 10, 0)
    t(_read, "d/b")


def rename_flags(t: Log) -> None:
    _write("a", b"a")
    _write("b", b"b")
    os.mkdir("d")
    _write("d/in")
    t(_rename, "a", "b", RENAME_NOREPLACE)
    t(_rename, "a", "b", RENAME_EXCHANGE)
    t(_read, "a")
    t(_rename, "a", "nothing", RENAME_EXCHANGE)
    t(_rename, "a", "c", RENAME_NOREPLACE)
    t(_rename, "c", "d", RENAME_EXCHANGE)
    t(_read, "d")
    t(os.listdir, "c")
    t(_rename, "c", "c/in", RENAME_EXCHANGE)
    t(_rename, "c/in", "c", RENAME_EXCHANGE)
    t(_rename, "b", "b", RENAME_NOREPLACE)
    t(_rename, "b", "b", RENAME_EXCHANGE)
    t(_rename, "b", "d", _BOTH)
    t(_rename, "b", "d", 64)
    os.symlink("b", "s")
    t(_rename, "s", "b", RENAME_EXCHANGE)
    t(os.readlink, "b")
    t.stat("s")


def rename_of_directories(t: Log) -> None:
    os.makedirs("a/b/c")
    os.mkdir("empty")
    os.makedirs("full/x")
    _write("f")
    t(os.rename, "a", "a/b/d")
    t(os.rename, "a", "a/b")
    t(os.rename, "a/b", "a")
    t(os.rename, "a", "full")
    t(os.rename, "a", "f")
    t(os.rename, "f", "a")
    t.stat(".")
    t(os.rename, "a/b", "moved/")
    t.stat("a")
    t.stat(".")
    t(os.rename, "moved", "empty")
    t.stat("empty")
    t(os.listdir, "empty")
    t(os.rename, "empty", "full/x/deep")
    t.stat("full/x")
    t(os.rename, "full/x/deep/..", "f2")
    t(os.rename, ".", "f3")
    here = os.open("full/x/deep", os.O_RDONLY)
    os.rename("full", "elsewhere")
    os.fchdir(here)
    t(_write, "written")
    t(os.listdir, "../../..")


def rename_permissions(t: Log) -> None:
    os.chmod(".", 0o1777)
    _write("roots")
    os.mkdir("d")
    os.chown("d", USER, USER)
    _write("d/f")
    os.mkdir("d/roots")
    become()
    _write("mine")
    t(os.rename, "roots", "x")
    t(os.rename, "mine", "roots")
    t(os.unlink, "roots")
    t(os.rename, "d/f", "d/g")
    t(os.rename, "d/roots", "d/other")
    t(os.rename, "d/other", "other")
    t(os.unlink, "mine")


def unlink_and_rmdir(t: Log) -> None:
    os.makedirs("d/e")
    _write("d/f")
    t(os.unlink, "d")
    t(os.rmdir, "d")
    t(os.rmdir, "d/f")
    t(os.unlink, "nothing")
    t(os.rmdir, "nothing")
    t(os.unlink, "d/f/")
    t(os.rmdir, "d/e/")
    t.stat("d")
    t(os.unlink, "d/f")
    t(os.rmdir, "d")
    t(os.stat, "d")
    os.mkdir("d")
    t(os.listdir, "d")
    os.mkdir("closed")
    _write("closed/f")
    os.chmod("closed", 0o555)
    become()
    t(os.unlink, "closed/f")
    t(os.rmdir, "closed")


def unlinked_but_open(t: Log) -> None:
    os.mkdir("d")
    held = os.open("d/f", os.O_RDWR | os.O_CREAT)
    os.write(held, b"0123456789")
    os.unlink("d/f")
    t.stat(held)
    t(os.rmdir, "d")
    t(os.pwrite, held, b"abc", 5)
    t(os.ftruncate, held, 7)
    t(os.fchmod, held, 0o4711)
    t(os.fchown, held, 3, 4)
    t(os.setxattr, held, "user.k", b"v")
    t(os.listxattr, held)
    t(os.utime, held, ns=(5, 6))
    t.stat(held)
    t(os.pread, held, 20, 0)
    t(name_again, held, "again")
    t(os.fsync, held)
    t(os.fdatasync, held)
    t(os.open, f"/proc/self/fd/{held}", os.O_RDWR)
    t(os.posix_fallocate, held, 0, 8192)
    t(os.lseek, held, 0, os.SEEK_DATA)
    t(os.pread, held, 20, 0)


def removed_directory(t: Log) -> None:
    os.mkdir("d")
    held = os.open("d", os.O_RDONLY)
    os.chdir("d")
    os.rmdir("../d")
    t(os.listdir, ".")
    t(_write, "f")
    t(os.mkdir, "e")
    t(os.rename, "../x", "y")
    t(os.fsync, held)
    t(os.fchmod, held, 0o700)
    t.note(oct(os.fstat(held).st_mode))
    t(os.getcwd)
    os.chdir("..")


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


def read_directory(t: Log) -> None:
    for i in range(1500):
        _write(f"{i:04}-{'n' * (i % 100)}", b"")
    t.note(len(os.listdir(".")), sorted(os.listdir("."))[::100])
    with os.scandir(".") as entries:
        t.note(all(entry.is_file() and entry.inode() == entry.stat().st_ino for entry in entries))
    with os.scandir(".") as entries:
        for number, entry in enumerate(entries):
            if number % 2:
                os.unlink(entry.name)
    left = os.listdir(".")
    t.note(len(left))
    for name in left:
        os.unlink(name)
    t.note(os.listdir("."))
    t.stat(".")


def directory_attributes(t: Log) -> None:
    os.mkdir("d")
    t.stat(".")
    for i in range(5):
        os.mkdir(f"d/{i}")
        t.stat("d")
    before = os.stat("d").st_mtime_ns
    os.rmdir("d/0")
    t.stat("d")
    t.note(os.stat("d").st_mtime_ns > before)
    os.rename("d/1", "moved")
    t.stat("d")
    t.stat(".")
    t(os.truncate, "d", 0)
    t(os.chmod, "d", 0o7777)
    t(os.chown, "d", 5, 6)
    t.stat("d")
