"""Steps of an imagined application: what to do, to which names, by which thread.

What enters: a few numbers and names, chosen by hypothesis so that they shrink. What leaves: the
effect on any directory, and what the application saw (a value, or the number of an error). The same
steps run on a mount, on a plain directory, alone or in threads. Used by the property tests.
"""

import mmap
import os
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

from everup.system.kernelcalls import RENAME_EXCHANGE, RENAME_NOREPLACE, allocate, rename

NAMES = (b"a", b"b", b"c", b"\xff\xfe", b"d" * 90)
DEPTH_MAX = 4
THREADS = 3
HERE = -100
SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MODES = (0o644, 0o600, 0o4755, 0o2775, 0o1777)
_ACL_ENTRIES = ((1, 7, -1), (2, 6, 2), (4, 5, -1), (16, 7, -1), (32, 1, -1))
DEFAULT_ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *e) for e in _ACL_ENTRIES)
"""Owner, user 2, group, mask, others."""


class Step(NamedTuple):
    """What hypothesis chooses: `one` and `two` pick among the names that there are by then."""

    operation: str
    one: int = 0
    two: int = 0
    number: int = 0
    thread: int = 0


class Act(NamedTuple):
    """A step with names; `number` is an offset, a size or a choice, as the operation likes."""

    operation: str
    path: bytes
    other: bytes
    number: int


