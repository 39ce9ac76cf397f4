"""Operations of an application that are asserted to have happened exactly once, and no error.

What enters: an empty directory in a mounted tree. What leaves: a call to make while the worker is
killed, and a check of what it left. Used by the tests that kill the worker at every step.
"""

import mmap
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from guarding import remount

from everup.capture import protocol
from everup.system.kernelcalls import RENAME_EXCHANGE, allocate, rename

HERE = -100
Act = Callable[[], object]
DATA = bytes(range(256)) * 40


CHANGE = ("read", "intent", "lower", "appended", "noted", "answer", "answered", "cleared")
CREATION = (*CHANGE[:5], "counted", *CHANGE[5:])
LOOK = ("read", "counted", "answer", "answered", "cleared")
SYNC = ("read", "synced", "parked", "finish", "answered", "unparked")
FORGET = ("read", "forgot", "cleared")


class Operation(NamedTuple):
    """`prepare` makes what is needed and returns the call and its check."""

    opcode: int
    prepare: Callable[[Path], tuple[Act, Act]]
    steps: tuple[str, ...] = CHANGE
    lower_calls: int = 1
    """How many system calls change the lower tree: a worker may die after each."""

    def cells(self) -> Iterator[tuple[str, int]]:
        """(step, how often it is passed before)."""
        for step in self.steps:
            for passes in range(self.lower_calls if step == "lower" else 1):
                yield f"{'sync' if self.steps is SYNC else 'request'}.{step}", passes


def _file(path: Path, data: bytes = b"old") -> Path:
    path.write_bytes(data)
    return path


def _open(path: Path, flags: int = os.O_RDWR) -> int:
    return os.open(path, flags | os.O_CREAT, 0o640)


def _expect(value: object, wanted: object) -> None:
    assert value == wanted, (value, wanted)


