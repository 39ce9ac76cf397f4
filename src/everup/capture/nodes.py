"""What the kernel knows of a mounted tree: node numbers, their parent, name and lookup count.

What enters: answers given to LOOKUP and creations, and FORGETs. What leaves: path hints, and
whether the kernel still knows a node. The entries lie in shared memory (a file on tmpfs), so a new
worker finds them again; only the index from node to entry is rebuilt. Called by the handlers, under
the journal's lock when a name changes, and by the session, which counts just before it answers.

A node number is the inode's file handle packed into 64 bits, (generation << 32) | inode, so it can
be opened again without any table. Handles that do not fit are refused by the preflight.

Where shared memory has no room for more entries, the others are in the worker's own: then a new
worker does not know them, their records bear no path hints, and nobody waits or fails for it.

Counts are exact over the death of a worker (see `counts`): one too many would keep an unlinked
object for ever, one too few would delete it while a process has it open.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct

from everup.capture.counts import CHUNK, COMPLETE, CountLog
from everup.capture.protocol import ROOT_NODE
from everup.system.kernelcalls import FileHandle
from everup.system.sharedmemory import Growing

PARENT_UNKNOWN = 0
DEPTH_MAX = 256

_SMALL_BYTES = 64
_LARGE_BYTES = 280
_SMALL_COUNT_MAX = 1 << 24
_LARGE_COUNT_MAX = 1 << 21
_HEAD_WORDS = 3
_HEAD_BYTES = 8 * _HEAD_WORDS
_COUNT_MASK = (1 << 32) - 1
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
    """Fixed-size entries of one shared file: node, parent, lookup count and length, name.

    The first three are words that are stored whole: a kill never leaves half of one. The node comes
    last into an entry and goes first out of it; zero means free.
    """

    def __init__(self, path: Path, entry_bytes: int, count_max: int, used: int) -> None:
        self._room = Growing(path, entry_bytes * count_max, entry_bytes * used)
        self.memory = self._room.memory
        self.words = memoryview(self.memory).cast("Q")
        self.entry_bytes = entry_bytes
        self.entry_words = entry_bytes // 8
        self.name_bytes_max = entry_bytes - _HEAD_BYTES
        self._free: list[int] = []
        self._used = used
        self._count_max = count_max

    def load(self, index: dict[int, int], sign: int) -> None:
        """Find the entries that an earlier worker wrote (the places that were used)."""
        used = self._used
        # A million entries at once, not one by one: applications wait for this.
        nodes = self.words[: used * self.entry_words : self.entry_words].tolist()
        found = dict(zip(nodes, range(sign, sign * (used + 1), sign), strict=True))
        found.pop(0, None)
        self._free = [place for place, node in enumerate(nodes) if not node]
        for node in found.keys() & index.keys():
            # It was just moving from one size to the other.
            self.give_back(abs(found.pop(node)) - 1)
        index.update(found)

    @property
    def shared(self) -> int:
        """Places that were used and that the next worker finds."""
        return min(self._used, self._room.shared_bytes // self.entry_bytes)

    @property
    def alone(self) -> bool:
        """Whether there was no room for more, so that a new worker does not find everything."""
        return self.shared < self._used

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        if self._used == self._count_max:
            raise OSError(12, "the node table is full")
        if not self._room.has(self.entry_bytes * (self._used + 1)):
            print("everup-guard: no room for shared memory", file=sys.stderr, flush=True)
            self._room.go_on_alone()
        self._used += 1
        return self._used - 1

    def give_back(self, place: int) -> None:
        self.words[place * self.entry_words] = 0
        self._free.append(place)

    def write(self, place: int, node: int, parent: int, count: int, name: bytes) -> None:
        at, words = place * self.entry_words, self.words
        begin = at * 8 + _HEAD_BYTES
        self.memory[begin : begin + len(name)] = name
        words[at + 1] = parent
        words[at + 2] = len(name) << 32 | count
        words[at] = node

    def count(self, place: int) -> int:
        return self.words[place * self.entry_words + 2] & _COUNT_MASK

    def set_count(self, place: int, count: int) -> None:
        at = place * self.entry_words + 2
        self.words[at] = self.words[at] & ~_COUNT_MASK | count

    def read(self, place: int) -> tuple[int, bytes]:
        """(parent, name)."""
        at = place * self.entry_words
        begin = at * 8 + _HEAD_BYTES
        return self.words[at + 1], self.memory[begin : begin + (self.words[at + 2] >> 32)]


class NodeTable:
    """Nodes of one tree; adding and forgetting may come from any thread."""

    def __init__(self, directory: Path) -> None:
        """Raises NoRoom, or OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = log = CountLog(directory / "nodes-counts")
        self._small = _Entries(directory / "nodes", _SMALL_BYTES, _SMALL_COUNT_MAX, log.small_used)
        self._large = _Entries(
            directory / "nodes-long", _LARGE_BYTES, _LARGE_COUNT_MAX, log.large_used
        )
        # Positive: place + 1 in the small entries; negative: in the large ones.
        self._index: dict[int, int] = {}
        self._paths: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self.miscounted = 0
        """Lookups that the kernel forgot although it was never told of them: a mistake of ours."""
        self._small.load(self._index, 1)
        self._large.load(self._index, -1)
        self._log.finish(self._set_count)

    @property
    def alone(self) -> bool:
        """Whether shared memory had no room for all: a new worker will not know the others."""
        return self._small.alone or self._large.alone

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._index))

    def __contains__(self, node: int) -> bool:
        return node in self._index

    def _find(self, node: int) -> tuple[_Entries, int] | None:
        place = self._index.get(node)
        if place is None:
            return None
        return (self._small, place - 1) if place > 0 else (self._large, -place - 1)

    # lookup counts

    def learn(self, slot: int, unique: int, found: Sequence[tuple[int, int, bytes]]) -> None:
        """The answer to request `unique` tells the kernel of these (node, parent, name).

        Each counts one lookup. Called before the answer is written, also with nothing in it, again
        by the next worker when this one is killed meanwhile: counted once all the same. OSError
        when the table is full.
        """
        if not found:
            self._log.complete(slot, unique)
        at = self._log.done(slot, unique)
        while at < len(found):
            part = found[at : at + CHUNK]
            at += CHUNK
            with self._lock:
                counts: dict[int, int] = {}
                for node, parent, name in part:
                    entries, place = self._name(node, parent, name)
                    counts[node] = counts.get(node, entries.count(place)) + 1
                done = at if at < len(found) else COMPLETE
                self._log.commit(slot, unique, done, counts, self._set_count)

    def forget(self, slot: int, unique: int, dropped: Sequence[tuple[int, int]]) -> list[int]:
        """Request `unique` drops lookups: (node, how many). Returns the nodes that are gone.

        Repeated by the next worker like `learn`; what is gone is then returned again.
        """
        at = self._log.done(slot, unique)
        while at < len(dropped):
            part = dropped[at : at + CHUNK]
            at += CHUNK
            with self._lock:
                counts: dict[int, int] = {}
                for node, lookups in part:
                    found = self._find(node)
                    known = found[0].count(found[1]) if found else 0
                    known = counts.get(node, known)
                    if lookups > known and node != ROOT_NODE:
                        self.miscounted += lookups - known
                    counts[node] = max(known - lookups, 0)
                self._log.commit(slot, unique, at, counts, self._set_count)
        return [node for node, _ in dropped if node not in self._index]

    def _set_count(self, node: int, count: int) -> None:
        found = self._find(node)
        if found is None:
            return
        entries, place = found
        if count:
            entries.set_count(place, count)
            return
        self._paths.pop(node, None)
        del self._index[node]
        entries.give_back(place)

    def lookups(self, node: int) -> int:
        """How often the kernel was told of this node, less what it has forgotten."""
        found = self._find(node)
        return found[0].count(found[1]) if found else 0

    # names

    def name(self, node: int, parent: int, name: bytes) -> None:
        """A node, known or not, has this name from now on; its lookup count stays."""
        with self._lock:
            self._name(node, parent, name)

    def _name(self, node: int, parent: int, name: bytes) -> tuple[_Entries, int]:
        found = self._find(node)
        count = 0
        if found is not None:
            entries, place = found
            if entries.read(place) == (parent, name):
                return found
            count = entries.count(place)
            if (len(name) > self._small.name_bytes_max) == (entries is self._large):
                entries.write(place, node, parent, count, name)
                return found
        entries, sign = (self._small, 1)
        if len(name) > entries.name_bytes_max:
            entries, sign = (self._large, -1)
        place = entries.take()
        entries.write(place, node, parent, count, name)
        self._log.set_used(self._small.shared, self._large.shared)
        self._index[node] = sign * (place + 1)
        if found is not None:
            found[0].give_back(found[1])
        return entries, place

    def move(self, node: int, parent: int, name: bytes, directory: bool) -> None:
        """A known node has another name now; paths below a moved directory change too."""
        if directory:
            self._paths.clear()
        with self._lock:
            if node in self._index:
                self._name(node, parent, name)

    def unname(self, node: int, parent: int, name: bytes) -> None:
        """One name of a node went away; if it was the one known here, there is no hint any more."""
        with self._lock:
            found = self._find(node)
            if found is not None and found[0].read(found[1]) == (parent, name):
                entries, place = found
                entries.write(place, node, PARENT_UNKNOWN, entries.count(place), b"")
            self._paths.pop(node, None)

    def entry(self, node: int) -> tuple[int, bytes] | None:
        """(parent, name) of a node, as last seen."""
        found = self._find(node)
        return found[0].read(found[1]) if found else None

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
