"""System calls that Python's `os` does not offer, over ctypes.

What enters: descriptors, names as bytes, numbers. What leaves: their results, or OSError with the
kernel's number. Called by capture and replicate (file handles, renames with flags, holes) and by
the gate (the mount calls). Names are always relative to a directory descriptor.
"""

import ctypes
import errno
import os
import struct
from typing import NamedTuple

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_FOLLOW = 0x400
AT_RECURSIVE = 0x8000

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
FALLOC_ZERO_RANGE = 16

HANDLE_BYTES_MAX = 128
DIRECTORY_BUFFER_BYTES = 32768

_HANDLE_HEAD = struct.Struct("<Ii")
_ENTRY_HEAD = struct.Struct("<QqHB")
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}[os.uname().machine]

_libc = ctypes.CDLL(None, use_errno=True)
_name_to_handle_at = _libc.name_to_handle_at
_name_to_handle_at.argtypes = [
    ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
]  # fmt: skip
_open_by_handle_at = _libc.open_by_handle_at
_open_by_handle_at.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
_getdents64 = _libc.getdents64
_getdents64.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_getdents64.restype = ctypes.c_ssize_t
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_syncfs = _libc.syncfs
_syncfs.argtypes = [ctypes.c_int]


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


class FileHandle(NamedTuple):
    """Names an inode of one file system, also after every rename; stale once it is deleted."""

    kind: int
    data: bytes


class Directory(NamedTuple):
    """One entry of getdents64; `offset` is where the next one is found."""

    inode: int
    offset: int
    kind: int
    name: bytes


class HandleCalls:
    """File handles with buffers prepared once; one instance per thread."""

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(8 + HANDLE_BYTES_MAX)
        self._mount = ctypes.c_int()
        self._mount_at = ctypes.addressof(self._mount)

    def of(self, directory: int, name: bytes = b"") -> FileHandle:
        """Handle of `name` in a directory, or of the descriptor itself; links are not followed."""
        buffer = self._buffer
        _HANDLE_HEAD.pack_into(buffer, 0, HANDLE_BYTES_MAX, 0)
        flags = 0 if name else AT_EMPTY_PATH
        if _name_to_handle_at(directory, name, buffer, self._mount_at, flags) < 0:
            raise _failed()
        length, kind = _HANDLE_HEAD.unpack_from(buffer)
        return FileHandle(kind, buffer.raw[8 : 8 + length])


def open_by_handle(mount: int, handle: FileHandle, flags: int) -> int:
    """Descriptor of the inode. ESTALE when it is gone."""
    data = _HANDLE_HEAD.pack(len(handle.data), handle.kind) + handle.data
    descriptor: int = _open_by_handle_at(mount, data, flags | os.O_CLOEXEC)
    if descriptor < 0:
        raise _failed()
    return descriptor


def read_directory(descriptor: int, buffer: "ctypes.Array[ctypes.c_char]") -> list[Directory]:
    """Next entries of a directory from the descriptor's offset on; empty at the end."""
    count = _getdents64(descriptor, buffer, len(buffer))
    if count < 0:
        raise _failed()
    entries = []
    view = memoryview(buffer)[:count].cast("B")
    at = 0
    while at < count:
        inode, offset, length, kind = _ENTRY_HEAD.unpack_from(view, at)
        name = bytes(view[at + 19 : at + length])
        entries.append(Directory(inode, offset, kind, name[: name.index(0)]))
        at += length
    return entries


def rename(
    old_directory: int, old_name: bytes, new_directory: int, new_name: bytes, flags: int
) -> None:
    """renameat2; EINVAL when the file system does not know a flag."""
    if flags == 0:
        os.rename(old_name, new_name, src_dir_fd=old_directory, dst_dir_fd=new_directory)
        return
    result = _syscall(
        ctypes.c_long(_SYS_RENAMEAT2), ctypes.c_int(old_directory), ctypes.c_char_p(old_name),
        ctypes.c_int(new_directory), ctypes.c_char_p(new_name), ctypes.c_uint(flags),
    )  # fmt: skip
    if result < 0:
        raise _failed()


def allocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate with its mode; EOPNOTSUPP passes unchanged."""
    while _fallocate(descriptor, mode, offset, length) < 0:
        if ctypes.get_errno() != errno.EINTR:
            raise _failed()


def sync_filesystem(descriptor: int) -> None:
    """Write everything of the descriptor's file system to its disk."""
    if _syncfs(descriptor) < 0:
        raise _failed()


def die_with_parent() -> None:
    """SIGKILL this process when the thread that started it ends."""
    pr_set_pdeathsig = 1
    if _libc.prctl(pr_set_pdeathsig, 9, 0, 0, 0) < 0:
        raise _failed()


def keep_in_memory() -> bool:
    """Lock what this process maps, now and later; False when it is not permitted.

    Pages are locked as they are touched (ONFAULT): large sparse maps must not be filled.
    """
    current, future, on_fault = 1, 2, 4
    return bool(_libc.mlockall(current | future | on_fault) == 0)


def be_io_flusher() -> bool:
    """Tell the kernel that its own writeback waits for this process; False when not permitted."""
    pr_set_io_flusher = 57
    return bool(_libc.prctl(pr_set_io_flusher, 1, 0, 0, 0) == 0)
