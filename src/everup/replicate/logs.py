"""Find the bytes that follow a position in this server's own logs.

What enters: a position of a peer. What leaves: a cursor that gives every batch after it: from the
journal, or from the receive log of this server's passive time and then the journal. Called by the
source.
"""

from pathlib import Path
from typing import NamedTuple

from everup.errors import Corrupt, EverupError
from everup.journal.reader import Batch, Cursor
from everup.journal.segment import list_segments
from everup.model.position import Position
from everup.places import Places


class Place(NamedTuple):
    """A place in one of this server's logs: "journal" or "receive", segment, offset in it."""

    log: str
    segment: str
    offset: int


class LogCursor:
    """Batches after a position, across both logs. Raises Corrupt for damage."""

    def __init__(self, places: Places, after: Position) -> None:
        """Raises Corrupt (`position-unknown`) when neither log goes on from exactly there."""
        self._places = places
        self._older = False
        try:
            self._cursor = Cursor(places.journal, after)
        except Corrupt:
            self._cursor = Cursor(places.receive, after)
            self._older = True
            if not self._leads_to_journal():
                self._cursor.close()
                raise

    @property
    def position(self) -> Position:
        return self._cursor.position

    @property
    def place(self) -> Place:
        """Where the next batch begins, or will."""
        return Place("receive" if self._older else "journal", *self._cursor.place)

    def next(self) -> Batch | None:
        batch = self._cursor.next()
        if batch is None and self._older:
            self._cursor.close()
            self._cursor = Cursor(self._places.journal, self._cursor.position)
            self._older = False
            batch = self._cursor.next()
        return batch

    def close(self) -> None:
        self._cursor.close()

    def _leads_to_journal(self) -> bool:
        """Whether the journal begins (or has a batch end) where the receive log ends."""
        probe = Cursor(self._places.receive, self._cursor.position)
        try:
            while probe.next() is not None:
                pass
            Cursor(self._places.journal, probe.position).close()
        except Corrupt:
            return False
        finally:
            probe.close()
        return True


def holds(directory: Path, position: Position) -> bool:
    """Whether a log has a batch that ends at exactly this position, or begins there."""
    try:
        Cursor(directory, position).close()
    except (EverupError, OSError):
        return False
    return True


def journal_end(places: Places) -> Position | None:
    """End of the last closed batch in the journal; None when there is no journal."""
    segments = list_segments(places.journal)
    if not segments:
        return None
    cursor = Cursor(places.journal, segments[-1].start)
    try:
        while cursor.next() is not None:
            pass
        return cursor.position
    finally:
        cursor.close()
