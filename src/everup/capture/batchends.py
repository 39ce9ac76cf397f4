"""The last batch end, in shared memory: where a new worker goes on in the journal.

What enters: closed batches. What leaves: the newest one that was written whole. Called by the order
at every batch end.
"""

from pathlib import Path
from struct import Struct

from everup.journal.segment import SUFFIX
from everup.journal.writer import Closed
from everup.model.position import Position
from everup.system.sharedmemory import Turns

_ENTRY = Struct("<QQ16sQ32s")


class BatchEnds:
    """Shared page of one journal."""

    def __init__(self, path: Path, journal: Path) -> None:
        """Raises NoRoom, or OSError."""
        self._journal = journal
        self._page = Turns(path, _ENTRY.size)

    def save(self, closed: Closed) -> None:
        position = closed.position
        name = closed.segment.name.removesuffix(SUFFIX).encode()
        self._page.write(
            _ENTRY.pack(position.epoch, position.sequence, position.checksum, closed.offset, name)
        )

    def load(self) -> Closed | None:
        """The newest batch end; None when there is none of this boot."""
        data = self._page.read()
        if not data:
            return None
        epoch, sequence, checksum, offset, name = _ENTRY.unpack(data)
        path = self._journal / (name.rstrip(b"\0").decode() + SUFFIX)
        return Closed(Position(epoch, sequence, checksum), path, offset)
