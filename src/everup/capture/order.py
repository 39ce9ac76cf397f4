"""The one order of all changes of a group: sequence, journal, deadline, who must have it.

What enters: changes that the lower trees already carry. What leaves: their records, closed batches
and permission to answer. One per guard, over all its mounts. Called by the handlers; `lock` is held
over everything that must be one step with an append.
"""

import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from everup.capture.batchends import BatchEnds
from everup.capture.descriptors import Hot
from everup.capture.followers import Followers
from everup.capture.lower import LowerTree
from everup.capture.slots import Slot
from everup.capture.touched import Touched
from everup.capture.unsynced import Unsynced
from everup.journal.dirty import DirtyMap
from everup.journal.gap import GAP_RECORDS
from everup.journal.operation import ModifiedTime, encode_write
from everup.journal.record import Operation
from everup.journal.segment import Buffer
from everup.journal.writer import CAUSE_AGE, CAUSE_FSYNC, CAUSE_SIZE, Closed, JournalWriter
from everup.limits import BATCH_AGE_MS
from everup.system.clock import boottime_ns
from everup.system.leasepage import LeasePageReader

HOLD_STEP_S = 0.005
HOLD_MAX_S = 30.0
SYNC_EVERY_S = 0.1
EVERYTHING = 1 << 62
"""Acknowledged up to here when nobody has to."""


@dataclass
class Policy:
    """Which servers must have the data before an fsync is answered."""

    mode: str = "async"
    must_acknowledge: tuple[str, ...] = ()

    @property
    def durable(self) -> bool:
        return self.mode == "durable" and bool(self.must_acknowledge)


class Asking(Protocol):
    """The request whose change is recorded."""

    @property
    def unique(self) -> int: ...

    @property
    def slot(self) -> Slot: ...


