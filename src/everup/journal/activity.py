"""The activity log: the journal behind a mark that says "up to here the trees are on the disk".

What enters: positions at which the guard has made its trees durable. What leaves: after an unclean
stop, every record that the disk may have lost, and the moment after which changes may have reached
the disk without a record. Written by the guard, read by the replicator of a server that rejoins.
Format: docs/formats/activity.md. Why no log of its own: docs/decisions/0007-activity-log.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from everup.errors import Corrupt
from everup.journal.reader import Cursor, scan, split_batch
from everup.journal.record import Record
from everup.journal.segment import list_segments
from everup.model.position import Position
from everup.system.files import REAL_DOOR, Door, load_json, save_json, sync_directory

NAME = "activity.json"
VERSION = 1
MARGIN_NS = 1_000_000_000
"""A change may reach the disk this long before the record that comes before it in the journal."""
CLOCK_STEP_NS = MARGIN_NS // 2
"""The wall clock went back when it lost more than this against the clock that never does."""


class Mark(NamedTuple):
    """Everything up to `position`, the end of the journal at `wall_ns`, is on the disk."""

    position: Position
    wall_ns: int


def save_mark(state: Path, mark: Mark, door: Door = REAL_DOOR) -> None:
    """Durable when it returns. Raises OSError."""
    value = {
        "version": VERSION,
        "position": mark.position.to_json(),
        "wall_ns": mark.wall_ns,
    }
    save_json(state / NAME, value, operation="save-activity", door=door)


def load_mark(state: Path) -> Mark | None:
    """None when there is none, or none that can be understood: then everything is hot."""
    try:
        value = load_json(state / NAME)
        if value is None or value["version"] != VERSION:
            return None
        return Mark(Position.from_json(value["position"]), int(value["wall_ns"]))
    except (ValueError, KeyError, TypeError, OSError):
        return None


def forget_mark(state: Path) -> None:
    """From now on nothing is known to be on the disk."""
    (state / NAME).unlink(missing_ok=True)
    sync_directory(state)


class Clocks(NamedTuple):
    """What the records say about time."""

    last_wall_ns: int
    """0: there was no record."""
    went_back: bool


class Activity:
    """Records behind a position, once; `clocks` is right when they are used up."""

    def __init__(self, journal: Path, after: Position) -> None:
        """Raises Corrupt when the journal does not go on from exactly there, OSError."""
        self._journal = journal
        self._cursor = Cursor(journal, after)
        self._last_wall_ns = 0
        self._ahead_ns: int | None = None
        self._went_back = False

    def records(self) -> Iterator[Record]:
        """All of them, also those of the batch that was open. Raises Corrupt when what follows in
        the journal does not belong to it: then the rest is not known."""
        try:
            while (batch := self._cursor.next()) is not None:
                for record in split_batch(batch.data, batch.start)[0]:
                    yield self._noted(record)
        finally:
            self._cursor.close()
        last = list_segments(self._journal)[-1]
        end = scan(last)
        if end.end != self._cursor.position:
            raise Corrupt("the journal goes on behind a gap", code="journal-gap")
        for record in end.loose:
            yield self._noted(record)

    def _noted(self, record: Record) -> Record:
        self._last_wall_ns = max(self._last_wall_ns, record.wall_ns)
        ahead_ns = record.wall_ns - record.boot_ns
        if self._ahead_ns is None or ahead_ns > self._ahead_ns:
            self._ahead_ns = ahead_ns
        elif ahead_ns < self._ahead_ns - CLOCK_STEP_NS:
            self._went_back = True
        return record

    @property
    def clocks(self) -> Clocks:
        return Clocks(self._last_wall_ns, self._went_back)
