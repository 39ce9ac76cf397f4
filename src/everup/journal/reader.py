"""Read a journal batch by batch, checking everything.

What enters: segments. What leaves: batches whose records, sequence and chain are right, or an
error that names the place. Called by recovery, the replicator's source, and tests.
"""

import mmap
import os
import time
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from everup.errors import Corrupt
from everup.journal.operation import BatchEnd, decode_arguments
from everup.journal.record import Operation, Record, decode
from everup.journal.segment import (
    HEADER_BYTES,
    SUFFIX,
    SegmentInfo,
    decode_header,
    list_segments,
    segment_path,
)
from everup.limits import BATCH_BYTES_MAX
from everup.model.position import CHECKSUM_BYTES, Position

NEW_CHAIN = "journal-new-chain"
"""Code of the error that ends a reader in front of a gap."""
LOOK_EVERY_SECONDS = 1.0
_READ_AHEAD_BYTES = 256 << 10


class Batch(NamedTuple):
    """Bytes of a closed batch (its BATCH record included) and where it lies."""

    data: bytes
    start: Position
    end: Position
    records: int
    cause: int


class Scan(NamedTuple):
    """What a segment holds: whole batches, then whole records, then nothing or a torn tail."""

    end: Position
    end_offset: int
    loose: tuple[Record, ...]
    loose_end_offset: int
    problem: Corrupt | None


def chain(start: Position, data: bytes | memoryview) -> bytes:
    """Chain hash behind `data`, the records of one batch without its BATCH record.

    The records come first: hashed from the begin of a block, 16 KiB cost a quarter.
    """
    return blake3(data).update(start.checksum).digest(length=CHECKSUM_BYTES)


def split_batch(data: bytes | memoryview, start: Position) -> tuple[list[Record], BatchEnd]:
    """Decode a batch that claims to follow `start`. Raises Corrupt when anything is wrong."""
    view = memoryview(data)
    records: list[Record] = []
    offset = 0
    sequence = start.sequence
    while (record := decode(view, offset)) is not None:
        if record.sequence != sequence + 1 or record.epoch < start.epoch:
            raise Corrupt(
                f"record {record.sequence} of epoch {record.epoch} follows {sequence} "
                f"of epoch {start.epoch}",
                code="journal-sequence",
            )
        sequence = record.sequence
        if record.operation == Operation.BATCH:
            end = _checked_end(view[:offset], record, start, len(records))
            if offset + record.length != len(view):
                raise Corrupt("bytes follow the end of a batch", code="journal-batch")
            return records, end
        records.append(record)
        offset += record.length
    raise Corrupt(f"the batch after {start.sequence} has no end", code="journal-batch")


def _checked_end(body: memoryview, record: Record, start: Position, records: int) -> BatchEnd:
    end = decode_arguments(record)
    assert isinstance(end, BatchEnd)
    right = (
        end.records == records
        and end.byte_count == len(body)
        and end.first_sequence == start.sequence + 1
        and end.checksum == chain(start, body)
    )
    if not right:
        raise Corrupt(
            f"the batch that ends at {record.sequence} is not the one that was written",
            code="journal-chain",
        )
    return end


def end_of(data: bytes | memoryview, start: Position) -> Position:
    """Position behind a batch, fully checked."""
    records, end = split_batch(data, start)
    return Position(records[-1].epoch, start.sequence + len(records) + 1, end.checksum)


def scan(info: SegmentInfo, from_offset: int = HEADER_BYTES, at: Position | None = None) -> Scan:
    """Check a segment from a batch border (its begin by default) to the end of what is whole."""
    position = info.start if at is None else at
    view = view_of(info.path)
    batch_offset = offset = from_offset
    loose: list[Record] = []
    problem = None
    sequence = position.sequence
    while True:
        try:
            record = decode(view, offset)
            if record is None:
                break
            if record.sequence != sequence + 1:
                raise Corrupt(
                    f"record {record.sequence} follows {sequence}", code="journal-sequence"
                )
            if record.operation == Operation.BATCH:
                end = _checked_end(view[batch_offset:offset], record, position, len(loose))
                position = Position(record.epoch, record.sequence, end.checksum)
                loose.clear()
                batch_offset = offset + record.length
            else:
                loose.append(_kept(record))
        except Corrupt as error:
            problem = placed(error, info.path, offset, sequence)
            break
        sequence = record.sequence
        offset += record.length
    return Scan(position, batch_offset, tuple(loose), offset, problem)


def whole_records(data: bytes, after: int) -> tuple[Record, ...]:
    """Records one behind the other, from the one that follows sequence `after`, as far as whole."""
    view, offset = memoryview(data), 0
    found: list[Record] = []
    try:
        while (record := decode(view, offset)) is not None:
            if record.sequence != after + len(found) + 1:
                break
            found.append(record)
            offset += record.length
    except Corrupt:
        pass
    return tuple(found)


def placed(problem: Corrupt, path: Path, offset: int, sequence: int) -> Corrupt:
    """The same problem with the place where it was found."""
    return Corrupt(
        f"{path} is damaged at offset {offset}, behind sequence {sequence}: {problem.sentence}",
        code=problem.code,
    )


