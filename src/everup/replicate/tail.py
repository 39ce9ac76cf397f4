"""The sequence of the newest record in the journal, closed batch or not.

What enters: the journal's directory. What leaves: a number. The proof of a sync needs it to say at
which moment of the one order it looked at an object. Belongs to one thread.
"""

import os
from pathlib import Path
from struct import Struct

from everup.journal.record import HEADER_BYTES, MAGIC
from everup.journal.segment import HEADER_BYTES as SEGMENT_HEADER_BYTES
from everup.journal.segment import list_segments, segment_path

_HEAD = Struct("<4sI16xQ")
READ_BYTES = 1 << 20


class JournalTail:
    """Follows the journal from where the last call stopped; reads headers only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1
        self._path = directory
        self._offset = SEGMENT_HEADER_BYTES
        self._sequence = 0
        self._next: tuple[int, Path, bool] | None = None
        """Behind this sequence a further segment would be there, or it is this one."""
        segments = list_segments(directory)
        if segments:
            self._open(segments[-1].path)
            self._sequence = segments[-1].start.sequence

    def sequence(self) -> int:
        """Sequence of the last whole record; 0 when there is none."""
        if self._descriptor < 0:
            return 0
        while self._read_on() or self._next_segment():
            pass
        return self._sequence

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self, path: Path) -> None:
        self.close()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._path, self._next = path, None
        self._offset = SEGMENT_HEADER_BYTES

    def _next_segment(self) -> bool:
        if self._next is None or self._next[0] != self._sequence:
            path = segment_path(self._directory, self._sequence + 1)
            self._next = (self._sequence, path, path == self._path)
        _, path, is_here = self._next
        if is_here:
            # The newest one, and nothing is in it yet.
            return False
        try:
            if os.stat(path).st_size < SEGMENT_HEADER_BYTES:
                return False
        except FileNotFoundError:
            return False
        self._open(path)
        return True

    def _read_on(self) -> bool:
        """Take the records of one stretch; False at the end of the data."""
        # Asked for every object of a proof, mostly in vain: a megabyte of room is not for nothing.
        if len(os.pread(self._descriptor, HEADER_BYTES, self._offset)) < HEADER_BYTES:
            return False
        data = os.pread(self._descriptor, READ_BYTES, self._offset)
        at = 0
        while len(data) - at >= HEADER_BYTES:
            magic, length, sequence = _HEAD.unpack_from(data, at)
            if magic != MAGIC or sequence != self._sequence + 1:
                return False
            if at + length > len(data):
                break
            self._sequence = sequence
            at += length
        self._offset += at
        # A record may be longer than what was read: then its header alone moves the reading on.
        return at > 0 and len(data) == READ_BYTES
