"""Changes of lookup counts that a killed worker leaves done once: not half, not twice.

What enters: the counts of several nodes as they shall be, and the request that is the reason. What
leaves: the same counts in the node table, after a SIGKILL at any moment. Called by the node table,
under its lock, so at most one change is under way. A page of shared memory (tmpfs) holds

- the change under way: absolute counts, so that doing it again is right; its last word written is
  the commit;
- per slot, the last request that could change counts, and how many of its nodes are done.

The kernel counts when an answer is written. So the worker counts just before; killed in between,
the next one finds the request in its slot, does not count again, and answers. Killed after the
answer, the same, and the kernel knows no such request any more (ENOENT).
"""

from collections.abc import Callable
from pathlib import Path

from everup.system.sharedmemory import map_file

COMPLETE = 1 << 62
CHUNK = 1024
"""Nodes of one change; a longer answer is several of them, each remembered."""
SLOTS_MAX = 64

_SMALL_USED, _LARGE_USED = 0, 1
_OWNER, _UNIQUE, _DONE, _LENGTH = 2, 3, 4, 5
_SLOTS_AT = 16
_NODES_AT = _SLOTS_AT + 2 * SLOTS_MAX
_BYTES = (8 * (_NODES_AT + 2 * CHUNK) + 4095) // 4096 * 4096

SetCount = Callable[[int, int], None]


class CountLog:
    """The page of one tree. All its words are stored whole."""

    def __init__(self, path: Path) -> None:
        self._words = memoryview(map_file(path, _BYTES)).cast("Q")

    @property
    def small_used(self) -> int:
        """Places of the node table that were ever used."""
        return self._words[_SMALL_USED]

    @property
    def large_used(self) -> int:
        return self._words[_LARGE_USED]

    def set_used(self, small: int, large: int) -> None:
        self._words[_SMALL_USED] = small
        self._words[_LARGE_USED] = large

    def done(self, slot: int, unique: int) -> int:
        """How many nodes of this request are counted already: 0, some, or COMPLETE.

        Not 0 only when a worker was killed. COMPLETE whatever the answer would list now: the kernel
        may have had it long ago, and the tree may have changed since.
        """
        at = _SLOTS_AT + 2 * slot
        return self._words[at + 1] if self._words[at] == unique else 0

    def complete(self, slot: int, unique: int) -> None:
        """The request has nothing to count."""
        at = _SLOTS_AT + 2 * slot
        self._words[at + 1] = COMPLETE
        self._words[at] = unique

    def commit(
        self, slot: int, unique: int, done: int, counts: dict[int, int], set_count: SetCount
    ) -> None:
        """Give these nodes these counts (at most CHUNK); `done` nodes of the request are then."""
        words = self._words
        at = _NODES_AT
        for node, count in counts.items():
            words[at] = node
            words[at + 1] = count
            at += 2
        words[_UNIQUE] = unique
        words[_DONE] = done
        words[_LENGTH] = len(counts)
        words[_OWNER] = slot + 1
        self.finish(set_count)

    def finish(self, set_count: SetCount) -> None:
        """Do what was committed; also by the next worker, when this one is killed here."""
        words = self._words
        owner = words[_OWNER]
        if not owner:
            return
        for at in range(_NODES_AT, _NODES_AT + 2 * words[_LENGTH], 2):
            set_count(words[at], words[at + 1])
        at = _SLOTS_AT + 2 * (owner - 1)
        words[at + 1] = words[_DONE]
        words[at] = words[_UNIQUE]
        words[_OWNER] = 0
