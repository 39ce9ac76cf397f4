"""The lower trees: protected directories below the gate, reached by descriptors only.

What enters: ids of trees. What leaves: `LowerTree` values with an open root. Called by the applier
and the sync. A tree without this group's marker is refused, so that an unmounted disk is never
taken for an empty tree.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from everup.errors import Refused
from everup.model.ids import (
    GROUP_XATTR,
    OBJECT_ID_BYTES,
    OBJECT_ID_XATTR,
    ORPHANS_NAME,
    PRIVATE_XATTR_PREFIX,
    root_object_id,
)
from everup.system.kernelcalls import HandleCalls, sync_filesystem
from everup.system.objectid import encode_id
from everup.system.treecalls import door

NO_ID = b""
"""An object that exists and has no id."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


@dataclass(frozen=True)
class LowerTree:
    """One protected tree; `root` and `orphans` are open directories."""

    tree_id: int
    root: int
    root_id: bytes
    orphans: int

    def sync(self) -> None:
        sync_filesystem(self.root)

    def close(self) -> None:
        os.close(self.root)
        os.close(self.orphans)


def open_tree(path: Path, tree_id: int, group_id: str, *, adopt: bool = False) -> LowerTree:
    """Open a lower tree. Raises Refused when it does not carry the marker of this group.

    With `adopt` an unmarked directory becomes this group's (first sync of a new passive).
    """
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        raise Refused(
            f"protected tree {tree_id} cannot be reached at {path}: {problem.strerror}",
            remedy="systemctl status everup-guard",
            code="tree-unreachable",
        ) from problem
    try:
        _check_marker(root, tree_id, group_id, adopt=adopt)
        orphans = _open_orphans(root)
    except BaseException:
        os.close(root)
        raise
    return LowerTree(tree_id, root, root_object_id(group_id, tree_id), orphans)


def _check_marker(root: int, tree_id: int, group_id: str, *, adopt: bool) -> None:
    try:
        marker = os.getxattr(root, GROUP_XATTR)
    except OSError as problem:
        if problem.errno != errno.ENODATA:
            raise
        marker = b""
    if marker == group_id.encode():
        return
    if not adopt or marker:
        raise Refused(
            f"protected tree {tree_id} does not carry the marker of this group",
            remedy="check that its file system is mounted; "
            "everup protect marks it again on the active server",
            code="tree-marker",
        )
    os.setxattr(root, GROUP_XATTR, group_id.encode())


def _open_orphans(root: int) -> int:
    try:
        os.mkdir(ORPHANS_NAME, 0o700, dir_fd=root)
    except FileExistsError:
        pass
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(ORPHANS_NAME, flags, dir_fd=root)


def id_of_name(directory: int, name: bytes) -> bytes | None:
    """Object id of a directory entry; NO_ID when it has none, None when there is no such entry.

    A copied attribute is believed here: on a passive only this process creates objects.
    """
    try:
        value = os.getxattr(door(directory, name), OBJECT_ID_XATTR, follow_symlinks=False)
    except OSError as problem:
        if problem.errno == errno.ENODATA:
            return NO_ID
        if problem.errno in _ABSENT:
            return None
        raise
    return value[:OBJECT_ID_BYTES]


def id_of_descriptor(descriptor: int) -> bytes:
    """Object id of an open object (also O_PATH); NO_ID when it has none."""
    try:
        return os.getxattr(door(descriptor), OBJECT_ID_XATTR)[:OBJECT_ID_BYTES]
    except OSError as problem:
        if problem.errno == errno.ENODATA:
            return NO_ID
        raise


def give_id(descriptor: int, object_id: bytes, handles: HandleCalls) -> None:
    """Write the id of an open object (also O_PATH)."""
    os.setxattr(door(descriptor), OBJECT_ID_XATTR, encode_id(object_id, handles.of(descriptor)))


def visible_xattrs(descriptor: int) -> dict[bytes, bytes]:
    """Extended attributes that are replicated: all but Everup's own."""
    path = door(descriptor)
    found = {}
    for name in map(os.fsencode, os.listxattr(path)):
        if name.startswith(PRIVATE_XATTR_PREFIX):
            continue
        try:
            found[name] = os.getxattr(path, name)
        except OSError as problem:
            if problem.errno != errno.ENODATA:
                raise
    return found


def remove_all(directory: int, name: bytes) -> None:
    """Remove an entry and everything below it; absent is done."""
    try:
        os.unlink(name, dir_fd=directory)
        return
    except FileNotFoundError:
        return
    except OSError as problem:
        if problem.errno not in (errno.EISDIR, errno.EPERM):
            raise
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    inner = os.open(name, flags, dir_fd=directory)
    try:
        for entry in os.listdir(inner):
            remove_all(inner, os.fsencode(entry))
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=directory)
