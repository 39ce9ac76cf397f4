"""Append records, close batches: the guard's side of the journal.

What enters: operations with their arguments. What leaves: a sequence for each, a position for each
closed batch. The guard holds `lock` over whatever must be one step with an append (a path hint
and the table it comes from). Recovery after a crash is the ordinary start (`recover`). Records wait
in shared memory (`openbatch`) until their batch is closed; segments hold whole batches only.
"""

import os
import threading
from pathlib import Path
from typing import NamedTuple

from everup.errors import Corrupt
from everup.journal import recovery
from everup.journal.gap import GAP_RECORDS, NewChain, write_new_chain
from everup.journal.openbatch import OpenBatch
from everup.journal.operation import (
    BatchEnd,
    Epoch,
    Gap,
    ModifiedTime,
    encode_batch_end,
    encode_times,
)
from everup.journal.reader import Scan, chain, scan, whole_records
from everup.journal.record import Operation, Record, encode_head
from everup.journal.segment import (
    HEADER_BYTES,
    SUFFIX,
    Buffer,
    SegmentAppender,
    SegmentInfo,
    segment_path,
)
from everup.limits import BATCH_BYTES, SEGMENT_BYTES
from everup.model.ids import NO_OBJECT
from everup.model.position import CHECKSUM_BYTES, Position
from everup.system.clock import boottime_ns, wall_ns
from everup.system.files import REAL_DOOR, Door, sync_directory

CAUSE_SIZE = 1
CAUSE_AGE = 2
CAUSE_FSYNC = 3
CAUSE_CLOSE = 4


class Closed(NamedTuple):
    """A closed batch: its end, and where its last byte lies."""

    position: Position
    segment: Path
    offset: int


class Recovered(NamedTuple):
    """What a journal held when it was opened."""

    position: Position
    loose: tuple[Record, ...]
    cut_bytes: int
    problem: Corrupt | None


