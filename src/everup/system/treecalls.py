"""Opening objects of a protected tree by path without leaving the tree.

What enters: a descriptor of the tree's root and a path as bytes. What leaves: descriptors. No
symbolic link is followed on the way, so a stale path never leads out of the tree. Called by the
replicator. Errors are OSError with the kernel's number.
"""

import ctypes
import errno
import os
import struct

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
_OPEN_HOW = struct.Struct("=QQQ")

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """Open `path` (empty: the directory itself) below `directory`; a final link is not followed."""
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
    while True:
        descriptor: int = _syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(directory),
            ctypes.c_char_p(path or b"."),
            ctypes.c_char_p(how),
            ctypes.c_size_t(_OPEN_HOW.size),
        )
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        # EAGAIN: a rename raced with the walk of "..", which only says: try again.
        if number not in (errno.EINTR, errno.EAGAIN):
            raise OSError(number, os.strerror(number), os.fsdecode(path))


def door(descriptor: int, name: bytes = b"") -> bytes:
    """A path that names exactly the descriptor's object, or a name in that directory.

    The kernel goes through it to the object itself, also when that is a symbolic link opened with
    O_PATH; so chown, utime and the calls for extended attributes work on every kind of object
    (chmod does not on symbolic links, which have no mode).
    """
    if name:
        return b"/proc/self/fd/%d/%s" % (descriptor, name)
    return b"/proc/self/fd/%d" % descriptor
