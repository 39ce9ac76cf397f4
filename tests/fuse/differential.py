"""The same operations on a plain directory and through a mount: results must not differ.

What enters: cases, which are functions that work in their current directory and note results
through a `Log`. What leaves: the notes of both sides and what both directories hold afterwards.
Each case runs in a process of its own, so it may change its user, groups, limits and umask. Called
by test_fuse_same.
"""

import errno
import os
import pickle
import signal
import stat
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replaying import describe

CASE_S = 60
USER = 4242
"""Owner of nothing, member of GROUP."""
GROUP = 4343
OTHER = 4444

Case = Callable[["Log"], None]


class Log:
    """What a case saw, in order: values, or names of errors."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call and note the result or the error; returns the result, or None."""
        try:
            result = function(*arguments, **named)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            self.lines.append(f"{function.__name__}{arguments[:3]!r:.200}: {name}")
            return None
        shown = "done" if function in _OPENERS else _shown(result)
        self.lines.append(f"{function.__name__}: {shown}")
        return result

    def note(self, *values: Any) -> None:
        self.lines.append(repr(values))

    def stat(self, target: str | int) -> None:
        """Note everything of a status that is the same on both sides."""
        status = os.stat(target, follow_symlinks=isinstance(target, int))
        self.note(
            target if isinstance(target, str) else "open", oct(status.st_mode), status.st_nlink,
            status.st_uid, status.st_gid, status.st_size, status.st_rdev,
        )  # fmt: skip


_OPENERS = (os.open, os.stat, os.fstat, os.posix_spawn)


def _shown(result: Any) -> str:
    text = repr(result)
    return text if len(text) < 300 else f"{len(text)} characters, {hash_of(text)}"


def hash_of(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


def become(uid: int = USER, gid: int = USER, groups: tuple[int, ...] = (GROUP,)) -> None:
    """From here on the case runs as this user."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def as_user(
    function: Callable[[], Any],
    uid: int = USER,
    gid: int = USER,
    groups: tuple[int, ...] = (GROUP,),
) -> Any:
    """Result of `function` in a child that is this user, or the name of its error."""

    def work() -> Any:
        become(uid, gid, groups)
        try:
            return function()
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "?")

    return in_child(work)


def name_again(descriptor: int, name: str) -> None:
    """Give an open file a name."""
    here = os.open(".", os.O_PATH)
    # With a directory, or Python calls link(), which follows nothing.
    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=here, follow_symlinks=True)
    os.close(here)


def in_child(function: Callable[[], Any]) -> Any:
    """Run in a forked process and return what it returned. Raises AssertionError if it failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            signal.alarm(CASE_S)
            data = pickle.dumps(function())
            with os.fdopen(writer, "wb") as channel:
                channel.write(data)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as channel:
        data = channel.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the case ended with {status:#x}"
    return pickle.loads(data)


def run_case(case: Case, directory: Path) -> list[str]:
    """Lines of a case in an empty directory."""
    directory.mkdir()
    directory.chmod(0o755)

    def work() -> list[str]:
        os.chdir(directory)
        os.umask(0o022)
        log = Log()
        case(log)
        return log.lines

    lines = in_child(work)
    assert isinstance(lines, list)
    return lines


def contents(directory: Path) -> dict[bytes, Any]:
    """What both sides must have in common; times are compared between view and lower tree."""
    return describe(directory, times=False)


def view(directory: Path) -> dict[str, tuple[int, ...]]:
    """Every attribute that the mount shows (or the lower tree has)."""
    found = {}
    for path in [directory, *_below(directory)]:
        status = os.lstat(path)
        found[str(path.relative_to(directory))] = (
            status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid,
            status.st_size, 0 if stat.S_ISDIR(status.st_mode) else status.st_blocks,
            status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip
    return found


def _below(directory: Path) -> list[Path]:
    found = []
    for place, inside, files in os.walk(directory):
        found += [Path(place) / name for name in inside + files]
    return found


def cases_of(*modules: Any) -> list[Case]:
    """Public functions of modules that take a Log."""
    return [
        value
        for module in modules
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", "") == module.__name__
        and not name.startswith("_")
    ]
