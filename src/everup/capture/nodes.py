"""What the kernel knows of a mounted tree: node numbers, their parent, name and lookup count.

What enters: answers given to LOOKUP and creations, and FORGETs. What leaves: path hints, and
whether the kernel still knows a node. The entries lie in shared memory (a file on tmpfs), so a new
worker finds them again; only the index from node to entry is rebuilt. Called by the handlers, under
the journal's lock when a name changes.

A node number is the inode's file handle packed into 64 bits, (generation << 32) | inode, so it can
be opened again without any table. Handles that do not fit are refused by the preflight.
"""

import mmap
import os
import threading
from pathlib import Path
from struct import Struct

from everup.capture.protocol import ROOT_NODE
from everup.system.kernelcalls import FileHandle

PARENT_UNKNOWN = 0
DEPTH_MAX = 256

_SMALL_BYTES = 64
_LARGE_BYTES = 280
_SMALL_COUNT_MAX = 1 << 24
_LARGE_COUNT_MAX = 1 << 21
_HEAD = Struct("<QQIHxx")
_COUNT = Struct("<I")
_COUNT_AT = 16
_HANDLE_32 = Struct("<II")
_HANDLE_64 = Struct("<QI")
_KIND_32 = 1
_KIND_XFS_64 = 0x81


def pack_handle(handle: FileHandle) -> int:
    """Node number of a handle. Raises ValueError when it does not fit (see the preflight)."""
    if handle.kind == _KIND_32 and len(handle.data) == 8:
        inode, generation = _HANDLE_32.unpack(handle.data)
    elif handle.kind == _KIND_XFS_64 and len(handle.data) == 12:
        inode, generation = _HANDLE_64.unpack(handle.data)
        if inode >> 32:
            raise ValueError("the inode number is wider than 32 bits")
    else:
        raise ValueError(f"file handles of kind {handle.kind} are not known")
    return int(generation << 32 | inode)


def unpack_handle(node: int, kind: int) -> FileHandle:
    """Handle of a node of a file system whose handles are of this kind."""
    layout = _HANDLE_32 if kind == _KIND_32 else _HANDLE_64
    return FileHandle(kind, layout.pack(node & 0xFFFFFFFF, node >> 32))


class _Entries:
    """Fixed-size entries of one shared file: node, parent, lookup count, name."""

    def __init__(self, path: Path, entry_bytes: int, count_max: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, entry_bytes * count_max)
            self.memory = mmap.mmap(descriptor, entry_bytes * count_max)
        finally:
            os.close(descriptor)
        self.entry_bytes = entry_bytes
        self.name_bytes_max = entry_bytes - _HEAD.size
        self._free: list[int] = []
        self._used = 0
        self._count_max = count_max

    def load(self, used: int, index: dict[int, int], sign: int) -> None:
        """Find the entries that an earlier worker wrote (the first `used` places)."""
        self._used = used
        reader = Struct(f"<Q{self.entry_bytes - 8}x")
        with memoryview(self.memory) as view, view[: used * self.entry_bytes] as written:
            for place, (node,) in enumerate(reader.iter_unpack(written)):
                if node:
                    index[node] = sign * (place + 1)
                else:
                    self._free.append(place)

    @property
    def used(self) -> int:
        return self._used

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        if self._used == self._count_max:
            raise OSError(12, "the node table is full")
        self._used += 1
        return self._used - 1

    def give_back(self, place: int) -> None:
        self.memory[place * self.entry_bytes : place * self.entry_bytes + 8] = bytes(8)
        self._free.append(place)

    def write(self, place: int, node: int, parent: int, count: int, name: bytes) -> None:
        at = place * self.entry_bytes
        self.memory[at + _HEAD.size : at + _HEAD.size + len(name)] = name
        _HEAD.pack_into(self.memory, at, node, parent, count, len(name))


