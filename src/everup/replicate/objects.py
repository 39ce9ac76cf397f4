"""Find objects of a lower tree by id and keep them open.

What enters: an object id and the path hint of a record. What leaves: an open descriptor of exactly
that object: read-write for a regular file, for reading for a directory, O_PATH for anything else.
The id decides; the hint only says where to look first. Called by `operations`.
"""

import os
from collections import OrderedDict
from stat import S_IFDIR, S_IFMT, S_IFREG, S_ISDIR

from everup.replicate.lower import LowerTree, id_of_descriptor, id_of_name
from everup.replicate.scan import ABSENT, scan
from everup.system.treecalls import door, open_beneath

DESCRIPTORS_MAX = 1024
NAMES_MAX = 65536
DISPLACED_SUFFIX = b".displaced"


def orphan_name(object_id: bytes) -> bytes:
    return object_id.hex().encode()


def displaced_name(object_id: bytes) -> bytes:
    """Name in the orphan directory of what a replay moved out of the way."""
    return object_id.hex().encode() + DISPLACED_SUFFIX


class Objects:
    """Open objects of one tree, least recently used closed first. Belongs to one thread."""

    def __init__(self, tree: LowerTree) -> None:
        self.tree = tree
        self._open: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._names: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()
        self._hints: OrderedDict[bytes, bytes] = OrderedDict()
        self._index: dict[bytes, bytes] | None = None
        self._index_old = False

    def cached(self, object_id: bytes) -> int | None:
        """Descriptor of an object that is open already."""
        entry = self._open.get(object_id)
        return None if entry is None else entry[0]

    def find(self, object_id: bytes, hint: bytes, *, walk: bool = False) -> int | None:
        """Descriptor of an object; None when it is nowhere to be found.

        `walk` searches the whole tree as a last resort (once, until `forget_index`).
        """
        entry = self._open.get(object_id)
        if entry is not None:
            self._open.move_to_end(object_id)
            return entry[0]
        if object_id == self.tree.root_id:
            return self.tree.root
        found = self._search(object_id, hint, walk)
        if found is None:
            return None
        if hint:
            self.note_hint(object_id, hint)
        return self._keep(object_id, found)

    def add(self, object_id: bytes, descriptor: int, kind: int) -> None:
        """Take over a descriptor that the caller has just opened or created."""
        self.drop(object_id)
        self._open[object_id] = (descriptor, kind)
        if len(self._open) > DESCRIPTORS_MAX:
            _, (oldest, _) = self._open.popitem(last=False)
            os.close(oldest)

    def is_directory(self, object_id: bytes) -> bool:
        entry = self._open.get(object_id)
        return object_id == self.tree.root_id or (entry is not None and entry[1] == S_IFDIR)

    def is_file(self, object_id: bytes) -> bool:
        entry = self._open.get(object_id)
        return entry is not None and entry[1] == S_IFREG

    def drop(self, object_id: bytes) -> None:
        entry = self._open.pop(object_id, None)
        if entry is not None:
            os.close(entry[0])

    def note_name(self, object_id: bytes, directory_id: bytes, name: bytes) -> None:
        """Remember where an object has just been put."""
        self._names[object_id] = (directory_id, name)
        if len(self._names) > NAMES_MAX:
            self._names.popitem(last=False)

    def note_hint(self, object_id: bytes, hint: bytes) -> None:
        self._hints[object_id] = hint
        if len(self._hints) > NAMES_MAX:
            self._hints.popitem(last=False)

    def forget_name(self, object_id: bytes) -> None:
        self._names.pop(object_id, None)
        self._hints.pop(object_id, None)

    def forget_index(self) -> None:
        self._index = None

    def note_moved_directory(self) -> None:
        """Paths below it in the index may be wrong from now on."""
        self._index_old = True

    def close(self) -> None:
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _search(self, object_id: bytes, hint: bytes, walk: bool) -> int | None:
        if hint and (found := self._at_path(object_id, hint)) is not None:
            return found
        place = self._names.get(object_id)
        if place is not None and (found := self._at_name(object_id, *place)) is not None:
            return found
        older = self._hints.get(object_id)
        if older and older != hint and (found := self._at_path(object_id, older)) is not None:
            return found
        for name in (orphan_name(object_id), displaced_name(object_id)):
            if (found := self._at(self.tree.orphans, name, object_id)) is not None:
                return found
        return self._by_walk(object_id) if walk else None

    def _at_path(self, object_id: bytes, path: bytes) -> int | None:
        return self._at(self.tree.root, path, object_id)

    def _at_name(self, object_id: bytes, directory_id: bytes, name: bytes) -> int | None:
        if directory_id == object_id:
            return None
        directory = self.find(directory_id, b"")
        return None if directory is None else self._at(directory, name, object_id)

    def _at(self, directory: int, path: bytes, object_id: bytes) -> int | None:
        try:
            found = open_beneath(directory, path, os.O_PATH)
        except OSError as problem:
            if problem.errno in ABSENT:
                return None
            raise
        if id_of_descriptor(found) == object_id:
            return found
        os.close(found)
        return None

    def _keep(self, object_id: bytes, path_descriptor: int) -> int:
        kind = S_IFMT(os.fstat(path_descriptor).st_mode)
        if kind not in (S_IFREG, S_IFDIR):
            self.add(object_id, path_descriptor, kind)
            return path_descriptor
        flags = os.O_RDWR | os.O_NOATIME if kind == S_IFREG else os.O_RDONLY | os.O_DIRECTORY
        try:
            descriptor = os.open(door(path_descriptor), flags | os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(path_descriptor)
        self.add(object_id, descriptor, kind)
        return descriptor

    def _by_walk(self, object_id: bytes) -> int | None:
        if self._index is not None:
            path = self._index.get(object_id)
            found = self._at_path(object_id, path) if path else None
            if found is not None or not self._index_old:
                return found
        self._index, self._index_old = build_index(self.tree), False
        path = self._index.get(object_id)
        return None if path is None else self._at_path(object_id, path)


def build_index(tree: LowerTree) -> dict[bytes, bytes]:
    """Paths of all objects of a tree by id, displaced ones included; reads no content."""
    index: dict[bytes, bytes] = {}
    for found in scan(tree, orphans=True):
        object_id = id_of_name(found.directory, found.name)
        if object_id:
            index[object_id] = found.path
    return index


def is_directory(descriptor: int) -> bool:
    return S_ISDIR(os.fstat(descriptor).st_mode)
