"""The receive log: batches from the source, byte for byte, durable before they are acknowledged.

What enters: whole batches. What leaves: positions, and segments in the journal's own format that
the applier reads. Called by the target under its receive lock. A batch that does not go on exactly
where the log ends is refused, whatever its numbers say.
"""

import errno
import os
import time
from itertools import pairwise
from pathlib import Path

from everup.errors import Corrupt
from everup.journal.operation import BatchEnd, Epoch, decode_arguments
from everup.journal.reader import Batch, Cursor, chain
from everup.journal.record import Operation, decode
from everup.journal.recovery import examine, stranded_problem
from everup.journal.segment import SegmentAppender, SegmentInfo, list_segments
from everup.limits import STATE_FREE_BYTES_MIN
from everup.model.position import Position
from everup.system.files import REAL_DOOR, Door, sync_directory

SEGMENT_BYTES = 16 << 20
"""Shorter than the journal's: what is applied is deleted soon, whole segments at a time."""
LOOK_EVERY_SECONDS = 0.1


class ReceiveLog:
    """Append-only; its owner orders the calls. Raises OSError from the disk."""

    def __init__(self, directory: Path, door: Door = REAL_DOOR) -> None:
        self.quota_bytes = 0
        """What is received and not applied yet may not be more; 0: no limit but the disk."""
        self.keep_after: int | None = None
        """Others may lack what follows this sequence; half of the quota is theirs. None: nobody."""
        self._room_at = 0.0
        self.directory = directory
        self._door = door
        self._file = SegmentAppender(directory, door, "append-receive")
        self.end: Position | None = None
        """Where the next batch must go on."""
        self.durable: Position | None = None
        """Everything up to here is on disk."""
        self.problem: Corrupt | None = None
        """Why nothing of it could be used when it was opened."""
        self._durable_path: Path | None = None
        self._durable_offset = 0

    def open(self) -> Position | None:
        """Go on after a restart; a torn tail is cut. None when the log holds nothing.

        Also when it is damaged where it had been acknowledged, as far as can be seen: a log that
        is silently shorter than what this server promised to have is worse than none.
        """
        try:
            found = examine(self.directory)
            self.problem = None
        except Corrupt as problem:
            found, self.problem = None, problem
        if found is not None and found.stranded is not None:
            self.problem = stranded_problem(found.last.path, found.result, found.stranded)
            found = None
        if found is None:
            self.end = self.durable = None
            return None
        self._file.open_at(found.last.path, found.result.end_offset)
        self._file.unsynced = True
        self._file.sync()
        self.end = found.result.end
        self._note_durable()
        return self.end

    def reset(self, start: Position, journal: Path | None = None) -> None:
        """Forget everything and begin anew at `start`, where `journal` (this server's own) ends:
        what others may lack of it is kept, and of this log as far as it leads there."""
        wanted = journal is not None and self.keep_after is not None
        before = _leading_to(start, journal) if wanted and journal is not None else []
        first = before[0].path.name if before and before[0].start == self.end else ""
        self._file.close()
        self.end = self.durable = None
        for path in sorted(self.directory.glob("*.segment")):
            if path.name >= first:
                path.unlink()
        self._link(before)
        sync_directory(self.directory, "append-receive", self._door)
        self._file.begin(start.sequence + 1, start)
        self._file.sync()
        self.end = start
        self._note_durable()

    def _link(self, segments: list[SegmentInfo]) -> None:
        """All of them, or nothing but what begins now: it is of use to others only."""
        try:
            for info in segments:
                os.link(info.path, self.directory / info.path.name)
        except OSError:
            for path in self.directory.glob("*.segment"):
                path.unlink()

    def append(self, data: bytes, end: Position) -> None:
        """Write a checked batch; it is durable after `sync`. Raises OSError (ENOSPC, EDQUOT) also
        while there would be room, but not enough for the votes and seals on the same disk."""
        assert self.end is not None
        self._check_room()
        if self._file.offset >= SEGMENT_BYTES:
            self._file.begin(self.end.sequence + 1, self.end)
        self._file.append((data,))
        self.end = end

    def _check_room(self) -> None:
        now = time.monotonic()
        if now < self._room_at:
            return
        status = os.statvfs(self.directory)
        if status.f_bavail * status.f_frsize < STATE_FREE_BYTES_MIN:
            raise OSError(errno.ENOSPC, "no room is left but for votes and seals")
        if self.quota_bytes and self.bytes_held() > self.quota_bytes:
            raise OSError(errno.EDQUOT, f"its quota of {self.quota_bytes >> 20} MiB is used up")
        self._room_at = now + LOOK_EVERY_SECONDS

    def sync(self) -> Position:
        """Make everything appended durable; only then may it be acknowledged."""
        assert self.end is not None
        self._file.sync()
        self._note_durable()
        return self.end

    def _note_durable(self) -> None:
        self.durable = self.end
        self._durable_path, self._durable_offset = self._file.path, self._file.offset

    def rewind(self) -> None:
        """After a failed append or sync: back to what is surely durable.

        The bytes must be written again, not only synced again: after a failed sync the kernel may
        have dropped them although reading still shows them.
        """
        path = self._durable_path
        assert path is not None
        for later in self.directory.glob("*.segment"):
            if later.name > path.name:
                later.unlink()
        self._file.open_at(path, self._durable_offset)
        self._file.unsynced = True
        self.end = self.durable

    def holds(self, position: Position) -> bool:
        """Whether a reader can go on after this very position."""
        try:
            Cursor(self.directory, position).close()
        except Corrupt:
            return False
        return True

    def release(self, sequence: int) -> None:
        """Delete segments in which nothing after `sequence` lies, and that no other server needs
        (or has room for); the newest always stays."""
        segments = list_segments(self.directory)
        held = sum(info.byte_count for info in segments)
        for info, following in pairwise(segments):
            if following.start.sequence > sequence:
                break
            wanted = self.keep_after is not None and following.start.sequence > self.keep_after
            if wanted and (not self.quota_bytes or held <= self.quota_bytes // 2):
                break
            info.path.unlink()
            held -= info.byte_count

    def bytes_held(self) -> int:
        return sum(path.stat().st_size for path in self.directory.glob("*.segment"))

    def close(self) -> None:
        self._file.close()


def _leading_to(end: Position, journal: Path) -> list[SegmentInfo]:
    """Whole segments of a journal, without a gap between them, that lead to its end."""
    segments = list_segments(journal)
    gap = max((at for at, info in enumerate(segments) if info.after_gap), default=0)
    found = [info for info in segments[gap:] if info.start.sequence < end.sequence]
    cursor = Cursor(journal, end)
    name, offset = cursor.place
    cursor.close()
    torn = found and found[-1].path.name == name and found[-1].byte_count != offset
    return [] if torn else found


class Checked:
    """A received batch that surely follows `start`, and its EPOCH record if it has one."""

    def __init__(self, data: bytes, end_bytes: int, start: Position) -> None:
        view = memoryview(data)
        body = view[: len(view) - end_bytes]
        last = decode(view, len(body))
        first = decode(view)
        if last is None or first is None or last.operation != Operation.BATCH:
            raise Corrupt("a received batch has no end", code="batch-end")
        end = decode_arguments(last)
        assert isinstance(end, BatchEnd)
        right = (
            end.first_sequence == start.sequence + 1 == first.sequence
            and last.sequence == start.sequence + end.records + 1
            and end.byte_count == len(body)
            and last.epoch >= start.epoch
            and end.checksum == chain(start, body)
        )
        if not right:
            raise Corrupt(
                f"the batch that ends at {last.epoch}/{last.sequence} does not go on at "
                f"{start.epoch}/{start.sequence}",
                code="batch-chain",
            )
        self.end = Position(last.epoch, last.sequence, end.checksum)
        self.batch = Batch(data, start, self.end, end.records, end.cause)
        self.epoch = (
            Epoch.from_payload(first.payload) if first.operation == Operation.EPOCH else None
        )
        if self.epoch is not None and self.epoch.parent != start:
            raise Corrupt(
                f"epoch {self.epoch.epoch} builds on another position than the last one received",
                code="batch-epoch",
            )
