"""The last batch end, in shared memory: where a new worker goes on in the journal.

What enters: closed batches. What leaves: the newest one that was written whole. Called by the order
at every batch end. Two places are written in turn, each with its check sum, so a worker killed in
the middle leaves the one before.
"""

import mmap
import os
from pathlib import Path
from struct import Struct

from crc32c import crc32c

from everup.journal.segment import SUFFIX
from everup.journal.writer import Closed
from everup.model.position import Position

_ENTRY = Struct("<QQQ16sQ32s")
_CHECK = Struct("<I")
_PLACE_BYTES = 128


class BatchEnds:
    """Shared page of one journal."""

    def __init__(self, path: Path, journal: Path) -> None:
        self._journal = journal
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, 4096)
            self._page = mmap.mmap(descriptor, 4096)
        finally:
            os.close(descriptor)
        self._turn = max((turn for turn, _ in self._entries()), default=0)

    def _entries(self) -> list[tuple[int, Closed]]:
        found = []
        for at in (0, _PLACE_BYTES):
            data = self._page[at : at + _ENTRY.size]
            (check,) = _CHECK.unpack_from(self._page, at + _ENTRY.size)
            turn, epoch, sequence, checksum, offset, name = _ENTRY.unpack(data)
            if turn and crc32c(data) == check:
                path = self._journal / (name.rstrip(b"\0").decode() + SUFFIX)
                found.append((turn, Closed(Position(epoch, sequence, checksum), path, offset)))
        return found

    def save(self, closed: Closed) -> None:
        self._turn += 1
        position = closed.position
        data = _ENTRY.pack(
            self._turn, position.epoch, position.sequence, position.checksum, closed.offset,
            closed.segment.name.removesuffix(SUFFIX).encode(),
        )  # fmt: skip
        at = _PLACE_BYTES * (self._turn & 1)
        self._page[at : at + len(data) + 4] = data + _CHECK.pack(crc32c(data))

    def load(self) -> Closed | None:
        """The newest batch end; None when there is none of this boot."""
        entries = self._entries()
        return max(entries)[1] if entries else None
