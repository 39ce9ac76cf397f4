"""Look at every entry of a lower tree without opening it and without reading content.

What enters: an open tree. What leaves: entries with the path of each, parents first. Called to
measure a tree, to find objects by id, and for what lies in a directory that goes away. What
vanishes meanwhile is left out.
"""

import errno
import os
from collections.abc import Iterator
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

from everup.model.ids import ORPHANS_NAME
from everup.replicate.lower import LowerTree
from everup.system.treecalls import open_beneath

ABSENT = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ESTALE,
    errno.ENAMETOOLONG,
    errno.EXDEV,
)
"""What `open_beneath` says of a path that leads to nothing in the tree; EXDEV: out of it."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """`directory` is open only until the next one is asked for."""

    path: bytes
    directory: int
    name: bytes
    status: os.stat_result


def scan(tree: LowerTree, top: bytes = b"", *, orphans: bool = False) -> Iterator[Found]:
    """Everything below `top`; what is kept aside in the orphan directory only when asked for."""
    pending = [top]
    while pending:
        path = pending.pop()
        try:
            directory = open_beneath(tree.root, path, _DIRECTORY)
        except OSError as problem:
            if problem.errno in ABSENT:
                continue
            raise
        try:
            for name in map(os.fsencode, os.listdir(directory)):
                if not path and name == ORPHANS_NAME and not orphans:
                    continue
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                inner = path + b"/" + name if path else name
                if S_ISDIR(status.st_mode):
                    pending.append(inner)
                yield Found(inner, directory, name, status)
        finally:
            os.close(directory)


def survey(tree: LowerTree) -> tuple[int, dict[int, list[bytes]]]:
    """Number of objects; and by inode, every path of a file that has several."""
    objects, names = 0, dict[int, list[bytes]]()
    for found in scan(tree):
        objects += 1
        if found.status.st_nlink > 1 and not S_ISDIR(found.status.st_mode):
            names.setdefault(found.status.st_ino, []).append(found.path)
    return objects, names


def measure(tree: LowerTree) -> tuple[int, int]:
    """(objects, bytes of content) of a tree, for progress and for the guard against emptiness."""
    objects = content = 0
    for found in scan(tree):
        objects += 1
        if S_ISREG(found.status.st_mode):
            content += min(found.status.st_size, found.status.st_blocks * 512)
    return objects, content
