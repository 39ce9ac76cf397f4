"""Times and birth of objects, as the kernel's own structures, over ctypes.

What enters: a descriptor (also O_PATH) and times as the application gave them. What leaves:
changed times, or the bytes of `struct statx`. Called by capture. Python's `os.utime` cannot leave
one of the two times alone, nor let the file system's own clock choose it: a clock read here may be
ahead of the one that the next write uses, and times would go backwards.
"""

import ctypes
import os
from struct import Struct

TIME_NOW = (1 << 30) - 1
"""As nanoseconds: the time of the file system's clock."""
TIME_KEPT = (1 << 30) - 2
"""As nanoseconds: leave this time alone."""
STATX_BASIC_AND_BIRTH = 0xFFF
STATX_BYTES = 256

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_TIMES = Struct("<qqqq")

_libc = ctypes.CDLL(None, use_errno=True)
_utimensat = _libc.utimensat
_utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
_statx = _libc.statx
_statx.argtypes = [
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
]  # fmt: skip


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def set_times(descriptor: int, access: tuple[int, int], modified: tuple[int, int]) -> None:
    """Set both times, each (seconds, nanoseconds) with TIME_NOW and TIME_KEPT. Raises OSError.

    Through the descriptor's door, so that it works for symbolic links and special files too.
    """
    times = _TIMES.pack(*access, *modified)
    if _utimensat(_AT_FDCWD, b"/proc/self/fd/%d" % descriptor, times, 0) < 0:
        raise _failed()


def extended_status(descriptor: int) -> bytes:
    """`struct statx` of an open object (also O_PATH), with its birth time if there is one."""
    buffer = ctypes.create_string_buffer(STATX_BYTES)
    if _statx(descriptor, b"", _AT_EMPTY_PATH, STATX_BASIC_AND_BIRTH, buffer) < 0:
        raise _failed()
    return buffer.raw
