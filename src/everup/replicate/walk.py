"""Walk a lower tree on the active side, by descriptors, giving every object its id.

What enters: an open tree. What leaves: directories with their entries, parents first. The tree is
alive: what vanishes between listing and opening is left out, the journal tells where it went.
Called by the copy and by the proof of a sync.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from stat import S_ISDIR

from everup.model.ids import ORPHANS_NAME
from everup.replicate.lower import LowerTree, visible_xattrs
from everup.replicate.scan import ABSENT
from everup.system.kernelcalls import HandleCalls
from everup.system.objectid import ensure_id
from everup.system.treecalls import door, open_beneath
from everup.wire.syncmessages import Attributes

_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_NO_NAMES = (b"", b".", b"..")


@dataclass
class Seen:
    """An entry of a directory; `descriptor` is O_PATH and belongs to whoever got this."""

    name: bytes
    descriptor: int
    object_id: bytes
    status: os.stat_result


@dataclass
class Visited:
    """A directory of the tree and its entries, opened one after the other."""

    path: bytes
    descriptor: int
    object_id: bytes
    status: os.stat_result
    entries: Iterator[Seen]


class IdGiver:
    """Reads ids of objects and gives them where they are missing."""

    def __init__(self) -> None:
        self._handles = HandleCalls()

    def id_of(self, descriptor: int) -> bytes:
        """Id of an open object (also O_PATH). The guard may give one at the same moment."""
        return ensure_id(descriptor, self._handles.of(descriptor), path_only=True)


def attributes_of(descriptor: int, status: os.stat_result) -> Attributes:
    """Everything but names and content. `descriptor` may be O_PATH."""
    return Attributes(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_rdev,
        visible_xattrs(descriptor),
    )


def open_file(descriptor: int) -> int:
    """Content of an object opened as O_PATH."""
    return os.open(door(descriptor), os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)


def walk(
    tree: LowerTree, ids: IdGiver, start: bytes = b"", start_id: bytes | None = None
) -> Iterator[Visited]:
    """Directories from `start` on, parents before children; the caller uses up `entries`.

    A directory that is not at its path any more when its turn comes is left out.
    """
    pending: list[tuple[bytes, bytes]] = [(start, start_id or tree.root_id)]
    while pending:
        path, object_id = pending.pop()
        try:
            descriptor = open_beneath(tree.root, path, _DIRECTORY)
        except OSError as problem:
            if problem.errno in ABSENT:
                continue
            raise
        try:
            if path and ids.id_of(descriptor) != object_id:
                continue
            inner: list[tuple[bytes, bytes]] = []
            status = os.fstat(descriptor)
            entries = _entries(ids, path, descriptor, inner)
            yield Visited(path, descriptor, object_id, status, entries)
            pending += reversed(inner)
        finally:
            os.close(descriptor)


def _entries(
    ids: IdGiver, path: bytes, directory: int, inner: list[tuple[bytes, bytes]]
) -> Iterator[Seen]:
    for text in os.listdir(directory):
        name = os.fsencode(text)
        if not path and name == ORPHANS_NAME:
            continue
        seen = look(ids, directory, name)
        if seen is None:
            continue
        if S_ISDIR(seen.status.st_mode):
            inner.append((path + b"/" + name if path else name, seen.object_id))
        yield seen


def look(ids: IdGiver, directory: int, path: bytes) -> Seen | None:
    """The object at a path below a directory; None when there is none."""
    try:
        if b"/" in path or path in _NO_NAMES:
            descriptor = open_beneath(directory, path, os.O_PATH)
        else:
            # Any other single name leads nowhere else, and this call costs a third.
            descriptor = os.open(path, _ENTRY, dir_fd=directory)
    except OSError as problem:
        if problem.errno in ABSENT:
            return None
        raise
    try:
        status = os.fstat(descriptor)
        return Seen(path.rpartition(b"/")[2], descriptor, ids.id_of(descriptor), status)
    except FileNotFoundError:
        os.close(descriptor)
        return None


class InodeSet:
    """Inode numbers in pages of bits: a million neighbours cost 125 KB, not 60 MB."""

    _PAGE_BITS = 4096

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, inode: int) -> bool:
        """False when it was there already."""
        number, bit = divmod(inode, self._PAGE_BITS)
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = bytearray(self._PAGE_BITS // 8)
        mask = 1 << (bit & 7)
        if page[bit >> 3] & mask:
            return False
        page[bit >> 3] |= mask
        return True

    def __contains__(self, inode: int) -> bool:
        number, bit = divmod(inode, self._PAGE_BITS)
        page = self._pages.get(number)
        return page is not None and bool(page[bit >> 3] & (1 << (bit & 7)))
