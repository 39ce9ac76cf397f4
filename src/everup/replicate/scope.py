"""Which content may differ between two trees that are otherwise known to be equal (pure).

What enters: objects, or stretches of them, in any order and often the same again: from journal
records, from a dirty map. What leaves: blocks of each object. Filled by `suspects` and by the
source's dirty map; read by both sides of a copy and of a proof. Names and attributes are not in it:
they are compared of every object, which reads no content.
"""

from collections.abc import Iterable
from stat import S_ISREG

from everup.journal.operation import Allocate, Create, Truncate, Write, decode_arguments
from everup.journal.record import Operation, Record
from everup.replicate.blocks import BLOCK_BYTES

Run = tuple[int, int]
"""(first block, number of blocks)."""

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10
_WITH_CONTENT = frozenset(
    (Operation.CREATE, Operation.WRITE, Operation.TRUNCATE, Operation.ALLOCATE)
)


class _Blocks:
    """Blocks of one object: single ones, and everything from `tail` on."""

    __slots__ = ("single", "tail")

    def __init__(self) -> None:
        self.single: set[int] = set()
        self.tail: int | None = None

    def add(self, first: int, end: int | None) -> None:
        if end is None:
            self.tail = first if self.tail is None else min(self.tail, first)
        else:
            self.single.update(range(first, end))


class Scope:
    """Objects by (tree, object id). Belongs to one thread."""

    def __init__(self) -> None:
        self._objects: dict[tuple[int, bytes], _Blocks] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def objects(self) -> Iterable[tuple[int, bytes]]:
        return self._objects.keys()

    def __contains__(self, key: tuple[int, bytes]) -> bool:
        return key in self._objects

    def add(self, tree: int, object_id: bytes, start: int, end: int | None) -> None:
        """Bytes from `start` to before `end` (None: to the end of the file, wherever that is)."""
        last = None if end is None else -(-end // BLOCK_BYTES)
        self._blocks_of(tree, object_id).add(start // BLOCK_BYTES, last)

    def add_whole(self, tree: int, object_id: bytes) -> None:
        self.add(tree, object_id, 0, None)

    def add_runs(self, tree: int, object_id: bytes, runs: Iterable[Run] | None) -> None:
        """Blocks as `runs` gives them; None: all."""
        blocks = self._blocks_of(tree, object_id)
        if runs is None:
            blocks.add(0, None)
        else:
            for first, count in runs:
                blocks.add(first, first + count)

    def _blocks_of(self, tree: int, object_id: bytes) -> _Blocks:
        blocks = self._objects.get((tree, object_id))
        if blocks is None:
            blocks = self._objects[tree, object_id] = _Blocks()
        return blocks

    def merge(self, other: "Scope") -> None:
        """Everything that `other` has, too."""
        for (tree, object_id), blocks in other._objects.items():
            mine = self._blocks_of(tree, object_id)
            mine.single |= blocks.single
            if blocks.tail is not None:
                mine.add(blocks.tail, None)

    def blocks(self, tree: int, object_id: bytes, count: int) -> list[int]:
        """Those of an object's first `count` blocks that are in the scope, in order."""
        blocks = self._objects.get((tree, object_id))
        if blocks is None:
            return []
        tail = count if blocks.tail is None else min(blocks.tail, count)
        return sorted({n for n in blocks.single if n < tail}) + list(range(tail, count))

    def runs(self, tree: int, object_id: bytes) -> list[Run] | None:
        """The same as runs, whatever the length of the file; None when it goes on to the end."""
        blocks = self._objects.get((tree, object_id))
        if blocks is None:
            return []
        return None if blocks.tail is not None else to_runs(sorted(blocks.single))


def to_runs(blocks: Iterable[int]) -> list[Run]:
    """Neighbouring blocks (in order) as runs."""
    found: list[list[int]] = []
    for block in blocks:
        if found and found[-1][0] + found[-1][1] == block:
            found[-1][1] += 1
        else:
            found.append([block, 1])
    return [(first, count) for first, count in found]


def add_record(scope: Scope, record: Record) -> None:
    """What content one record may change. Raises Corrupt for a record that is not understood."""
    if record.operation not in _WITH_CONTENT:
        return
    tree, object_id = record.tree, record.object_id
    arguments = decode_arguments(record)
    if isinstance(arguments, Write):
        scope.add(tree, object_id, arguments.offset, arguments.offset + len(record.payload))
    elif isinstance(arguments, Truncate):
        scope.add(tree, object_id, arguments.size, None)
    elif isinstance(arguments, Create):
        if S_ISREG(arguments.mode):
            scope.add_whole(tree, object_id)
    elif isinstance(arguments, Allocate) and arguments.mode != _KEEP_SIZE:
        within = arguments.mode & (_PUNCH_HOLE | _ZERO_RANGE)
        end = arguments.offset + arguments.length if within else None
        scope.add(tree, object_id, arguments.offset, end)
