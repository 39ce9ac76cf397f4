"""The gate over protected paths, kept by the kernel's mount table.

Closed: the path is covered by a read-only bind of itself, so every write fails with EROFS, whoever
tries, also when no process of ours runs. Open: a fresh FUSE connection lies on top of that. The
directory itself stays reachable, and writable, below the private directory of binds.

What enters: trees (id and path). What leaves: mounts. Called by the guard's worker and, before the
disks' target at boot, by everup-hide. Nothing here looks into a mounted path.
"""

import errno
import sys
import time
from pathlib import Path
from typing import NamedTuple

from everup.errors import EverupError, Refused
from everup.places import Places
from everup.system.files import load_json, save_json
from everup.system.mounts import (
    MNT_DETACH,
    MNT_FORCE,
    MountPoint,
    bind_private,
    bind_read_only,
    mounts_at,
    unmount,
)

FUSE_KIND = "fuse.everup"
MOUNT_NAME = "everup"
_UNMOUNT_STEP_S = 0.02
_STACK_MAX = 16


class ArmedTree(NamedTuple):
    """A protected tree and its place; the gate stands over the path."""

    tree_id: int
    path: Path


def load_armed(places: Places) -> list[ArmedTree]:
    """The trees that are armed, also after the next boot."""
    value = load_json(places.armed) or []
    return [ArmedTree(int(tree["id"]), Path(tree["path"])) for tree in value]


def save_armed(places: Places, trees: list[ArmedTree]) -> None:
    value = [{"id": tree.tree_id, "path": str(tree.path)} for tree in trees]
    save_json(places.armed, value, operation="save-armed")


def _read_only(point: MountPoint) -> bool:
    return point.options.split(",")[0] == "ro" and point.kind != FUSE_KIND


def is_closed(path: Path) -> bool:
    """Whether the topmost mount at `path` is a read-only one."""
    points = mounts_at(path)
    return bool(points) and _read_only(points[-1])


def is_open(path: Path) -> bool:
    """Whether a connection of ours is mounted on top at `path`."""
    points = mounts_at(path)
    return bool(points) and points[-1].kind == FUSE_KIND


def arm_tree(places: Places, tree: ArmedTree) -> None:
    """Close the gate over one path; repeating it changes nothing. Raises EverupError."""
    lower = places.lower(tree.tree_id)
    try:
        if not mounts_at(lower):
            if is_closed(tree.path) or is_open(tree.path):
                uncover(tree.path)
            lower.mkdir(parents=True, exist_ok=True, mode=0o700)
            bind_private(tree.path, lower)
        if not is_open(tree.path) and not is_closed(tree.path):
            bind_read_only(lower, tree.path)
    except OSError as error:
        raise Refused(
            f"the gate cannot be closed over {tree.path}: {error.strerror}",
            remedy="check that the path exists and its file system is mounted",
            code="gate-arm",
        ) from error


def disarm_tree(places: Places, tree: ArmedTree) -> None:
    """The plain directory again; repeating it changes nothing."""
    uncover(tree.path)
    lower = places.lower(tree.tree_id)
    for _ in mounts_at(lower):
        unmount(lower, MNT_DETACH)


def uncover(path: Path) -> None:
    """Take every mount of ours off `path`; one that was there before us stays."""
    for _ in range(_STACK_MAX):
        points = mounts_at(path)
        if not points or not (points[-1].kind == FUSE_KIND or _read_only(points[-1])):
            return
        unmount(path, MNT_DETACH)


def clean_dead(path: Path) -> bool:
    """Take connections off whose guard is gone (a dead one answers ENOTCONN to everybody)."""
    found = False
    for _ in range(_STACK_MAX):
        if not is_open(path):
            break
        unmount(path, MNT_DETACH)
        found = True
    return found


def unmount_gently(path: Path, give_up: float) -> bool:
    """Unmount as soon as nobody uses it, until the moment `give_up` (monotonic seconds)."""
    while True:
        try:
            unmount(path)
            return True
        except OSError as error:
            if error.errno == errno.EINVAL:
                return True
            if time.monotonic() >= give_up:
                return False
        time.sleep(_UNMOUNT_STEP_S)


def unmount_hard(path: Path) -> None:
    """Abort the connection and take it off, whoever uses it (they get ENOTCONN from then on)."""
    for flags in (MNT_FORCE, MNT_DETACH):
        if is_open(path):
            try:
                unmount(path, flags)
            except OSError:
                continue


def close_at_boot(places: Places) -> list[str]:
    """Close every gate of the armed list; returns a sentence for each one that could not be.

    Called by everup-hide before anything can write below a protected path.
    """
    problems = []
    for tree in load_armed(places):
        try:
            clean_dead(tree.path)
            arm_tree(places, tree)
        except (EverupError, OSError) as error:
            problems.append(str(error))
            print(f"everup-hide: {error}", file=sys.stderr, flush=True)
    return problems
