"""Mounts: read-only binds over a directory, FUSE connections, taking both away.

What enters: paths and descriptors. What leaves: a changed mount table, or OSError. Called by the
gate. Nothing here looks *into* a mounted directory (a dead FUSE mount would answer ENOTCONN, a live
one would wait for ourselves); what is mounted where comes from mountinfo.
"""

import ctypes
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

MS_BIND = 4096
MS_PRIVATE = 1 << 18
MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_AT_FDCWD = -100
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_EMPTY_PATH = 0x1000
_MOUNT_ATTR_RDONLY = 1
# open_tree, move_mount and mount_setattr have the same numbers on every architecture.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    _check(
        _libc.mount(
            source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags),
            data.encode(),
        ),
        f"mount {target}",
    )  # fmt: skip


class MountPoint(NamedTuple):
    """A line of mountinfo: where, of what kind, from what; later ones lie on top of earlier."""

    path: Path
    kind: str
    source: str
    root: str
    options: str
    device: str


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mount_points() -> list[MountPoint]:
    """All mounts of this process's namespace, in mount order."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        path = Path(_unescape(fields[4]))
        found.append(
            MountPoint(
                path, kind[0], _unescape(kind[1]), _unescape(fields[3]), fields[5], fields[2]
            )
        )
    return found


def mounts_at(path: Path) -> list[MountPoint]:
    """What is mounted exactly at `path`, lowest first."""
    return [point for point in mount_points() if point.path == path]


def bind_private(source: Path, target: Path) -> None:
    """Bind `source` (not what is mounted below it) at `target`, apart from any propagation.

    Private first: mounting over `source` afterwards would otherwise also cover this bind, since
    both would be peers.
    """
    _mount(str(source), target, "", MS_BIND, "")
    _mount("none", target, "", MS_PRIVATE, "")


def bind_read_only(source: Path, target: Path) -> None:
    """Cover `target` by `source`, read-only from its first moment, also in other namespaces."""
    tree = _check(
        _syscall(
            ctypes.c_long(_SYS_OPEN_TREE), ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(os.fsencode(source)),
            ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC),
        ),
        f"open_tree {source}",
    )  # fmt: skip
    try:
        attributes = struct.pack("<QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
        _check(
            _syscall(
                ctypes.c_long(_SYS_MOUNT_SETATTR), ctypes.c_int(tree), ctypes.c_char_p(b""),
                ctypes.c_uint(_AT_EMPTY_PATH), ctypes.c_char_p(attributes),
                ctypes.c_size_t(len(attributes)),
            ),
            "mount_setattr",
        )  # fmt: skip
        _check(
            _syscall(
                ctypes.c_long(_SYS_MOVE_MOUNT), ctypes.c_int(tree), ctypes.c_char_p(b""),
                ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(os.fsencode(target)),
                ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
            ),
            f"move_mount {target}",
        )  # fmt: skip
    finally:
        os.close(tree)


def mount_fuse(device: int, target: Path, name: str) -> None:
    """Mount the connection behind `device` over `target`, for every user of the machine.

    What the file system below does not allow (programs, devices, set-id bits) is not allowed here.
    """
    flags = os.statvfs(target).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    _mount(name, target, "fuse.everup", flags, options)


def unmount(target: Path, flags: int = 0) -> None:
    """Take the topmost mount away. Raises OSError (EBUSY, EINVAL when nothing is mounted)."""
    _check(
        _libc.umount2(os.fsencode(target), ctypes.c_int(flags | UMOUNT_NOFOLLOW)),
        f"umount {target}",
    )
