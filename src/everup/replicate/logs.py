"""Find the bytes that follow a position in this server's own logs.

What enters: a position of a peer. What leaves: a cursor that gives every batch after it: from the
journal, or from the receive log of this server's passive time and then the journal. Called by the
source.
"""

from everup.errors import Corrupt
from everup.journal.reader import Batch, Cursor
from everup.journal.segment import list_segments, segment_path
from everup.model.position import Position
from everup.places import Places


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

    def next(self) -> Batch | None:
        batch = self._cursor.next()
        if batch is None and self._older:
            self._cursor.close()
            self._cursor = Cursor(self._places.journal, self._cursor.position)
            self._older = False
            batch = self._cursor.next()
        return batch

    def unread_bytes(self) -> int:
        """What has not been given out yet, an open batch included."""
        later = 0
        position = self._cursor.position
        if segment_path(self._places.journal, position.sequence + 1).exists() or self._older:
            later = sum(
                info.byte_count
                for info in list_segments(self._places.journal)
                if info.first_sequence > position.sequence
            )
        return self._cursor.unread_bytes + later

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
