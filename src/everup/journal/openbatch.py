"""The batch that is not closed yet, in memory that survives the process that fills it.

What enters: records one by one. What leaves: all of them as one piece, when the batch is closed and
written to its segment with a single call. Owned by the writer; the file lies on tmpfs beside the
other shared memory of the guard. A record counts from the moment at which the length is raised over
it, so one that a killed process began is not there. The length is a word that is stored whole: a
Struct makes it zero before it packs, and a process killed in between would lose the batch.

Writing every record to its segment at once cost more than all the rest of a small write: a system
call under the lock, and a chained hash over pieces that are too short for it to be fast.
"""

import mmap
import os
from pathlib import Path
from struct import Struct

from everup.journal.segment import Buffer
from everup.limits import BATCH_BYTES_MAX
from everup.model.position import Position

_START = Struct("<QQ16s")
_START_AT = 8
_BODY_AT = 64


class OpenBatch:
    """Not locked: its owner orders the calls."""

    def __init__(self, path: Path | None = None) -> None:
        """`None`: memory of this process alone (tests)."""
        self.byte_count = 0
        size = _BODY_AT + BATCH_BYTES_MAX
        if path is None:
            self._map(mmap.mmap(-1, size))
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._map(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)

    def _map(self, memory: mmap.mmap) -> None:
        self._memory = memoryview(memory)
        self._length = self._memory[:_START_AT].cast("Q")

    def begin(self, start: Position) -> None:
        """Forget what is held; what comes now follows `start`."""
        self.byte_count = 0
        self._length[0] = 0
        _START.pack_into(self._memory, _START_AT, start.epoch, start.sequence, start.checksum)

    def load(self, start: Position) -> bool:
        """Go on with what an earlier process held behind `start`; False when that is nothing."""
        length = self._length[0]
        held = Position(*_START.unpack_from(self._memory, _START_AT))
        if held != start or not 0 < length <= BATCH_BYTES_MAX:
            return False
        self.byte_count = length
        return True

    def append(self, head: bytes, payload: Buffer) -> None:
        """One record: its head, and its payload if it has one."""
        memory = self._memory
        at = _BODY_AT + self.byte_count
        body = at + len(head)
        end = body + len(payload)
        memory[at:body] = head
        if payload:
            memory[body:end] = payload
        self.byte_count = end - _BODY_AT
        self._length[0] = self.byte_count

    def keep(self, byte_count: int) -> None:
        """Drop what lies behind the first `byte_count` bytes."""
        self.byte_count = byte_count
        self._length[0] = byte_count

    @property
    def view(self) -> memoryview:
        """All records, one behind the other; valid until the next call."""
        return self._memory[_BODY_AT : _BODY_AT + self.byte_count]