def create(d: Path) -> tuple[Act, Act]:
    def act() -> None:
        os.close(os.open(d / "f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    return act, lambda: _expect(stat.filemode((d / "f").stat().st_mode), "-rw-------")


def mkdir(d: Path) -> tuple[Act, Act]:
    return (d / "d").mkdir, lambda: _expect(os.listdir(d / "d"), [])


def symlink(d: Path) -> tuple[Act, Act]:
    return lambda: os.symlink("to", d / "s"), lambda: _expect(os.readlink(d / "s"), "to")


def link(d: Path) -> tuple[Act, Act]:
    file = _file(d / "f")
    return lambda: os.link(file, d / "l"), lambda: _expect((d / "l").stat().st_nlink, 2)


def unlink(d: Path) -> tuple[Act, Act]:
    held = _open(_file(d / "f"))

    def check() -> None:
        _expect(os.pread(held, 10, 0), b"old")
        _expect(os.fstat(held).st_nlink, 0)
        os.close(held)
        _expect(os.listdir(d), [])

    return (d / "f").unlink, check


def unlink_one_of_two(d: Path) -> tuple[Act, Act]:
    file = _file(d / "f")
    os.link(file, d / "l")

    def check() -> None:
        with (d / "f").open("ab") as out:
            out.write(b"er")
        _expect((d / "f").read_bytes(), b"older")

    return (d / "l").unlink, check


def rmdir(d: Path) -> tuple[Act, Act]:
    (d / "d").mkdir()
    return (d / "d").rmdir, lambda: _expect(os.listdir(d), [])


def rename_plain(d: Path) -> tuple[Act, Act]:
    file = _file(d / "f")

    def check() -> None:
        with (d / "g").open("ab") as out:
            out.write(b"er")
        _expect(os.listdir(d), ["g"])

    return lambda: file.rename(d / "g"), check


def rename_directory(d: Path) -> tuple[Act, Act]:
    (d / "d").mkdir()
    _file(d / "d/f")

    def check() -> None:
        _file(d / "e/f", b"new")
        _expect(os.listdir(d), ["e"])

    return lambda: (d / "d").rename(d / "e"), check


def rename_replace(d: Path) -> tuple[Act, Act]:
    file, held = _file(d / "f", b"new"), _open(_file(d / "g"))

    def check() -> None:
        _expect(os.pread(held, 10, 0), b"old")
        os.close(held)
        _expect((d / "g").read_bytes(), b"new")
        _expect(os.listdir(d), ["g"])

    return lambda: file.rename(d / "g"), check


def rename_replace_one_of_two(d: Path) -> tuple[Act, Act]:
    file, other = _file(d / "f", b"new"), _file(d / "g")
    os.link(other, d / "h")
    # The name by which the object is known last.
    os.stat(other)

    def check() -> None:
        with (d / "h").open("ab") as out:
            out.write(b"er")
        _expect((d / "h").read_bytes(), b"older")
        _expect(other.read_bytes(), b"new")

    return lambda: file.rename(other), check


def rename_exchange(d: Path) -> tuple[Act, Act]:
    one, two = _file(d / "f", b"1"), _file(d / "g", b"2")

    def check() -> None:
        for path, data in ((one, b"2"), (two, b"1")):
            _expect(path.read_bytes(), data)
            path.write_bytes(data * 2)

    old, new = os.fsencode(one), os.fsencode(two)
    return lambda: rename(HERE, old, HERE, new, RENAME_EXCHANGE), check


def write(d: Path) -> tuple[Act, Act]:
    held = _open(_file(d / "f", b"x" * 20_000))

    def check() -> None:
        _expect(os.pread(held, 20_000, 0), b"x" * 100 + DATA + b"x" * (19_900 - len(DATA)))
        os.close(held)

    return lambda: _expect(os.pwrite(held, DATA, 100), len(DATA)), check


def append(d: Path) -> tuple[Act, Act]:
    held = os.open(_file(d / "f"), os.O_WRONLY | os.O_APPEND)

    def check() -> None:
        os.close(held)
        _expect((d / "f").read_bytes(), b"old" + DATA)

    return lambda: _expect(os.write(held, DATA), len(DATA)), check


def truncate(d: Path) -> tuple[Act, Act]:
    file = _file(d / "f", DATA)
    return lambda: os.truncate(file, 100), lambda: _expect(file.read_bytes(), DATA[:100])


def setxattr(d: Path) -> tuple[Act, Act]:
    file = _file(d / "f")
    return (
        lambda: os.setxattr(file, "user.x", b"1", os.XATTR_CREATE),
        lambda: _expect(os.getxattr(file, "user.x"), b"1"),
    )


def removexattr(d: Path) -> tuple[Act, Act]:
    file = _file(d / "f")
    os.setxattr(file, "user.x", b"1")
    return lambda: os.removexattr(file, "user.x"), lambda: _expect(os.listxattr(file), [])


def reserve(d: Path) -> tuple[Act, Act]:
    held = _open(_file(d / "f"))

    def check() -> None:
        _expect(os.fstat(held).st_size, 9000)
        os.close(held)

    return lambda: allocate(held, 0, 1000, 8000), check


def copy(d: Path) -> tuple[Act, Act]:
    source, target = _open(_file(d / "f", DATA)), _open(d / "g")

    def check() -> None:
        os.close(source)
        os.close(target)
        _expect((d / "g").read_bytes(), DATA[:5000])

    return lambda: _expect(os.copy_file_range(source, target, 5000), 5000), check


def lookup(d: Path) -> tuple[Act, Act]:
    """Unlinked afterwards: were the lookup counted twice, its object would stay for ever."""
    file = _file(d / "f")
    remount(d.parent)
    return lambda: _expect(file.stat().st_size, 3), file.unlink


def list_names(d: Path) -> tuple[Act, Act]:
    wanted = {f"f{number}" for number in range(40)}
    for name in wanted:
        _file(d / name)
    remount(d.parent)
    return lambda: _expect({entry.name for entry in os.scandir(d)}, wanted), lambda: None


def _give_name(held: int, d: Path) -> None:
    above = os.open(d, os.O_RDONLY)
    # With a directory's descriptor, or Python would link the symbolic link itself.
    os.link(f"/proc/self/fd/{held}", "f", dst_dir_fd=above, follow_symlinks=True)
    os.close(above)


def nameless(d: Path) -> tuple[Act, Act]:
    held: list[int] = []

    def check() -> None:
        os.write(held[0], DATA)
        _give_name(held[0], d)
        os.close(held[0])
        _expect((d / "f").read_bytes(), DATA)

    return lambda: held.append(os.open(d, os.O_TMPFILE | os.O_RDWR)), check


def name_the_nameless(d: Path) -> tuple[Act, Act]:
    held = os.open(d, os.O_TMPFILE | os.O_RDWR)
    os.write(held, DATA)

    def check() -> None:
        os.close(held)
        _expect((d / "f").read_bytes(), DATA)

    return lambda: _give_name(held, d), check


def write_unlinked(d: Path) -> tuple[Act, Act]:
    """Not recorded at all; done once more later, it would undo what was written since."""
    held = _open(d / "f")
    (d / "f").unlink()

    def act() -> None:
        for data in (b"first", b"later"):
            _expect(os.pwrite(held, data, 0), 5)

    def check() -> None:
        _expect(os.pread(held, 10, 0), b"later")
        os.close(held)

    return act, check


def synced(d: Path) -> tuple[Act, Act]:
    held = _open(_file(d / "f"))
    os.pwrite(held, DATA, 0)
    return lambda: os.fsync(held), lambda: os.close(held)


def data_synced(d: Path) -> tuple[Act, Act]:
    held = _open(_file(d / "f"))
    os.pwrite(held, DATA, 0)
    return lambda: os.fdatasync(held), lambda: os.close(held)


def written_through(d: Path) -> tuple[Act, Act]:
    """A write after which the kernel sends no FSYNC."""
    held = _open(_file(d / "f"), os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    page = mmap.mmap(-1, 4096)
    page[:4] = b"page"
    return lambda: _expect(os.write(held, page), 4096), lambda: os.close(held)


def forget(d: Path) -> tuple[Act, Act]:
    file = _file(d / "f")
    file.unlink()
    return lambda: remount(d.parent), lambda: None


OPERATIONS = {
    "create": Operation(protocol.MKNOD, create, CREATION, 2),
    "mkdir": Operation(protocol.MKDIR, mkdir, CREATION, 3),
    "symlink": Operation(protocol.SYMLINK, symlink, CREATION, 3),
    "link": Operation(protocol.LINK, link, CREATION),
    "unlink": Operation(protocol.UNLINK, unlink),
    "unlink one of two": Operation(protocol.UNLINK, unlink_one_of_two),
    "rmdir": Operation(protocol.RMDIR, rmdir),
    "rename": Operation(protocol.RENAME, rename_plain, CHANGE, 2),
    "rename a directory": Operation(protocol.RENAME, rename_directory, CHANGE, 2),
    "rename, replacing": Operation(protocol.RENAME, rename_replace, CHANGE, 3),
    "rename, replacing one of two": Operation(
        protocol.RENAME, rename_replace_one_of_two, CHANGE, 2
    ),
    "rename, exchanging": Operation(protocol.RENAME2, rename_exchange),
    "write": Operation(protocol.WRITE, write),
    "append": Operation(protocol.WRITE, append),
    "write to an unlinked file": Operation(
        protocol.WRITE, write_unlinked, (*CHANGE[:3], *CHANGE[4:])
    ),
    "O_TMPFILE": Operation(protocol.TMPFILE, nameless, (*CREATION[:3], *CREATION[4:]), 3),
    "link of O_TMPFILE": Operation(protocol.LINK, name_the_nameless, CREATION),
    "truncate": Operation(protocol.SETATTR, truncate),
    "setxattr": Operation(protocol.SETXATTR, setxattr),
    "removexattr": Operation(protocol.REMOVEXATTR, removexattr),
    "fallocate": Operation(protocol.FALLOCATE, reserve),
    "copy_file_range": Operation(protocol.COPY_FILE_RANGE, copy),
    "lookup": Operation(protocol.LOOKUP, lookup, LOOK),
    "readdirplus": Operation(protocol.READDIRPLUS, list_names, LOOK),
    "fsync": Operation(protocol.FSYNC, synced, SYNC),
    "fdatasync": Operation(protocol.FSYNC, data_synced, SYNC),
    "O_DSYNC write": Operation(protocol.WRITE, written_through, CHANGE[:5]),
    "O_DSYNC write that waits": Operation(protocol.WRITE, written_through, SYNC),
    "forget": Operation(protocol.BATCH_FORGET, forget, FORGET),
}