def _kept(record: Record) -> Record:
    """A record that does not point into the mapped file any more."""
    return record._replace(
        arguments=memoryview(bytes(record.arguments)), payload=memoryview(bytes(record.payload))
    )


def view_of(path: Path) -> memoryview:
    """Read-only view of a whole file; it is unmapped when the last slice of it is gone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


class Cursor:
    """Reads closed batches in order from a position on, and follows the tail.

    Raises Corrupt (`position-unknown`) when the journal does not hold the position it is to start
    from, and Corrupt from `next` for damage. Its owner calls `close`.
    """

    def __init__(self, directory: Path, after: Position, *, over_gaps: bool = False) -> None:
        """`over_gaps`: also from a position before a gap; reading ends there all the same."""
        self._directory = directory
        self._over_gaps = over_gaps
        self._descriptor = -1
        self._offset = 0
        self._path = directory
        self._look_again_at = 0.0
        self.position = after
        if not self._locate(after):
            raise Corrupt(
                f"position {after.epoch}/{after.sequence} is not in this journal",
                code="position-unknown",
            )

    def next(self) -> Batch | None:
        """The next closed batch, or None when there is none yet."""
        batch = self._read_on()
        if batch is None and self._cut_off():
            # Unless it came just now.
            batch = self._read_on()
            if batch is None:
                raise self._ending()
        return batch

    def _ending(self) -> Corrupt:
        """Why the journal goes on elsewhere: its writer began a new chain, or it is damaged."""
        segments = list_segments(self._directory)
        if any(info.after_gap and info.path.name > self._path.name for info in segments):
            return Corrupt(
                f"the journal goes on behind {self.position.epoch}/{self.position.sequence} only "
                "after a gap: what was changed in between is not in it",
                code=NEW_CHAIN,
            )
        problem = Corrupt("no batch ends there, and the journal goes on", code="journal-gap")
        return placed(problem, self._path, self._offset, self.position.sequence)

    def _read_on(self) -> Batch | None:
        batch = self._read()
        if batch is None and self._advance():
            batch = self._read()
        return batch

    def _cut_off(self) -> bool:
        """Now and then: a later segment is there although this one has no end that leads to it."""
        now = time.monotonic()
        if now < self._look_again_at:
            return False
        self._look_again_at = now + LOOK_EVERY_SECONDS
        expected = segment_path(self._directory, self.position.sequence + 1).name
        later = [name for name in os.listdir(self._directory) if name.endswith(SUFFIX)]
        return any(name > self._path.name and name != expected for name in later)

    @property
    def place(self) -> tuple[str, int]:
        """Name of the segment and offset in it, right behind the last batch that was read."""
        return self._path.name, self._offset

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _locate(self, after: Position) -> bool:
        segments = list_segments(self._directory)
        # Nothing leads over a gap: what lies before the last one is of no use to anybody.
        gap = max((at for at, info in enumerate(segments) if info.after_gap), default=0)
        if self._over_gaps:
            gap = 0
        candidates = [s for s in segments[gap:] if s.start.sequence <= after.sequence]
        for info in reversed(candidates):
            self._open(info)
            while self.position.sequence < after.sequence and self._read() is not None:
                pass
            if self.position == after:
                return True
            if info.start.sequence < after.sequence:
                break
        self.close()
        return False

    def _open(self, info: SegmentInfo) -> None:
        self.close()
        self._descriptor = os.open(info.path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset = HEADER_BYTES
        self._path = info.path
        self.position = info.start

    def _advance(self) -> bool:
        """Go to the segment that begins where this one ends, if it is there."""
        path = segment_path(self._directory, self.position.sequence + 1)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        head = os.pread(descriptor, HEADER_BYTES, 0)
        try:
            _, start, _ = decode_header(path, head)
        except Corrupt:
            os.close(descriptor)
            return False
        if start != self.position:
            os.close(descriptor)
            raise self._ending()
        self.close()
        self._descriptor, self._offset = descriptor, HEADER_BYTES
        self._path = path
        return True

    def _read(self) -> Batch | None:
        try:
            data = os.pread(self._descriptor, _READ_AHEAD_BYTES, self._offset)
            batch = self._first_batch(data)
            if batch is None and len(data) == _READ_AHEAD_BYTES:
                batch = self._first_batch(os.pread(self._descriptor, BATCH_BYTES_MAX, self._offset))
        except Corrupt as problem:
            raise placed(problem, self._path, self._offset, self.position.sequence) from problem
        if batch is not None:
            self._offset += len(batch.data)
            self.position = batch.end
        return batch

    def _first_batch(self, data: bytes) -> Batch | None:
        view = memoryview(data)
        offset = records = 0
        while (record := decode(view, offset)) is not None:
            if record.operation == Operation.BATCH:
                end = _checked_end(view[:offset], record, self.position, records)
                after = Position(record.epoch, record.sequence, end.checksum)
                whole = data[: offset + record.length]
                return Batch(whole, self.position, after, records, end.cause)
            records += 1
            offset += record.length
        return None
