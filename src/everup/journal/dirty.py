"""What was changed while the journal could not be written: which parts of which objects.

What enters: the content changes that found no place in the journal. What leaves: the same as blocks
of objects, in shared memory (it survives a killed worker) and, when the journal goes on behind a
gap, as a file that bears the gap's name. Filled by the guard; read by the source, which compares
just these parts. Names and attributes are not in it: a comparison always looks at all of them.

Bounded: when it is full, or finds no room, it only knows that anything may have changed.
"""

from collections.abc import Iterator
from pathlib import Path
from struct import Struct, error

from crc32c import crc32c

from everup.errors import Corrupt
from everup.journal.record import Operation
from everup.limits import COMPARED_BLOCK_BYTES
from everup.system.files import save_bytes
from everup.system.sharedmemory import Growing

BLOCK_BYTES = COMPARED_BLOCK_BYTES
ENTRIES_MAX = 1 << 16
MAPS_KEPT_MAX = 8
DIRECTORY_NAME = "dirty"
_ENTRY = Struct("<H16sQQ")
"""tree, object id, first byte, byte behind the last one (0: to the end of the file)."""
_HEAD = Struct("<QQ")
"""entries, changes that were lost count (0: everything is known)."""
_FILE_HEAD = Struct("<8sII")
_FILE_MAGIC = b"EVDIRTY1"
_NUMBER = Struct("<Q")

Part = tuple[int, bytes, int, int | None]
"""(tree, object id, first byte, byte behind the last one; None: to the end of the file)."""


class DirtyMap:
    """In shared memory; its owner holds the journal's lock."""

    def __init__(self, path: Path, entries_max: int = ENTRIES_MAX) -> None:
        """Raises NoRoom, or OSError."""
        self._entries_max = entries_max
        self._room = Growing(path, _end_of(entries_max))
        self._memory = self._room.memory
        self._count, self._lost = _HEAD.unpack_from(self._memory)
        if not self._room.has(_end_of(self._count)):
            self.lose()
        self._known: set[Part] = set() if self._lost else set(self._parts())

    def _parts(self) -> Iterator[Part]:
        body = self._memory[_HEAD.size : _end_of(self._count)]
        for tree, object_id, first, behind in _ENTRY.iter_unpack(body):
            yield tree, object_id, first, behind or None

    def note(
        self, tree: int, operation: int, object_id: bytes, arguments: bytes, size: int
    ) -> None:
        """A change that is not in the journal; `size`: bytes of its payload."""
        if operation == Operation.WRITE:
            (start,) = _NUMBER.unpack_from(arguments)
            for first in range(start - start % BLOCK_BYTES, start + size, BLOCK_BYTES):
                self._add((tree, object_id, first, first + BLOCK_BYTES))
        elif operation in (Operation.TRUNCATE, Operation.ALLOCATE):
            (start,) = _NUMBER.unpack_from(arguments)
            self._add((tree, object_id, start - start % BLOCK_BYTES, None))
        elif operation == Operation.CREATE:
            self._add((tree, object_id, 0, None))

    def _add(self, part: Part) -> None:
        if part in self._known or self._lost:
            return
        if self._count >= self._entries_max or not self._room.has(_end_of(self._count + 1)):
            self.lose()
            return
        tree, object_id, first, behind = part
        at = _end_of(self._count)
        _ENTRY.pack_into(self._memory, at, tree, object_id, first, behind or 0)
        self._count += 1
        _HEAD.pack_into(self._memory, 0, self._count, self._lost)
        self._known.add(part)

    def lose(self) -> None:
        """What was changed is not known any more: anything may have been."""
        self._lost = 1
        _HEAD.pack_into(self._memory, 0, self._count, self._lost)

    def clear(self) -> None:
        self._count = self._lost = 0
        self._known = set()
        _HEAD.pack_into(self._memory, 0, 0, 0)

    def take(self) -> bytes | None:
        """Everything as the bytes of a file, and begin anew; None when it is not known."""
        lost, body = self._lost, b""
        if not lost:
            body = self._memory[_HEAD.size : _end_of(self._count)]
        self.clear()
        return None if lost else _FILE_HEAD.pack(_FILE_MAGIC, len(body), crc32c(body)) + body

    def facts(self) -> dict[str, int | bool]:
        """For the status; `bytes` counts a rest of unknown length as one block."""
        known = self._known.copy()
        return {
            "objects": len({(tree, object_id) for tree, object_id, _, _ in known}),
            "bytes": len(known) * BLOCK_BYTES,
            "complete": not self._lost,
        }


def _end_of(entries: int) -> int:
    return _HEAD.size + entries * _ENTRY.size


def map_path(state: Path, gap_id: str) -> Path:
    return state / DIRECTORY_NAME / f"{gap_id}.map"


def save_map(state: Path, gap_id: str, data: bytes) -> None:
    """Durably; only the newest few are kept. Raises OSError."""
    path = map_path(state, gap_id)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    save_bytes(path, data, operation="save-dirty-map")
    maps = sorted(path.parent.glob("*.map"), key=lambda one: one.stat().st_mtime_ns)
    for older in maps[:-MAPS_KEPT_MAX]:
        older.unlink(missing_ok=True)


def load_map(state: Path, gap_id: str) -> list[Part]:
    """Raises Corrupt when it is not there (lost, or never known) or not readable."""
    path = map_path(state, gap_id)
    try:
        data = path.read_bytes()
        magic, length, check = _FILE_HEAD.unpack_from(data)
    except (OSError, error) as problem:
        raise Corrupt(f"the dirty map {path} cannot be read: {problem}", code="dirty-map") from None
    body = data[_FILE_HEAD.size :]
    if magic != _FILE_MAGIC or len(body) != length or crc32c(body) != check:
        raise Corrupt(f"the dirty map {path} is damaged", code="dirty-map")
    if length % _ENTRY.size:
        raise Corrupt(f"the dirty map {path} is damaged", code="dirty-map")
    return [(tree, name, first, behind or None) for tree, name, first, behind in
            _ENTRY.iter_unpack(body)]  # fmt: skip