class NodeTable:
    """Nodes of one tree; adding and forgetting may come from any thread."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._small = _Entries(directory / "nodes", _SMALL_BYTES, _SMALL_COUNT_MAX)
        self._large = _Entries(directory / "nodes-long", _LARGE_BYTES, _LARGE_COUNT_MAX)
        # Positive: place + 1 in the small entries; negative: in the large ones.
        self._index: dict[int, int] = {}
        self._paths: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._lengths = _lengths_of(directory / "nodes-used")
        small, large = Struct("<QQ").unpack(self._lengths[:16])
        self._small.load(small, self._index, 1)
        self._large.load(large, self._index, -1)

    def __len__(self) -> int:
        return len(self._index)

    def _find(self, node: int) -> tuple[_Entries, int] | None:
        place = self._index.get(node)
        if place is None:
            return None
        return (self._small, place - 1) if place > 0 else (self._large, -place - 1)

    def add(self, node: int, parent: int, name: bytes, lookups: int) -> None:
        """The kernel learns `node` under this name; its lookup count grows."""
        with self._lock:
            self._add(node, parent, name, lookups)

    def _add(self, node: int, parent: int, name: bytes, lookups: int) -> None:
        found = self._find(node)
        if found is not None:
            entries, place = found
            at = place * entries.entry_bytes
            _, old_parent, count, length = _HEAD.unpack_from(entries.memory, at)
            head = at + _HEAD.size
            if old_parent == parent and entries.memory[head : head + length] == name:
                if lookups:
                    _COUNT.pack_into(entries.memory, at + _COUNT_AT, count + lookups)
                return
            lookups += count
            self._remove(node, entries, place)
        entries, sign = (self._small, 1)
        if len(name) > entries.name_bytes_max:
            entries, sign = (self._large, -1)
        place = entries.take()
        entries.write(place, node, parent, lookups, name)
        self._index[node] = sign * (place + 1)
        Struct("<QQ").pack_into(self._lengths, 0, self._small.used, self._large.used)

    def _remove(self, node: int, entries: _Entries, place: int) -> None:
        del self._index[node]
        entries.give_back(place)

    def move(self, node: int, parent: int, name: bytes, directory: bool) -> None:
        """A known node has another name now; paths below a moved directory change too."""
        if directory:
            self._paths.clear()
        if node in self._index:
            self.add(node, parent, name, 0)

    def unname(self, node: int, parent: int, name: bytes) -> None:
        """One name of a node went away; if it was the one known here, there is no hint any more."""
        with self._lock:
            self._unname(node, parent, name)

    def _unname(self, node: int, parent: int, name: bytes) -> None:
        found = self._find(node)
        if found is None:
            return
        entries, place = found
        at = place * entries.entry_bytes
        _, old_parent, count, length = _HEAD.unpack_from(entries.memory, at)
        known = entries.memory[at + _HEAD.size : at + _HEAD.size + length]
        if old_parent == parent and known == name:
            entries.write(place, node, PARENT_UNKNOWN, count, b"")
        self._paths.pop(node, None)

    def forget(self, node: int, lookups: int) -> bool:
        """The kernel drops `lookups` references; True when it knows the node no more."""
        with self._lock:
            return self._forget(node, lookups)

    def _forget(self, node: int, lookups: int) -> bool:
        found = self._find(node)
        if found is None:
            return True
        entries, place = found
        at = place * entries.entry_bytes
        (count,) = _COUNT.unpack_from(entries.memory, at + _COUNT_AT)
        if count > lookups:
            _COUNT.pack_into(entries.memory, at + _COUNT_AT, count - lookups)
            return False
        self._paths.pop(node, None)
        self._remove(node, entries, place)
        return True

    def entry(self, node: int) -> tuple[int, bytes] | None:
        """(parent, name) of a node, as last seen."""
        found = self._find(node)
        if found is None:
            return None
        entries, place = found
        at = place * entries.entry_bytes
        _, parent, _, length = _HEAD.unpack_from(entries.memory, at)
        return parent, entries.memory[at + _HEAD.size : at + _HEAD.size + length]

    def directory_path(self, node: int) -> bytes:
        """Path of a directory relative to the root, without slashes around; empty if unknown."""
        if node == ROOT_NODE:
            return b""
        path = self._paths.get(node)
        if path is None:
            path = self._paths[node] = self.path(node)
        return path

    def path(self, node: int) -> bytes:
        """Path hint of any node; empty for the root and for what has no known name."""
        parts: list[bytes] = []
        while node != ROOT_NODE:
            entry = self.entry(node)
            if entry is None or entry[0] == PARENT_UNKNOWN or len(parts) > DEPTH_MAX:
                return b""
            node = entry[0]
            parts.append(entry[1])
        return b"/".join(reversed(parts))


def _lengths_of(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, 4096)
        return mmap.mmap(descriptor, 4096)
    finally:
        os.close(descriptor)
