"""Which data may be forced to the disk although their records are not there yet (pure).

What enters: every write of one object as it is recorded, and syncs of the journal. What leaves:
whether an `fdatasync` of that object has to bring its records to the disk first. Kept with each
object in use, called by the order with its lock held.

After a power cut the content of an object is compared where records behind the mark name it, and
`AHEAD_BYTES` behind the last of its writes that the journal has (`replicate/rejoin.py`). So a log
that only grows, as databases write theirs, is named before it is written. Where another server has
every synced byte (durable mode), it needs one flush of the journal for 4 MiB, not for every commit.
"""

from typing import NamedTuple

from everup.limits import AHEAD_BYTES, COMPARED_BLOCK_BYTES


class Reached(NamedTuple):
    """The last write that a sync of the journal will cover."""

    sequence: int
    end: int


class Ahead:
    """What the journal's disk says about the content of one object."""

    __slots__ = ("_covered", "_end", "_lowest", "_named_end", "_named_sequence", "_sequence")

    def __init__(self) -> None:
        self._covered = False
        self._named_sequence = 0
        self._named_end = 0
        self._sequence = 0
        self._lowest = 0
        self._end = 0

    def wrote(self, sequence: int, start: int, end: int) -> None:
        """Bytes `start` to before `end` were written, and are recorded as `sequence`."""
        if start < self._lowest or end > self._named_end:
            # Behind what a later record on the disk would name, or too far ahead of it.
            self._covered = False
        self._named_end = min(self._named_end, end + AHEAD_BYTES)
        self._lowest = start - start % COMPARED_BLOCK_BYTES
        self._end = end
        self._sequence = sequence

    def changed_otherwise(self) -> None:
        """Cut, punched, shifted: only its record names what that does."""
        self._covered = False
        # A sync of the journal that is under way may not cover it.
        self._sequence = 0

    def covered(self, mark_floor: int) -> bool:
        """Whether records on the disk, later than `mark_floor`, name all that was written."""
        return self._covered and self._named_sequence > mark_floor

    def reached(self) -> Reached:
        """Before a sync of the journal."""
        return Reached(self._sequence, self._end)

    def synced(self, reached: Reached) -> None:
        """That sync has succeeded."""
        if reached.sequence == self._sequence:
            self._named_sequence = reached.sequence
            self._named_end = reached.end + AHEAD_BYTES
            self._covered = True