class JournalWriter:
    """The newest end of the journal. Every method but `sync` wants `lock` held by the caller.

    Raises OSError from the disk; the journal then still ends where it ended before the call.
    """

    def __init__(
        self,
        directory: Path,
        door: Door = REAL_DOOR,
        segment_bytes: int = SEGMENT_BYTES,
        memory: Path | None = None,
    ) -> None:
        """`memory`: file on tmpfs for the open batch; without, it dies with this process."""
        self.lock = threading.Lock()
        self._syncing = threading.Lock()
        self.epoch = 0
        self.sequence = 0
        self._directory = directory
        self._door = door
        self._file = SegmentAppender(directory, door, "append-journal", segment_bytes)
        self._start = Position(0, 0, bytes(CHECKSUM_BYTES))
        self._records = 0
        self._open = OpenBatch(memory)

    @property
    def position(self) -> Position:
        """End of the last closed batch."""
        return self._start

    @property
    def open_records(self) -> int:
        """Records of the batch that is not closed yet."""
        return self._records

    def recover(self) -> Recovered | None:
        """Go on where the last writer stopped; a torn tail is cut. None: no journal here yet.

        Reads the newest segment, and of the older ones where each begins and ends. Raises Corrupt
        (nothing is changed then) when one is missing, foreign or leads elsewhere, or when whole
        records follow what is damaged: that is no torn tail, and cutting there would lose them.
        """
        found = recovery.examine(self._directory)
        if found is None:
            return None
        last, result, stranded = found
        if stranded is not None:
            raise recovery.stranded_problem(last.path, result, stranded)
        loose = self._go_on(last.path, result)
        cut = last.byte_count - result.loose_end_offset
        return Recovered(self._start, loose, cut, result.problem)

    def resume(self, closed: Closed) -> Recovered:
        """Go on behind a batch end that this process's predecessor left in shared memory.

        Only what lies behind it is read, so a killed writer is replaced in milliseconds. For a
        start after a power cut this is not enough: see `recover`.
        """
        path, offset, start = closed.segment, closed.offset, closed.position
        following = segment_path(self._directory, start.sequence + 1)
        if following.exists() and following.stat().st_size >= HEADER_BYTES:
            path, offset = following, HEADER_BYTES
        size = path.stat().st_size
        info = SegmentInfo(path, start.sequence + 1, start, size)
        result = scan(info, offset, start)
        loose = self._go_on(path, result)
        cut = size - result.loose_end_offset
        return Recovered(self._start, loose, cut, result.problem)

    def stand_at(self, position: Position) -> None:
        """A journal that cannot be read ended here, as far as anybody knows. Only `prepare` and
        `enter`, or a new epoch, make it usable again."""
        self._file.forget()
        self._begin_batch(position)
        self.epoch, self.sequence = position.epoch, position.sequence

    def _go_on(self, path: Path, result: Scan) -> tuple[Record, ...]:
        """Stand behind the last whole batch; the records of the open one."""
        if not self._open.load(result.end):
            # Of a batch that was being written when the power went, or none.
            self._open.begin(result.end)
            with path.open("rb") as file:
                file.seek(result.end_offset)
                self._open.append(file.read(result.loose_end_offset - result.end_offset), b"")
        self._file.open_at(path, result.end_offset)
        loose = whole_records(bytes(self._open.view), result.end.sequence)
        self._open.keep(sum(record.length for record in loose))
        self._start = result.end
        self._records = len(loose)
        self.epoch = loose[-1].epoch if loose else result.end.epoch
        self.sequence = result.end.sequence + len(loose)
        return loose

    def _begin_batch(self, start: Position) -> None:
        self._start = start
        self._records = 0
        self._open.begin(start)

    def begin_epoch(self, epoch: Epoch) -> Closed:
        """Durably write the first batch of a new epoch, building on `epoch.parent`.

        The parent is either this journal's own end or a position reached as passive. Then the
        journal begins anew: its old segments are of another branch, or have a gap behind them; a
        peer that still needs older batches gets them from the receive log.
        A batch that a failed journal could not close is dropped: no position covers it, and the
        tree is marked as unclean since then.
        """
        assert epoch.epoch > epoch.parent.epoch
        if epoch.parent != self._start or self._file.path is None:
            self._forget_segments()
            self._file.begin(epoch.parent.sequence + 1, epoch.parent)
        self._begin_batch(epoch.parent)
        self.sequence = epoch.parent.sequence
        self.epoch = epoch.epoch
        self.append(Operation.EPOCH, 0, NO_OBJECT, b"", epoch.to_payload())
        closed = self.close_batch(CAUSE_CLOSE)
        self._file.unsynced = True
        self._file.sync()
        return closed

    def open_batch(self) -> tuple[Record, ...]:
        """The records that were appended and have no batch end yet."""
        return whole_records(bytes(self._open.view), self._start.sequence)

    def behind_everything(self) -> int:
        """The sequence at which a new chain may begin: no record, and no segment (also an empty
        one, or one that a killed writer began), has a greater one."""
        firsts = [int(path.stem, 16) for path in self._directory.glob(f"*{SUFFIX}")]
        return max(self.sequence, max(firsts, default=0) + GAP_RECORDS)

    def prepare(self, gap: Gap) -> NewChain:
        """Write the first segment of a chain that goes on behind `gap`, durable, beside the
        journal. Wants no lock: a journal that failed stands still meanwhile. Raises OSError."""
        return write_new_chain(self._directory, gap, self._door)

    def enter(self, chain: NewChain) -> Closed:
        """Go on in the prepared chain; what the open batch held is dropped, it never had a
        position. Raises OSError; then nothing has changed."""
        path = segment_path(self._directory, chain.start.sequence + 1)
        os.replace(chain.path, path)
        self._file.open_at(path, chain.byte_count)
        self._begin_batch(chain.end)
        self.epoch, self.sequence = chain.end.epoch, chain.end.sequence
        return Closed(chain.end, path, chain.byte_count)

    def _forget_segments(self) -> None:
        """Oldest first, so that what a crash leaves of them is still one chain."""
        self._file.close()
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            path.unlink()
        sync_directory(self._directory, "forget-journal", self._door)

    def append(
        self,
        operation: int,
        tree: int,
        object_id: bytes,
        arguments: bytes,
        payload: Buffer = b"",
        *,
        unique: int = 0,
        flags: int = 0,
    ) -> int:
        """Append one record; returns its sequence."""
        sequence = self.sequence + 1
        head = encode_head(
            operation,
            tree,
            self.epoch,
            sequence,
            object_id,
            arguments,
            payload,
            unique=unique,
            wall_ns=wall_ns(),
            boot_ns=boottime_ns(),
            flags=flags,
        )
        self._open.append(head, payload)
        self.sequence = sequence
        self._records += 1
        return sequence

    @property
    def batch_full(self) -> bool:
        return self._open.byte_count >= BATCH_BYTES

    def close_batch(self, cause: int, times: list[ModifiedTime] | None = None) -> Closed:
        """End the open batch, with the modification times of what it touched before its end."""
        assert self._records, "an empty batch has no end"
        if times:
            self.append(Operation.TIMES, 0, NO_OBJECT, b"", encode_times(times))
        body = self._open.view
        checksum = chain(self._start, body)
        end = BatchEnd(self._start.sequence + 1, self._records, len(body), checksum, cause)
        head = encode_head(
            Operation.BATCH,
            0,
            self.epoch,
            self.sequence + 1,
            NO_OBJECT,
            encode_batch_end(end),
            wall_ns=wall_ns(),
            boot_ns=boottime_ns(),
        )
        self._file.append((body, head))
        self.sequence += 1
        self._begin_batch(Position(self.epoch, self.sequence, checksum))
        assert self._file.path is not None
        closed = Closed(self._start, self._file.path, self._file.offset)
        if self._file.full:
            try:
                self._file.begin(self.sequence + 1, self._start)
            except OSError as trouble:
                # The batch is closed; it is the next record that finds no place.
                self._file.forget(trouble)
        return closed

    def sync(self) -> None:
        """Make what is appended durable, without holding the lock while the disk works.

        One at a time: who comes second waits, since what it found appended may be on its way only.
        """
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        with self.lock:
            if not self._file.unsynced:
                return
            descriptor = self._file.duplicate()
            self._file.unsynced = False
        try:
            self._door.fdatasync("sync-journal", descriptor)
        except OSError:
            with self.lock:
                self._file.unsynced = True
            raise
        finally:
            os.close(descriptor)
