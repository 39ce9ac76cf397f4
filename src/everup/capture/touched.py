"""Which objects the open batch touched, in shared memory: their times belong at its end.

What enters: nodes, as they are touched. What leaves: the same list for the worker that goes on with
a batch which a killed one began. Called by the order, under the journal's lock.
"""

import mmap
import os
from pathlib import Path
from struct import Struct

from everup.limits import BATCH_BYTES_MAX

_ENTRY = Struct("<QQ")
_HEAD_BYTES = 64
# A record has at least 80 bytes and touches at most four objects.
ENTRIES_MAX = BATCH_BYTES_MAX // 80 * 4


class Touched:
    """A list of (tree id, node); the count is written after the entry, as a word stored whole."""

    def __init__(self, path: Path) -> None:
        size = _HEAD_BYTES + ENTRIES_MAX * _ENTRY.size
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._word = memoryview(self._memory)[:8].cast("Q")
        self._count = self._word[0]

    def add(self, tree_id: int, node: int) -> None:
        if self._count < ENTRIES_MAX:
            at = _HEAD_BYTES + self._count * _ENTRY.size
            _ENTRY.pack_into(self._memory, at, tree_id, node)
            self._count += 1
            self._word[0] = self._count

    def clear(self) -> None:
        """The batch has its end."""
        self._count = 0
        self._word[0] = 0

    def entries(self) -> list[tuple[int, int]]:
        end = _HEAD_BYTES + self._count * _ENTRY.size
        return [(tree, node) for tree, node in _ENTRY.iter_unpack(self._memory[_HEAD_BYTES:end])]
