"""The loop that brings the trees of a passive server forward.

What enters: batches that the receive log holds durably. What leaves: trees at a position, a
checkpoint of it now and then, or an error at which everything waits until it is gone (full disk, a
tree that is not as it should be): nothing is ever skipped. One thread; owned by the target. After a
start, and after an error, everything between the last known position and the end of the log is
replayed with the rules of a window.
"""

import bisect
import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from everup.errors import DeadlinePassed, EverupError
from everup.journal.reader import Batch, Cursor
from everup.journal.record import Record
from everup.model.position import Position
from everup.replicate.apply import TreeSet, apply_record, records_of
from everup.replicate.receivelog import ReceiveLog
from everup.replicate.treestate import AT, TreeState, save_tree_state
from everup.replicate.window import Window
from everup.system.files import REAL_DOOR, Door

READY_BYTES_MAX = 16 << 20
"""Batches handed over in memory; beyond this they are read back from the log."""
CHECKPOINT_MS = 500
CHECKPOINT_BYTES = 16 << 20
RETRY_MS_MIN = 200
RETRY_MS_MAX = 3000
MISMATCH_CODES = ("object-missing", "apply-conflict")
_NOT_AS_RECORDED = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)
)
"""Trying the same again would end the same way for ever."""

Check = Callable[[TreeSet], None]


