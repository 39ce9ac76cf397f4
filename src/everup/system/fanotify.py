"""Hearing of writes to a whole file system, over ctypes.

What enters: a path on the file system. What leaves: for every file that was closed after it could
be written: who closed it, the handle of its directory, its name. Called by the tripwire. Needs
CAP_SYS_ADMIN; kernels from 5.9 on know directory handles with names.
"""

import ctypes
import os
import struct
from pathlib import Path
from typing import NamedTuple

from everup.system.kernelcalls import FileHandle

READ_BYTES = 1 << 20

_CLOEXEC, _NONBLOCK, _REPORT_DFID_NAME = 0x1, 0x2, 0xC00
_MARK_ADD, _MARK_FILESYSTEM = 0x1, 0x100
_CLOSE_WRITE, _OVERFLOW = 0x8, 0x4000
_DFID_NAME = 2
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")
_INFO = struct.Struct("=BBHiiIi")

_libc = ctypes.CDLL(None, use_errno=True)
_mark = _libc.fanotify_mark
_mark.argtypes = [
    ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p,
]  # fmt: skip


class Closed(NamedTuple):
    """A file that was open for writing was closed by this process, which may have ended since."""

    pid: int
    directory: FileHandle
    name: bytes


def open_watch() -> int:
    """Descriptor of a new, empty watch; readable when there is something. Raises OSError."""
    descriptor: int = _libc.fanotify_init(_CLOEXEC | _NONBLOCK | _REPORT_DFID_NAME, os.O_RDONLY)
    if descriptor < 0:
        raise _failed()
    return descriptor


def watch_file_system(watch: int, path: Path) -> None:
    """From here on files of the file system that holds `path` count. Raises OSError."""
    flags = _MARK_ADD | _MARK_FILESYSTEM
    if _mark(watch, flags, _CLOSE_WRITE, _AT_FDCWD, os.fsencode(path)) < 0:
        raise _failed()


def read_watch(watch: int) -> tuple[list[Closed], bool]:
    """What has happened, and whether something was lost since the queue was full."""
    try:
        data = os.read(watch, READ_BYTES)
    except BlockingIOError:
        return [], False
    found: list[Closed] = []
    lost = False
    at = 0
    while at < len(data):
        length, _, _, head, mask, _, pid = _EVENT.unpack_from(data, at)
        lost = lost or bool(mask & _OVERFLOW)
        if length >= head + _INFO.size:
            kind, _, _, _, _, handle_bytes, handle_kind = _INFO.unpack_from(data, at + head)
            if kind == _DFID_NAME:
                start = at + head + _INFO.size
                handle = FileHandle(handle_kind, data[start : start + handle_bytes])
                rest = data[start + handle_bytes : at + length]
                found.append(Closed(pid, handle, rest.split(b"\0", 1)[0]))
        at += length
    return found, lost


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
