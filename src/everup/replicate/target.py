"""The passive side: what it has received, what it has applied, and who may still send.

What enters: checked Hellos and batches from `receiving`, verbs from the agent. What leaves: durable
positions. Everything that decides what is acknowledged happens under `lock`, also the promise of
an epoch (`seal`): what was acknowledged before it counts, nothing after it does.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from everup.errors import Corrupt, EverupError, Refused
from everup.journal.history import add_epoch
from everup.model.position import Position
from everup.replicate.applier import MISMATCH_CODES, Applier
from everup.replicate.apply import TreeSet
from everup.replicate.context import Context
from everup.replicate.logs import holds
from everup.replicate.queues import QueueMeter
from everup.replicate.receivelog import Checked, ReceiveLog
from everup.replicate.seal import Seal
from everup.replicate.suspects import forget_suspects
from everup.replicate.treestate import (
    AT,
    SYNCING,
    TreeState,
    load_tree_state,
    save_tree_state,
)
from everup.system.files import load_json, save_json, sync_directory
from everup.wire.frames import BatchFrame
from everup.wire.session import check_epoch

Answer = Callable[[Position], None]


def _nobody(durable: Position) -> None:
    """Nobody waits for the answer."""


class Target:
    """One per process while it is passive. `on_progress` wakes whoever sends acknowledgements."""

    def __init__(self, context: Context, seal: Seal, on_progress: Callable[[], None]) -> None:
        self._context = context
        self._on_progress = on_progress
        self.seal_promise = seal
        self.lock = threading.RLock()
        self.log = ReceiveLog(context.places.receive, context.door)
        self.applier: Applier | None = None
        self.state = load_tree_state(context.places.tree)
        self.receive_error: EverupError | None = None
        self.in_sync = False
        self.source = ""
        self._stream: object | None = None
        self.on_durable: Callable[[], None] = lambda: None
        """Called when more has become durable, by the thread that received it."""
        self.waiting = QueueMeter()

    def start(self) -> None:
        """Go on where the last process stopped. Raises OSError when the log cannot be read."""
        with self.lock:
            if len(self._context.servers()) > 2:
                # Until the source says how far the others are.
                self.log.keep_after = 0
            self.log.open()
            if self.log.problem is not None:
                sentence = f"the receive log cannot be used: {self.log.problem.sentence}"
                self._context.events.emit("receive-log-damaged", sentence)
            self._begin(self.state)

    def stop(self) -> None:
        with self.lock:
            self._stream = None
            self._stop_applier()
            self.log.close()

    def _begin(self, state: TreeState) -> None:
        if state.state == AT and state.position is not None:
            if not self._log_goes_on(state.position):
                return
            self._apply_from(state.position, None)
        elif state.state == SYNCING and state.begin is not None and state.until is not None:
            # The copy itself was complete; without its log it has to be made again.
            if self.log.end is None or not self.log.holds(state.begin):
                return
            self._apply_from(state.begin, state.until)

    def _log_goes_on(self, position: Position) -> bool:
        if self.log.end is not None and self.log.holds(position):
            return True
        journal = self._context.places.journal
        if not holds(journal, position):
            # The trees may be ahead of `position` by what only the lost log could tell.
            return False
        self.log.reset(position, journal)
        return True

    def _apply_from(self, begin: Position, until: Position | None) -> None:
        context = self._context
        trees = TreeSet(context.open_operations)
        self.applier = Applier(
            self.log,
            trees,
            context.places.tree,
            self._on_progress,
            self._note_error,
            context.door,
        )
        self.applier.start(begin, until)

    def _note_error(self, error: EverupError) -> None:
        self._context.events.emit("apply-stopped", error.sentence, code=error.code)
        if error.code in MISMATCH_CODES:
            # Also after a restart this server is not in sync before it has been proven equal.
            save_json(self._context.unproven_path, {}, operation="save-unproven")

    def _stop_applier(self) -> None:
        if self.applier is not None:
            self.applier.stop()
            self.applier = None

    # the stream

    @property
    def position(self) -> Position | None:
        """Where a source may go on by streaming; None when only a comparison helps."""
        return self.log.durable if self.applier is not None else None

    @property
    def all_applied(self) -> bool:
        """The trees hold everything that was received, which a copy would forget."""
        applier = self.applier
        return applier is not None and applier.consistent and applier.applied == self.log.durable

    @property
    def tree_state(self) -> str:
        if self.applier is not None:
            return AT
        return load_tree_state(self._context.places.tree).state

    def take_over_stream(self, stream: object, epoch: int, source: str) -> None:
        """From now on only `stream` may deliver. Raises Refused for an older epoch."""
        with self.lock:
            check_epoch(epoch, self.seal_promise.epoch, source)
            self.seal_promise.promise(epoch)
            self._stream = stream
            self.source = source
            self.in_sync = False

    def is_current(self, stream: object) -> bool:
        return self._stream is stream

    def leave_stream(self, stream: object) -> None:
        with self.lock:
            if self._stream is stream:
                self._stream = None
                self.in_sync = False

    def begin_sync(
        self, stream: object, begin: Position, base: Position | None = None, epoch: int = 0
    ) -> None:
        """The trees are about to be changed out of order: say so durably, then start a new log.

        `base`: only what the source has changed since is touched, in this epoch of its own.
        """
        with self.lock:
            self._require_current(stream)
            self._stop_applier()
            save_json(self._context.unproven_path, begin.to_json(), operation="save-unproven")
            server = self.source if base is not None else ""
            self._save(TreeState(SYNCING, begin=begin, base=base, epoch=epoch, server=server))
            self.log.reset(begin)

    @property
    def unproven(self) -> bool:
        return self._context.unproven_path.exists()

    def note_proven(self, value: dict[str, Any], *, whole: bool = True) -> None:
        """The trees are equal to the source's, each object at a common position; not `whole`: as
        far as their content was doubtful, on top of what was proven before."""
        if not whole:
            value = {**_load_proven(self._context.proven_path), "touched": value}
        save_json(self._context.proven_path, value, operation="save-proven")
        self._context.unproven_path.unlink(missing_ok=True)
        forget_suspects(self._context.places.state)
        sync_directory(self._context.places.state)

    def end_copy(self, begin: Position, until: Position) -> None:
        """The copy is complete: what was received since `begin` makes it consistent at `until`."""
        with self.lock:
            self._save(replace(self.state, begin=begin, until=until))
            self._apply_from(begin, until)

    def partial(self, server: str, epoch: int) -> Position | None:
        """Position that the trees hold but for what this source has changed since, after a
        narrowed copy of it that broke off. Another one's changes may be among them."""
        state = load_tree_state(self._context.places.tree)
        same = (state.server, state.epoch) == (server, epoch)
        return state.base if state.state == SYNCING and same else None

    def _save(self, state: TreeState) -> None:
        save_tree_state(self._context.places.tree, state, self._context.door)
        self.state = state

    def _require_current(self, stream: object) -> None:
        if self._stream is not stream:
            raise Refused("another connection of the source has taken over", code="replaced")

    def receive(
        self, stream: object, epoch: int, batches: list[BatchFrame], answer: Answer = _nobody
    ) -> Position:
        """Append a group of batches and make them durable; only the result may be acknowledged.

        `answer` is called with it as soon as it is known: before the applier begins to work, which
        takes the processor from whoever waits at the other server. Raises Refused (sealed,
        replaced), Corrupt (does not follow), or OSError; then none of the group counts and it may
        be given again. What `answer` raises is passed on; the group counts all the same.
        """
        with self.lock:
            self._require_current(stream)
            return self._take_in(epoch, batches, answer)

    def extend(self, epoch: int, batches: list[BatchFrame]) -> Position:
        """The same with what another passive server gives, once `epoch` is promised and nobody
        streams any more: it goes on exactly where this server's log ends."""
        with self.lock:
            if self._stream is not None or self.applier is None:
                raise Refused("this server is not at rest", code="not-at-rest")
            return self._take_in(epoch, batches, _nobody)

    def _take_in(self, epoch: int, batches: list[BatchFrame], answer: Answer) -> Position:
        check_epoch(epoch, self.seal_promise.epoch, self.source)
        before = self.log.end
        self.log.quota_bytes = self._context.group.journal_quota_bytes
        try:
            taken = self._append(epoch, batches)
            durable = self.log.sync()
        except (OSError, EverupError):
            self.log.rewind()
            raise
        for checked in taken:
            if checked.epoch is not None:
                add_epoch(self._context.places.history, checked.epoch)
        assert before is not None
        try:
            answer(durable)
        finally:
            count = sum(len(frame.data) for frame in batches)
            operations = durable.sequence - before.sequence
            self.waiting.add(durable.sequence, operations, count, time.monotonic_ns())
            if self.applier is not None:
                self.applier.offer([checked.batch for checked in taken])
            self.on_durable()
        return durable

    def _append(self, epoch: int, batches: list[BatchFrame]) -> list[Checked]:
        """Batches of older epochs are welcome: a source of `epoch` ships its own history, which is
        what it wrote itself when nobody else became active in between."""
        taken = []
        log = self.log
        for frame in batches:
            assert log.end is not None
            checked = Checked(frame.data, frame.end_bytes, log.end)
            if checked.end.epoch > epoch:
                raise Corrupt(
                    f"a batch of epoch {checked.end.epoch} came in a stream of epoch {epoch}",
                    code="batch-epoch",
                )
            log.append(frame.data, checked.end)
            taken.append(checked)
        return taken

    # verbs

    def seal(self, epoch: int) -> Position | None:
        """Promise `epoch`; the position is final, older sources are refused from here on."""
        with self.lock:
            self.seal_promise.promise(epoch)
            self._stream = None
            self.in_sync = False
            return self.log.durable if self.applier is not None else None

    def drain(self, deadline_ms: int) -> Position:
        """Apply everything received and make the trees durable there."""
        applier = self.applier
        started = time.monotonic()
        if applier is None:
            raise Refused(
                f"the trees of this server are at no position ({self.tree_state})",
                remedy="everup status shows the sync; --force promotes with what is there",
                code="tree-inconsistent",
            )
        position = applier.drain(deadline_ms)
        left = deadline_ms - int((time.monotonic() - started) * 1000)
        while position != self.log.durable:
            position = applier.drain(max(left, 1))
        if not applier.consistent:
            raise Refused("the copy on this server is not complete", code="tree-inconsistent")
        return position

    @property
    def error(self) -> EverupError | None:
        """What keeps this server from having everything, if anything does."""
        if self.receive_error is not None:
            return self.receive_error
        return self.applier.error if self.applier is not None else None

    @property
    def consistent(self) -> bool:
        return self.applier is not None and self.applier.consistent

    def queue(self) -> dict[str, int]:
        """Received and not yet applied; all of it is on the disk, `memory_bytes` of it in memory
        as well."""
        applier = self.applier
        if applier is None or applier.applied is None:
            return {**QueueMeter().measure(0, 0), "memory_bytes": 0}
        found = self.waiting.measure(applier.applied.sequence, time.monotonic_ns())
        return {**found, "memory_bytes": min(found["bytes"], applier.ready_bytes)}


def _load_proven(path: Path) -> dict[str, Any]:
    try:
        value = load_json(path)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