class Order:
    """Sequences, batches, deadlines and acknowledgements of one open gate."""

    def __init__(
        self,
        journal: JournalWriter,
        lease: LeasePageReader,
        ends: BatchEnds | None = None,
        touched: Touched | None = None,
        dirty: DirtyMap | None = None,
    ) -> None:
        self.journal = journal
        self.lock = journal.lock
        self.epoch = 0
        self.closing = True
        # Set while a killed worker's begun changes are finished: they must reach the journal, in
        # time or not; the answer is checked as always.
        self.finishing = False
        self.policy = Policy()
        self.unsynced = Unsynced()
        self.late_answers = 0
        self.journal_state = "ok"
        self.journal_sentence = ""
        self.closed: Closed | None = None
        self.acknowledged_up_to = 0
        # What is recorded up to here may soon be behind the mark of the activity log.
        self._mark_floor = 0
        self.on_acknowledged: Callable[[int], None] = lambda sequence: None
        self.on_journal_changed: Callable[[], None] = lambda: None
        self._acknowledged: dict[str, int] = {}
        self._lease = lease
        self._ends = ends
        self._shared_touched = touched
        self.dirty = dirty
        self._touched: list[tuple[LowerTree, Hot]] = []
        # So many objects are touched that the batch has to end.
        self._crowded = False
        self._waiting = False
        self._wake = threading.Event()
        self._acknowledging = threading.Lock()
        self.followers = Followers()
        self._stopped = threading.Event()

    # the lease

    def in_time(self) -> bool:
        """Whether this server may still answer, by the deadline page."""
        epoch, deadline_ns = self._lease.read()
        return epoch == self.epoch and boottime_ns() < deadline_ns

    def admit(self) -> None:
        """Before a change. Without a lease the request is held: it may come back, or the gate
        closes; then EIO."""
        if (self.closing or not self.in_time()) and not self.finishing:
            self._hold()

    def _hold(self) -> None:
        give_up = time.monotonic() + HOLD_MAX_S
        while not self.closing and time.monotonic() < give_up:
            if self.in_time():
                return
            time.sleep(HOLD_STEP_S)
        raise OSError(errno.EIO, "the gate is closing")

    def confirm(self) -> None:
        """Before a success is answered: too late is EIO, although the change is recorded."""
        if not self.in_time():
            self.late_answers += 1
            raise OSError(errno.EIO, "the lease ended before the answer")

    # records; the lock is held

    def record_write(
        self, tree: LowerTree, hot: Hot, object_id: bytes, offset: int, data: Buffer,
        request: Asking,
    ) -> None:  # fmt: skip
        """The frequent one."""
        arguments = encode_write(offset, hot.hint or tree.hint(hot))
        if not hot.touched:
            self.touch(tree, hot)
        self.record(tree, Operation.WRITE, object_id, arguments, data, request)
        # The one that a sync will ask: this may be an older, retired one.
        known = tree.descriptors.by_node.get(hot.node, hot)
        known.ahead.wrote(self.journal.sequence, offset, offset + len(data))

    def record(
        self, tree: LowerTree, operation: int, object_id: bytes, arguments: bytes,
        payload: Buffer = b"", request: Asking | None = None,
    ) -> None:  # fmt: skip
        """Append a change; `request` comes with its last record, which is the commit point."""
        self.unsynced.changed(object_id)
        if self.journal_state != "ok":
            self._note_dirty(tree, operation, object_id, arguments, payload)
            if request is not None:
                request.slot.note_journaled(request.unique, len(payload))
            return
        try:
            unique = request.unique if request is not None else 0
            self.journal.append(
                operation, tree.tree_id, object_id, arguments, payload, unique=unique
            )
            if request is not None:
                request.slot.note_journaled(unique, len(payload))
            if self.journal.batch_full or self._crowded:
                self._close(CAUSE_SIZE)
        except OSError as error:
            self._journal_failed(error)
            self._note_dirty(tree, operation, object_id, arguments, payload)
        if not self._waiting:
            self._waiting = True
            self._wake.set()

    def _note_dirty(
        self, tree: LowerTree, operation: int, object_id: bytes, arguments: bytes, payload: Buffer
    ) -> None:
        """Before the answer: what the journal lacks is known while the application goes on."""
        if self.dirty is not None:
            self.dirty.note(tree.tree_id, operation, object_id, arguments, len(payload))

    def touch(self, tree: LowerTree, hot: Hot) -> None:
        """The object's modification time belongs into the journal at the end of the batch.

        Called before the record, so that a worker killed in between has touched too much, not too
        little.
        """
        if not hot.touched:
            hot.touched = True
            self._touched.append((tree, hot))
            if self._shared_touched is not None:
                self._shared_touched.add(tree.tree_id, hot.node)
                self._crowded = self._shared_touched.full

    def _journal_failed(self, error: OSError) -> None:
        # The promise `no-block`: the application goes on; what is missing is said aloud, and no
        # batch is closed any more, so nobody takes the journal for whole.
        self._journal_lost(
            "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "error",
            f"the journal could not be written: {error.strerror}",
        )

    def _journal_lost(self, state: str, sentence: str) -> None:
        if self.journal_state != "ok":
            return
        self.journal_state, self.journal_sentence = state, sentence
        # What the open batch holds never gets a position: it belongs to the gap.
        for record in self.journal.open_batch():
            if self.dirty is not None:
                self.dirty.note(
                    record.tree, record.operation, record.object_id, bytes(record.arguments),
                    len(record.payload),
                )  # fmt: skip
        print(f"everup-guard: {sentence}", file=sys.stderr, flush=True)
        self.on_journal_changed()
        self.followers.tell(self.closed, state)

    def fail_journal(self, state: str, sentence: str) -> None:
        """Somebody else found that records must not, or cannot, be written any more."""
        with self.lock:
            self._journal_lost(state, sentence)

    def journal_again(self, closed: Closed) -> None:
        """The journal goes on behind a gap; the lock is held."""
        for _, hot in self._touched:
            hot.touched = False
        self._touched.clear()
        self._note_closed(closed)
        self.journal_state, self.journal_sentence = "ok", ""

    def after_journal_again(self) -> None:
        """The same, without the lock: who waits for a sync now waits for the new chain."""
        self.on_journal_changed()
        self._settle()

    # batches

    def _times(self) -> list[ModifiedTime]:
        entries = []
        for tree, hot in self._touched:
            hot.touched = False
            if hot.orphan or hot.object_id is None:
                continue
            try:
                if tree.descriptors.by_node.get(hot.node) is not hot:
                    hot = tree.hot(hot.node)
                modified_ns = os.fstat(hot.descriptor).st_mtime_ns
            except OSError:
                continue
            entries.append(ModifiedTime(tree.tree_id, hot.object_id or b"", modified_ns))
        self._touched.clear()
        return [entry for entry in entries if entry.object_id]

    def _close(self, cause: int) -> None:
        """End the open batch; the lock is held."""
        if not self.journal.open_records or self.journal_state != "ok":
            return
        try:
            closed = self.journal.close_batch(cause, self._times())
        except OSError as error:
            self._journal_failed(error)
            return
        self._note_closed(closed)

    def _note_closed(self, closed: Closed) -> None:
        self.closed = closed
        if self._ends is not None:
            self._ends.save(closed)
        if self._shared_touched is not None:
            self._shared_touched.clear()
        self._crowded = False
        self.followers.tell(closed, self.journal_state)

    def close_batch(self, cause: int) -> None:
        with self.lock:
            self._close(cause)

    def checkpoint(self) -> Closed | None:
        """Close the batch: its end is going to be the mark of the activity log."""
        with self.lock:
            self._close(CAUSE_AGE)
            if self.closed is not None:
                self._mark_floor = self.closed.position.sequence
            return self.closed

    def record_first(self, hot: Hot | None = None) -> None:
        """Before data are forced to the disk: the records that name them are there.

        A change of contents alone (`fdatasync`) leaves no other trace: after a power cut nobody
        would know which blocks of a tree may be ahead of every journal. `hot`: only this object's;
        None: those of all.
        """
        with self.lock:
            whole = self.journal_state == "ok"
            # Without another server that must have it, the record is all that would ever tell of
            # what was written here and nobody received.
            named = hot is not None and hot.ahead.covered(self._mark_floor)
            if whole and named and self.policy.durable:
                return
            self._close(CAUSE_FSYNC)
            reached = hot.ahead.reached() if hot is not None else None
        try:
            self.journal.sync()
        except OSError as error:
            with self.lock:
                self._journal_failed(error)
            return
        if hot is not None and reached is not None and whole:
            with self.lock:
                hot.ahead.synced(reached)

    def sequence_to_wait_for(self) -> int:
        """Close the batch, so that all before this moment is at a position; its sequence.

        With a journal that failed, what was written last has no sequence that another server could
        acknowledge: the sync waits for the first batch behind the gap, which only a server has that
        was compared since, or until the policy does not ask for another server any more.
        """
        with self.lock:
            self._close(CAUSE_FSYNC)
            gap = 0 if self.journal_state == "ok" else GAP_RECORDS
            return self.journal.sequence + gap

    def begin(self, closed: Closed) -> None:
        """A new epoch stands at the end of the journal; the gate may open."""
        self.epoch = closed.position.epoch
        self.closed = closed
        if self._ends is not None:
            self._ends.save(closed)
        self._acknowledged.clear()
        self.acknowledged_up_to = 0
        self.late_answers = 0
        self.journal_state, self.journal_sentence = "ok", ""
        if self.dirty is not None:
            # Of a gap that no chain followed: the tree counts as unclean, everything is compared.
            self.dirty.clear()
        self.closing = False

    def start(self) -> None:
        """Close old batches and sync the journal in the background."""
        if self.journal.open_records:
            # Left by a killed worker: it must be closed also when nothing follows.
            self._wake.set()
        threading.Thread(target=self._age, name="batches", daemon=True).start()
        threading.Thread(target=self._sync, name="journal-sync", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    def _age(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            time.sleep(BATCH_AGE_MS / 1000)
            with self.lock:
                self._wake.clear()
                self._waiting = False
                self._close(CAUSE_AGE)

    def _sync(self) -> None:
        while not self._stopped.wait(SYNC_EVERY_S):
            try:
                self.journal.sync()
            except OSError as error:
                with self.lock:
                    self._journal_failed(error)

    # the other servers

    def acknowledged(self, server: str, sequence: int) -> None:
        """A server has everything up to `sequence` durably."""
        with self._acknowledging:
            if sequence > self._acknowledged.get(server, 0):
                self._acknowledged[server] = sequence
        self._settle()

    def set_policy(self, policy: Policy) -> None:
        self.policy = policy
        self._settle()

    def _settle(self) -> None:
        needed = self.policy.must_acknowledge
        up_to = min((self._acknowledged.get(name, 0) for name in needed), default=EVERYTHING)
        if not self.policy.durable:
            up_to = EVERYTHING
        self.acknowledged_up_to = up_to
        self.on_acknowledged(up_to)
