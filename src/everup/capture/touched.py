"""Which objects the open batch touched, in shared memory: their times belong at its end.

What enters: nodes, as they are touched. What leaves: the same list for the worker that goes on with
a batch which a killed one began. Called by the order, under the journal's lock. The list is short:
a batch that has filled it is closed before its time.
"""

from pathlib import Path
from struct import Struct

from everup.system.sharedmemory import map_file

_ENTRY = Struct("<QQ")
_HEAD_BYTES = 64
ENTRIES_MAX = 8192
"""About as many as there are creations in a batch of full size."""
MARGIN = 64
"""One change touches a few objects before it is recorded, and only then may the batch end."""


class Touched:
    """A list of (tree id, node); the count is written after the entry, as a word stored whole."""

    def __init__(self, path: Path) -> None:
        """Raises NoRoom, or OSError."""
        self._memory = map_file(path, _HEAD_BYTES + ENTRIES_MAX * _ENTRY.size)
        self._word = memoryview(self._memory)[:8].cast("Q")
        self._count = self._word[0]
        # Found again by this worker, which touches them all once more.
        self._before = set(self.entries())

    @property
    def full(self) -> bool:
        """Whether the batch has to end after the change that is being recorded."""
        return self._count >= ENTRIES_MAX - MARGIN

    def add(self, tree_id: int, node: int) -> None:
        """While the journal fails no batch ends, and the list means nothing: it may overflow."""
        if self._count < ENTRIES_MAX and (tree_id, node) not in self._before:
            at = _HEAD_BYTES + self._count * _ENTRY.size
            _ENTRY.pack_into(self._memory, at, tree_id, node)
            self._count += 1
            self._word[0] = self._count

    def clear(self) -> None:
        """The batch has its end."""
        self._count = 0
        self._word[0] = 0
        self._before.clear()

    def entries(self) -> list[tuple[int, int]]:
        end = _HEAD_BYTES + self._count * _ENTRY.size
        return [(tree, node) for tree, node in _ENTRY.iter_unpack(self._memory[_HEAD_BYTES:end])]
