"""Cases of names: creation, links, renames, removal, directories. See `differential`."""

import os

from differential import USER, Log, as_user, become, name_again

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