class Applier:
    """`start` to `stop` once; a new one is made for every new starting point."""

    def __init__(
        self,
        log: ReceiveLog,
        trees: TreeSet,
        tree_path: Path,
        on_progress: Callable[[], None],
        on_error: Callable[[EverupError], None],
        door: Door = REAL_DOOR,
    ) -> None:
        self._log = log
        self._trees = trees
        self._tree_path = tree_path
        self._on_progress = on_progress
        self._on_error = on_error
        self._door = door
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._held = False
        self._idle = False
        self._checks: list[tuple[int, Check]] = []
        self._ready: deque[Batch] = deque()
        self._ready_bytes = 0
        self._handed: Position | None = None
        self._checkpoint_wanted = False
        self._unsaved_bytes = 0
        self._saved_at = time.monotonic()
        self._window_until = -1
        self._until: Position | None = None
        self.applied: Position | None = None
        self.saved: Position | None = None
        self.consistent = False
        self.error: EverupError | None = None

    def start(self, begin: Position, until: Position | None) -> None:
        """Apply from `begin` on. `until`: the trees are inconsistent before that position."""
        self.applied, self._until = begin, until
        self.saved = begin if until is None else None
        self.consistent = until is None
        self._thread = threading.Thread(target=self._run, name="apply", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._trees.close()

    def offer(self, batches: list[Batch]) -> None:
        """More of the log is durable now: these batches, which need not be read back."""
        with self._changed:
            for batch in batches:
                end = self._ready[-1].end if self._ready else self._handed
                if batch.start == end and self._ready_bytes < READY_BYTES_MAX:
                    self._ready.append(batch)
                    self._ready_bytes += len(batch.data)
            if self._idle:
                self._changed.notify_all()

    @property
    def ready_bytes(self) -> int:
        """Of what is not applied yet: handed over in memory, not to be read from the log."""
        return self._ready_bytes

    def hold(self, held: bool, deadline_ms: int = 10_000) -> Position | None:
        """Pause after the current batch (or go on); returns the position at which it stands."""
        with self._changed:
            self._held = held
            self._changed.notify_all()
            if held:
                self._wait(lambda: self._idle, deadline_ms)
            return self.applied

    def check_at(self, sequence: int, check: Check) -> None:
        """Call `check` in the apply thread right after record `sequence`; late ones at once."""
        with self._changed:
            bisect.insort(self._checks, (sequence, check), key=lambda entry: entry[0])
            self._changed.notify_all()

    def drain(self, deadline_ms: int) -> Position:
        """Apply everything that is durable and checkpoint, whoever holds the applying up. Raises
        DeadlinePassed or the error."""
        target = self._log.durable
        with self._changed:
            self._checkpoint_wanted = True
            self._changed.notify_all()
            self._wait(lambda: self.saved == target or self.error is not None, deadline_ms)
            if self.saved != target:
                assert self.error is not None
                raise self.error
            self._checkpoint_wanted = False
            assert self.saved is not None
            return self.saved

    def _wait(self, condition: Callable[[], bool], deadline_ms: int) -> None:
        if not self._changed.wait_for(condition, deadline_ms / 1000):
            raise DeadlinePassed(f"applying was not done in {deadline_ms} ms")

    # the thread

    def _run(self) -> None:
        retry_ms = RETRY_MS_MIN
        while not self._stop.is_set():
            before = self.applied
            try:
                self._go()
            except EverupError as problem:
                self._tell(problem)
            except OSError as problem:
                self._tell(as_error(problem))
            if self._stop.is_set() or self._is_mismatch():
                return
            retry_ms = RETRY_MS_MIN if self.applied != before else min(RETRY_MS_MAX, 2 * retry_ms)
            with self._changed:
                self._changed.wait_for(self._stop.is_set, retry_ms / 1000)

    def _is_mismatch(self) -> bool:
        """The tree is not what the records say: a replay would hide it, only comparing helps."""
        error = self.error
        return error is not None and error.code in MISMATCH_CODES

    def _tell(self, error: EverupError) -> None:
        if self.error is None or self.error.code != error.code:
            self._on_error(error)
        with self._changed:
            self.error = error
            self._idle = True
            self._changed.notify_all()
        self._on_progress()

    def _go(self) -> None:
        """Replay what may have been applied already, then follow the log until told to stop."""
        assert self.applied is not None
        self._open_window()
        reader = _Reader(self._log)
        self._handed = self.applied
        try:
            while not self._stop.is_set():
                batch = None if self._paused else self._take_ready() or reader.after(self.applied)
                if batch is None:
                    self._rest()
                    continue
                self._handed = batch.end
                self._apply(batch)
        finally:
            reader.close()

    def _take_ready(self) -> Batch | None:
        """The next batch, if it was handed over in memory."""
        with self._changed:
            while self._ready:
                batch = self._ready.popleft()
                self._ready_bytes -= len(batch.data)
                if batch.start == self.applied:
                    return batch
        return None

    def _open_window(self) -> None:
        durable = self._log.durable
        assert durable is not None and self.applied is not None
        self._window_until = max(durable.sequence, self._until.sequence if self._until else 0)
        window = Window()
        cursor = Cursor(self._log.directory, self.applied)
        try:
            while (batch := cursor.next()) is not None:
                window.add(records_of(batch))
                if batch.end.sequence >= self._window_until:
                    break
        finally:
            cursor.close()
        self._trees.set_window(window)
        self._close_window()

    def _close_window(self) -> None:
        assert self.applied is not None
        if self._window_until >= 0 and self.applied.sequence >= self._window_until:
            self._window_until = -1
            self._trees.end_window()
            if not self.consistent:
                self._until = None
                self._checkpoint()
                self.consistent = True
                self._on_progress()

    def _apply(self, batch: Batch) -> None:
        records = records_of(batch)
        if self._checks:
            self._apply_with_checks(records)
        else:
            trees = self._trees
            for record in records:
                apply_record(trees, record)
        self.applied = batch.end
        self._unsaved_bytes += len(batch.data)
        if self.error is not None:
            self.error = None
            self._on_progress()
        if self._window_until >= 0:
            self._close_window()
        if self._unsaved_bytes >= CHECKPOINT_BYTES or self._age_ms() >= CHECKPOINT_MS:
            self._checkpoint()

    def _apply_with_checks(self, records: list[Record]) -> None:
        for record in records:
            self._run_checks(record.sequence - 1)
            apply_record(self._trees, record)
        self._run_checks(records[-1].sequence)

    def _run_checks(self, sequence: int) -> None:
        """Checks that belong before the record after `sequence`."""
        while self._checks and self._checks[0][0] <= sequence:
            with self._changed:
                _, check = self._checks.pop(0)
            check(self._trees)

    def _rest(self) -> None:
        """Nothing to do now: checks that are due, a checkpoint when it is time, then wait."""
        assert self.applied is not None
        self._run_checks(self.applied.sequence)
        if self.saved != self.applied and (
            self._checkpoint_wanted or self._age_ms() >= CHECKPOINT_MS
        ):
            self._checkpoint()
        self._on_progress()
        with self._changed:
            self._idle = True
            self._changed.notify_all()
            left_ms = CHECKPOINT_MS - self._age_ms() if self.saved != self.applied else 60_000
            self._changed.wait_for(self._has_work, max(1, left_ms) / 1000)
            self._idle = False

    @property
    def _paused(self) -> bool:
        """A comparison's pause ends where a takeover waits: who asked for it may have lost its
        power in between."""
        return self._held and not self._checkpoint_wanted

    def _has_work(self) -> bool:
        assert self.applied is not None
        if self._stop.is_set() or (self._checkpoint_wanted and self.saved != self.applied):
            return True
        if self._checks and self._checks[0][0] <= self.applied.sequence:
            return True
        if self._paused:
            return False
        durable = self._log.durable
        return durable is not None and durable.sequence > self.applied.sequence

    def _age_ms(self) -> int:
        return int((time.monotonic() - self._saved_at) * 1000)

    def _checkpoint(self) -> None:
        """Make the trees durable, then say so; the log before it is not needed any more."""
        assert self.applied is not None
        if self._until is not None:
            return
        self._trees.sync()
        save_tree_state(self._tree_path, TreeState(AT, self.applied), self._door)
        self._saved_at = time.monotonic()
        self._unsaved_bytes = 0
        with self._changed:
            self.saved = self.applied
            self.error = None
            self._changed.notify_all()
        self._log.release(self.applied.sequence)


class _Reader:
    """Batches of the log that are durable, from any position on."""

    def __init__(self, log: ReceiveLog) -> None:
        self._log = log
        self._cursor: Cursor | None = None
        self._next: Batch | None = None

    def after(self, position: Position) -> Batch | None:
        """The batch that follows `position`, once it is durable."""
        durable = self._log.durable
        if durable is None or durable.sequence <= position.sequence:
            return None
        if self._next is None or self._next.start != position:
            if self._cursor is None or self._cursor.position != position:
                self.close()
                self._cursor = Cursor(self._log.directory, position)
            self._next = self._cursor.next()
        batch = self._next
        if batch is None or batch.end.sequence > durable.sequence:
            return None
        self._next = None
        return batch

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None


def as_error(problem: OSError) -> EverupError:
    """What the operating system said, for people: something to wait for, or a tree that is not as
    the records say."""
    name = f" at {problem.filename!r}" if problem.filename else ""
    if problem.errno in _NOT_AS_RECORDED:
        return EverupError(
            f"the tree is not as the active server left it: {problem.strerror}{name}",
            remedy="wait: the trees are compared and this one is repaired by itself",
            code="apply-conflict",
        )
    return EverupError(
        f"the tree cannot be changed: {problem.strerror}{name}",
        remedy="free space or repair the disk; applying goes on by itself",
        code="apply-" + {28: "no-space", 5: "disk-error"}.get(problem.errno or 0, "system-error"),
    )