class Found:
    """The names below a directory, in one order."""

    def __init__(self, root: bytes) -> None:
        self.directories, self.files, self.all = [b""], [], []
        for above, directories, files in os.walk(root):
            directories.sort()
            inside = above[len(root) + 1 :]
            for name in sorted([*directories, *files]):
                path = inside + b"/" + name if inside else name
                self.all.append(path)
                if name in directories and path.count(b"/") < DEPTH_MAX - 1:
                    self.directories.append(path)
                elif name in files:
                    self.files.append(path)

    def new(self, choice: int) -> bytes:
        """A name in a directory that exists; often a name that is not taken."""
        above = self.directories[choice // len(NAMES) % len(self.directories)]
        name = NAMES[choice % len(NAMES)]
        return above + b"/" + name if above else name

    def pick(self, listed: list[bytes], choice: int) -> bytes:
        """One of the list; now and then, and when there is none, any name."""
        return listed[choice % len(listed)] if listed and choice % 16 else self.new(choice)


def resolve(step: Step, root: bytes) -> Act:
    """The names that a step means, by what is below `root` now."""
    found = Found(root)
    inner = found.directories[1:]
    listed = {
        "file": found.files, "directory": found.directories, "inner": inner, "any": found.all
    }  # fmt: skip
    kind = SUBJECTS[step.operation]
    path = found.new(step.one) if kind == "new" else found.pick(listed[kind], step.one)
    if step.operation == "rename" and step.number % 5 not in (0, 1, 2):
        other = found.pick(found.all, step.two)
    elif step.operation == "copy":
        other = found.pick(found.files, step.two)
    else:
        other = found.new(step.two)
    return Act(step.operation, path, other, step.number)


class User:
    """One thread of the application, at home in one directory; it may hold files open."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.held: list[int] = []

    def do(self, step: Act) -> object:
        """What the application sees. Errors of the file system are results like others."""
        try:
            return OPERATIONS[step.operation][1](self, self.place(step.path), step)
        except OSError as error:
            return f"error {error.errno}"

    def place(self, path: bytes) -> bytes:
        return self.root + b"/" + path

    def close(self) -> None:
        for descriptor in self.held:
            os.close(descriptor)
        self.held.clear()


class _Opened:
    """A descriptor for the length of a block."""

    def __init__(self, path: bytes, flags: int, mode: int = 0o666) -> None:
        self.descriptor = os.open(path, flags | SAFE, mode)

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def content(step: Act, size: int = 0) -> bytes:
    """Bytes that tell which step wrote them."""
    mark = b"%s.%d." % (step.path[-8:], step.number)
    size = size or (1, 100, 4096, 5000, 70_000)[step.number % 5]
    return (mark * (size // len(mark) + 1))[:size]


def _create(user: User, path: bytes, step: Act) -> object:
    flags = os.O_CREAT | os.O_RDWR | (0, os.O_EXCL, os.O_TRUNC)[step.number % 3]
    with _Opened(path, flags, MODES[step.number % len(MODES)]) as descriptor:
        return os.write(descriptor, content(step))


def _write(user: User, path: bytes, step: Act) -> object:
    with _Opened(path, os.O_WRONLY) as descriptor:
        return os.pwrite(descriptor, content(step), step.number % 60_000)


def _append(user: User, path: bytes, step: Act) -> object:
    with _Opened(path, os.O_WRONLY | os.O_APPEND) as descriptor:
        return os.write(descriptor, content(step, 99))


def _mapped(user: User, path: bytes, step: Act) -> object:
    with _Opened(path, os.O_RDWR) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not os.fstat(descriptor).st_size:
            return "nothing to map"
        with mmap.mmap(descriptor, 0) as memory:
            data = content(step, 50)
            at = step.number % len(memory)
            memory[at : at + len(data)] = data[: len(memory) - at]
            memory.flush()
    return "written"


def _copy(user: User, path: bytes, step: Act) -> object:
    with (
        _Opened(path, os.O_RDONLY) as source,
        _Opened(user.place(step.other), os.O_WRONLY) as target,
    ):
        return os.copy_file_range(source, target, 3000, step.number % 500, step.number % 9000)


def _truncate(user: User, path: bytes, step: Act) -> object:
    return os.truncate(path, step.number % 50_000)


def _allocate(user: User, path: bytes, step: Act) -> object:
    mode = (0, 1, 3, 16)[step.number % 4]
    with _Opened(path, os.O_RDWR) as descriptor:
        return allocate(descriptor, mode, step.number % 10_000, 8000)


def _mkdir(user: User, path: bytes, step: Act) -> object:
    return os.mkdir(path, MODES[step.number % len(MODES)])


def _rename(user: User, path: bytes, step: Act) -> object:
    flags = (0, 0, 0, RENAME_EXCHANGE, RENAME_NOREPLACE)[step.number % 5]
    return rename(HERE, path, HERE, user.place(step.other), flags)


def _mode(user: User, path: bytes, step: Act) -> object:
    return os.chmod(path, MODES[step.number % len(MODES)])


def _owner(user: User, path: bytes, step: Act) -> object:
    return os.chown(path, step.number % 4, step.number % 3, follow_symlinks=False)


def _times(user: User, path: bytes, step: Act) -> object:
    return os.utime(path, ns=(step.number, step.number * 10**9 + 7), follow_symlinks=False)


def _set_xattr(user: User, path: bytes, step: Act) -> object:
    return os.setxattr(path, b"user.x%d" % (step.number % 2), content(step, 10))


def _remove_xattr(user: User, path: bytes, step: Act) -> object:
    return os.removexattr(path, b"user.x%d" % (step.number % 2))


def _inherit(user: User, path: bytes, step: Act) -> object:
    return os.setxattr(path, b"system.posix_acl_default", DEFAULT_ACL)


def _hold(user: User, path: bytes, step: Act) -> object:
    if len(user.held) < 4:
        user.held.append(os.open(path, os.O_RDWR | SAFE))
    return None


def _write_held(user: User, path: bytes, step: Act) -> object:
    if not user.held:
        return None
    descriptor = user.held[step.number % len(user.held)]
    return os.pwrite(descriptor, content(step, 500), step.number % 10_000)


def _release(user: User, path: bytes, step: Act) -> object:
    if user.held:
        os.close(user.held.pop(step.number % len(user.held)))
    return None


def _sync(user: User, path: bytes, step: Act) -> object:
    with _Opened(path, os.O_RDONLY) as descriptor:
        return os.fsync(descriptor)


def _read(user: User, path: bytes, step: Act) -> object:
    with _Opened(path, os.O_RDONLY) as descriptor:
        return os.pread(descriptor, 80_000, step.number % 5000)


def _look(user: User, path: bytes, step: Act) -> object:
    status = os.lstat(path)
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
    return oct(status.st_mode), status.st_uid, status.st_gid, size, links


def _link(path: bytes, other: bytes) -> object:
    return os.link(path, other, follow_symlinks=False)


OPERATIONS: dict[str, tuple[str, Callable[[User, bytes, Act], object]]] = {
    "create": ("new", _create), "mkdir": ("new", _mkdir),
    "symlink": ("new", lambda user, path, step: os.symlink(step.other, path)),
    "fifo": ("new", lambda user, path, step: os.mknod(path, stat.S_IFIFO | 0o640)),
    "write": ("file", _write), "append": ("file", _append), "mapped": ("file", _mapped),
    "copy": ("file", _copy), "truncate": ("file", _truncate), "allocate": ("file", _allocate),
    "hold": ("file", _hold), "write_held": ("any", _write_held), "release": ("any", _release),
    "read": ("file", _read),
    "link": ("file", lambda user, path, step: _link(path, user.place(step.other))),
    "unlink": ("file", lambda user, path, step: os.unlink(path)),
    "inherit": ("directory", _inherit), "sync": ("any", _sync),
    "rmdir": ("inner", lambda user, path, step: os.rmdir(path)),
    "list": ("directory", lambda user, path, step: sorted(os.listdir(path))),
    "rename": ("any", _rename), "mode": ("any", _mode), "owner": ("any", _owner),
    "times": ("any", _times), "set_xattr": ("any", _set_xattr),
    "remove_xattr": ("any", _remove_xattr), "look": ("any", _look),
}  # fmt: skip
SUBJECTS = {name: kind for name, (kind, _) in OPERATIONS.items()}
# What makes and moves names comes more often: everything else needs an object to work on.
FREQUENT = ("create", "create", "create", "mkdir", "rename", "rename", "write", "write")


def steps(threads: int = 1) -> st.SearchStrategy[Step]:
    """One step; few names, so that steps meet each other."""
    choice = st.integers(0, 1 << 10)
    # Who writes to a mapping while another thread truncates the file is killed (SIGBUS).
    operations = [name for name in OPERATIONS if threads == 1 or name != "mapped"]
    return st.builds(
        Step,
        st.sampled_from((*FREQUENT, *operations)),
        choice,
        choice,
        st.integers(0, 1 << 16),
        st.integers(0, threads - 1),
    )
