"""Bytes of the answers that carry attributes.

What enters: results of stat. What leaves: `fuse_entry_out`, `fuse_attr_out`, `fuse_statx_out`.
Called by the handlers. Timeouts are long, since nothing changes a protected tree but requests of
this kernel; only the attributes of programs with set-id bits are asked for again every time: a
write takes the bits away, and the kernel would run the program with those that it remembers.
"""

import os
from stat import S_ISGID, S_ISREG, S_ISUID

from everup.capture.protocol import ATTR_OUT, ENTRY_OUT, STATX_OUT_HEAD

VALID_S = 86400
BLOCK_BYTES = 4096
_SECOND = 1_000_000_000
_SET_ID = S_ISUID | S_ISGID
_STATX_LINKS = slice(16, 20)
_STATX_MODE = slice(28, 30)

NEGATIVE_ENTRY = ENTRY_OUT.pack(0, 0, VALID_S, 0, *([0] * 18))
"""`There is no such name`, to be remembered by the kernel."""


def _attributes(status: os.stat_result, orphan: bool) -> tuple[int, ...]:
    access, access_ns = divmod(status.st_atime_ns, _SECOND)
    modified, modified_ns = divmod(status.st_mtime_ns, _SECOND)
    changed, changed_ns = divmod(status.st_ctime_ns, _SECOND)
    links = max(status.st_nlink - 1, 0) if orphan else status.st_nlink
    mask = (1 << 64) - 1
    return (
        status.st_ino, status.st_size, status.st_blocks,
        access & mask, modified & mask, changed & mask, access_ns, modified_ns, changed_ns,
        status.st_mode, links, status.st_uid, status.st_gid, _device(status.st_rdev),
        BLOCK_BYTES, 0,
    )  # fmt: skip


def _device(number: int) -> int:
    """The 32-bit form in which the kernel passes device numbers."""
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def device_from_kernel(number: int) -> int:
    """The other way round."""
    return os.makedev((number & 0xFFF00) >> 8, (number & 0xFF) | ((number >> 12) & 0xFFF00))


def _valid_s(mode: int) -> int:
    return 0 if mode & _SET_ID and S_ISREG(mode) else VALID_S


def attributes_reply(status: os.stat_result, orphan: bool = False) -> bytes:
    return ATTR_OUT.pack(_valid_s(status.st_mode), 0, *_attributes(status, orphan))


def entry_reply(node: int, status: os.stat_result, orphan: bool = False) -> bytes:
    valid_s = _valid_s(status.st_mode)
    return ENTRY_OUT.pack(node, 0, VALID_S, valid_s, 0, 0, *_attributes(status, orphan))


def extended_reply(status: bytes, orphan: bool) -> bytes:
    """Answer to STATX: `struct statx` with the link count that the mounted view shows."""
    links = int.from_bytes(status[_STATX_LINKS], "little")
    mode = int.from_bytes(status[_STATX_MODE], "little")
    if orphan:
        links = max(links - 1, 0)
    shown = status[: _STATX_LINKS.start] + links.to_bytes(4, "little") + status[_STATX_LINKS.stop :]
    return STATX_OUT_HEAD.pack(_valid_s(mode), 0, 0) + shown
