"""Memory that outlives a process: files on tmpfs, mapped, with room behind every byte in use.

What enters: a path and sizes. What leaves: mappings. Called by the guard, the journal and the
keeper. A file that is only truncated to its size gets its pages when they are first written. If
tmpfs is full by then, the kernel kills the writer (SIGBUS), and the writer is what applications
wait for. So room is taken before anything is written, and a lack of it is an ordinary error.
"""

import ctypes
import errno
import mmap
import os
from pathlib import Path
from struct import Struct

from crc32c import crc32c

from everup.errors import EverupError

STEP_BYTES = 256 << 10
_LACKS = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip


class NoRoom(EverupError):
    """The file system of the shared memory is full."""

    code = "no-memory-room"


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _no_room(path, error) from error


def _no_room(path: Path, error: OSError) -> Exception:
    if error.errno not in _LACKS:
        return error
    return NoRoom(
        f"there is no room for shared memory on the file system of {path.parent}",
        remedy=f"make room there: df -h {path.parent}",
    )


def map_file(path: Path, size: int, *, populate: bool = False) -> mmap.mmap:
    """All of a file, made if needed. `populate`: its pages are mapped before this returns.

    Raises NoRoom, or OSError.
    """
    descriptor = _open(path)
    flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise _no_room(path, error) from error
    finally:
        os.close(descriptor)


class Growing:
    """A file of which only a beginning has room; it takes more in steps, when it is asked to.

    One thread at a time. `memory` stays where it is.
    """

    def __init__(self, path: Path, size_max: int, needed: int = 0) -> None:
        """`needed`: how much of it is in use already. Raises NoRoom, or OSError."""
        self._path = path
        self._ready = 0
        self.shared_bytes = size_max
        """What lies behind this is lost with the process; see `go_on_alone`."""
        descriptor = _open(path)
        try:
            # No room is taken by this; pages behind `_ready` are never touched.
            os.ftruncate(descriptor, size_max)
            self.memory = mmap.mmap(descriptor, size_max)
            self._take(descriptor, max(needed, 1))
        except OSError as error:
            raise _no_room(path, error) from error
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int, needed: int) -> None:
        wanted = min(-(-needed // STEP_BYTES) * STEP_BYTES, len(self.memory))
        os.posix_fallocate(descriptor, self._ready, wanted - self._ready)
        self._ready = wanted

    def has(self, needed: int) -> bool:
        """Whether the first `needed` bytes may be touched; takes more room for them if it can."""
        if needed <= self._ready:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            self._take(descriptor, needed)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def go_on_alone(self) -> None:
        """What has no room becomes memory of this process: it can be used, and dies with it."""
        start, size = self._ready, len(self.memory)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
        access = mmap.PROT_READ | mmap.PROT_WRITE
        if _libc.mmap(begin + start, size - start, access, flags, -1, 0) != begin + start:
            raise OSError(ctypes.get_errno(), "no memory")
        self.shared_bytes, self._ready = start, size


class Turns:
    """A few bytes that are replaced as a whole: two places, written in turn, each with a check sum.

    Whoever is killed while it writes leaves what was there before.
    """

    _HEAD = Struct("<IQI")

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Raises NoRoom, or OSError."""
        self._place_bytes = self._HEAD.size + bytes_max
        self._memory = map_file(path, 2 * self._place_bytes)
        self._turn = max((turn for turn, _ in self._whole()), default=0)

    def _whole(self) -> list[tuple[int, bytes]]:
        found = []
        for at in (0, self._place_bytes):
            check, turn, length = self._HEAD.unpack_from(self._memory, at)
            body = self._memory[at + 4 : at + self._HEAD.size + length]
            if turn and length <= self._place_bytes and crc32c(body) == check:
                found.append((turn, body[self._HEAD.size - 4 :]))
        return found

    def write(self, data: bytes) -> None:
        """From here on this is what `read` returns, also in the next process."""
        assert len(data) <= self._place_bytes - self._HEAD.size
        self._turn += 1
        at = self._place_bytes * (self._turn & 1)
        body = self._HEAD.pack(0, self._turn, len(data))[4:] + data
        self._memory[at + 4 : at + 4 + len(body)] = body
        self._memory[at : at + 4] = crc32c(body).to_bytes(4, "little")

    def read(self) -> bytes:
        """What was written last; empty when nothing was."""
        return max(self._whole(), default=(0, b""))[1]
