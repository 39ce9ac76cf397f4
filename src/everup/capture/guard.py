"""The guard: gate, mounts and journal of one server, as one object.

What enters: the verbs of the control socket (see `control`). What leaves: an open or a closed gate,
a journal, answers. Made by the worker. Opening and closing come one at a time.
"""

import errno
import os
import sys
import threading
import time
from typing import NamedTuple

from everup.capture import gate, runstate
from everup.capture.batchends import BatchEnds
from everup.capture.checkpoints import Checkpoints
from everup.capture.gate import ArmedTree
from everup.capture.journalcare import JournalCare
from everup.capture.keeping import Keeping
from everup.capture.mounted import MountedTrees
from everup.capture.order import Order, Policy
from everup.capture.runstate import RunState, StateFile
from everup.capture.session import Session
from everup.capture.settle import settle
from everup.capture.touched import Touched
from everup.errors import EverupError, Refused
from everup.journal.dirty import DirtyMap
from everup.journal.history import add_epoch
from everup.journal.operation import Epoch
from everup.journal.record import Record
from everup.journal.unclean import note_unclean_epoch
from everup.journal.writer import CAUSE_CLOSE, JournalWriter
from everup.model.ids import GROUP_XATTR
from everup.model.position import Position
from everup.places import Places
from everup.system.clock import boot_id
from everup.system.files import load_json, save_json
from everup.system.leasepage import LeasePageReader

DISARM_GRACE_S = 2.0
DRAIN_MAX_S = 1.0


class OpenRequest(NamedTuple):
    """Arguments of `open`."""

    epoch: int
    parent: Position | None
    server: str
    boot_id: str
    reason: str
    policy: Policy
    group_id: str


class Guard:
    """All of it. Raises EverupError for what is refused."""

    def __init__(self, places: Places, keeping: Keeping) -> None:
        self.places = places
        self.keeping = keeping
        self.memory = runstate.memory_directory(places)
        self.journal = JournalWriter(places.journal, memory=self.memory / "open-batch")
        ends = BatchEnds(self.memory / "batch-end", places.journal)
        lease = LeasePageReader(places.lease_page, boot_id())
        self._touched = Touched(self.memory / "touched")
        dirty = DirtyMap(self.memory / "dirty")
        self.order = Order(self.journal, lease, ends, self._touched, dirty)
        self.order.on_acknowledged = self._acknowledged
        self.order.on_journal_changed = self._journal_changed
        self.care = JournalCare(places, self.journal, self.order, dirty)
        self.checkpoints = Checkpoints(places, self.order)
        self.clean: bool | None = None
        self._mounted = MountedTrees(
            places, keeping, self.memory, self.order, self.checkpoints, self._connection_ended
        )
        self._ends = ends
        self._lock = threading.Lock()
        # Of what the next worker reads: a policy may change while a journal fails.
        self._saving = threading.Lock()
        self._state = StateFile(self.memory / "open")
        self._server = ""
        self._group_id = ""

    @property
    def sessions(self) -> dict[int, Session]:
        """Of the open gate, by tree; none when it is closed."""
        return self._mounted.sessions

    # start

    def start(self) -> None:
        """Take over from a killed worker, or begin with every gate closed."""
        state = self._state.load()
        last = self._ends.load() if state is not None else None
        loose = self.care.open(last, state.epoch if state is not None else None)
        if state is not None:
            self._resume(state, loose)
        elif loose:
            # A power cut: what was recorded stays recorded, up to the last whole record.
            self.order.close_batch(CAUSE_CLOSE)
        self.order.start()
        self.care.start()
        self.checkpoints.start()
        for tree in gate.load_armed(self.places):
            if tree.tree_id not in self.sessions:
                self._arm_quietly(tree)

    def _arm_quietly(self, tree: ArmedTree) -> None:
        try:
            gate.clean_dead(tree.path)
            gate.arm_tree(self.places, tree)
        except (EverupError, OSError) as error:
            print(f"everup-guard: {error}", file=sys.stderr, flush=True)

    def _resume(self, state: RunState, loose: tuple[Record, ...]) -> None:
        mounted = self._mounted
        alive = all(mounted.is_alive(tree) for tree in state.trees)
        self.order.epoch = state.epoch
        self.order.closed = self._ends.load()
        self.order.closing = not alive
        self.order.policy = Policy(state.mode, state.must_acknowledge)
        if self.order.journal_state == "ok":
            self.order.journal_state = state.journal_state
            self.order.journal_sentence = state.journal_sentence
        self.care.server = state.server
        self._server, self._group_id = state.server, state.group_id
        for tree in state.trees:
            mounted.resume(tree, state.group_id)
        settle(self.sessions.values(), self.order, loose, self._touched.entries(), alive)
        if not alive:
            for path in mounted.paths:
                gate.unmount_hard(path)
            self._finish_closing(state.epoch)
            return
        for session in self.sessions.values():
            session.take_over()
            session.start()

    # arming

    def arm(self, trees: list[ArmedTree]) -> None:
        """Close the gate over these paths too; durable before it is done."""
        with self._lock:
            before = gate.load_armed(self.places)
            armed = {tree.tree_id: tree for tree in before}
            for tree in trees:
                known = armed.get(tree.tree_id)
                if known is not None and known.path != tree.path:
                    raise Refused(
                        f"tree {tree.tree_id} is already {known.path}", code="tree-id-used"
                    )
                armed[tree.tree_id] = tree
            gate.save_armed(self.places, list(armed.values()))
            covered: list[ArmedTree] = []
            try:
                for tree in trees:
                    gate.arm_tree(self.places, tree)
                    covered.append(tree)
                    self._join_epoch(tree)
            except (OSError, EverupError):
                # What was a plain directory is one again: nobody may be left before a closed gate.
                for tree in covered:
                    if tree not in before:
                        self._mounted.unmount(tree, 0.0)
                        gate.disarm_tree(self.places, tree)
                gate.save_armed(self.places, before)
                raise

    def _join_epoch(self, tree: ArmedTree) -> None:
        if self.sessions and tree.tree_id not in self.sessions:
            # Protected while the gate is open: it joins the epoch that runs.
            self._check_marker(tree, self._group_id)
            self._mounted.mount(tree, self._group_id, self._save_state)

    def disarm(self, tree_ids: list[int]) -> None:
        """Plain directories again; one whose gate is open is closed first."""
        with self._lock:
            armed = gate.load_armed(self.places)
            for tree in armed:
                if tree.tree_id not in tree_ids:
                    continue
                if self._mounted.unmount(tree, DISARM_GRACE_S):
                    self._save_state()
                gate.disarm_tree(self.places, tree)
            left = [tree for tree in armed if tree.tree_id not in tree_ids]
            gate.save_armed(self.places, left)

    # opening

    def open(self, request: OpenRequest) -> Position:
        """Begin an epoch and mount fresh connections over every armed path."""
        with self._lock:
            if self.sessions:
                if self.order.epoch == request.epoch and self.order.closed:
                    self.order.set_policy(request.policy)
                    return self.order.closed.position
                raise Refused(f"the gate is open in epoch {self.order.epoch}", code="gate-open")
            armed = gate.load_armed(self.places)
            self._check_lease(request.epoch)
            self.care.check_room()
            for tree in armed:
                gate.clean_dead(tree.path)
                gate.arm_tree(self.places, tree)
                self._check_marker(tree, request.group_id)
            position = self._begin_epoch(request)
            self._server, self._group_id = request.server, request.group_id
            self.order.policy = request.policy
            try:
                for tree in armed:
                    self._mounted.mount(tree, request.group_id, self._save_state)
                self._save_state()
            except (OSError, EverupError) as error:
                if self.sessions:
                    self._close(0.0)
                else:
                    self._stop_admitting()
                    self._finish_closing(request.epoch)
                raise Refused(
                    f"the gate could not be opened: {error}",
                    remedy=error.remedy if isinstance(error, EverupError) else "",
                    code="gate-open-failed",
                ) from error
            return position

    def _check_lease(self, epoch: int) -> None:
        self.order.epoch = epoch
        if not self.order.in_time():
            raise Refused(f"this server holds no lease of epoch {epoch}", code="no-lease")

    def _check_marker(self, tree: ArmedTree, group_id: str) -> None:
        """The tree belongs to this group from its first opening on."""
        lower = self.places.lower(tree.tree_id)
        try:
            marker = os.getxattr(lower, GROUP_XATTR)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            os.setxattr(lower, GROUP_XATTR, group_id.encode())
            return
        if marker != group_id.encode():
            raise Refused(
                f"{tree.path} belongs to another group",
                remedy=f"setfattr -x {GROUP_XATTR} {lower} when that group is gone",
                code="foreign-group",
            )

    def _begin_epoch(self, request: OpenRequest) -> Position:
        parent = self.care.parent_of(request.parent)
        if request.epoch <= parent.epoch:
            raise Refused(
                f"epoch {request.epoch} does not follow epoch {parent.epoch}", code="old-epoch"
            )
        epoch = Epoch(request.epoch, parent, request.server, request.boot_id, request.reason)
        state = {"state": "open", "epoch": request.epoch, "server": request.server}
        if (load_json(self.places.tree) or {}).get("state") == "open":
            note_unclean_epoch(self.places.state, request.epoch)
        save_json(self.places.tree, state, operation="save-tree")
        with self.order.lock:
            closed = self.journal.begin_epoch(epoch)
        add_epoch(self.places.history, epoch)
        self.care.epoch_begun()
        self.care.server = request.server
        self.order.begin(closed)
        return closed.position

    def _save_state(self) -> None:
        with self._saving:
            policy = self.order.policy
            self._state.save(
                RunState(
                    self.order.epoch, self._server, self._group_id, policy.mode,
                    policy.must_acknowledge, self._mounted.trees, self.order.journal_state,
                    self.order.journal_sentence,
                )
            )  # fmt: skip

    def _journal_changed(self) -> None:
        if self.sessions:
            self._save_state()

    # closing

    def close(self, grace_ms: int) -> tuple[Position, bool]:
        """Close the gate; whoever still waits gets EIO. (position, nothing was left open)."""
        with self._lock:
            return self._close(grace_ms / 1000)

    def _close(self, grace_s: float) -> tuple[Position, bool]:
        if not self.sessions:
            self.order.closing = True
            return self.journal.position, self.clean is not False
        give_up = time.monotonic() + grace_s
        if self.order.in_time():
            # Unmounting writes back what is mapped; when the lease ends meanwhile those writes are
            # held, and only the closing gate lets them (and us) go.
            timer = threading.Timer(grace_s, self._stop_admitting)
            timer.start()
            for path in self._mounted.paths:
                gate.unmount_gently(path, give_up)
            timer.cancel()
        self._stop_admitting()
        for session in self.sessions.values():
            session.syncs.fail_waiting(errno.EIO)
        self._drain()
        for path in self._mounted.paths:
            gate.unmount_hard(path)
        return self._finish_closing(self.order.epoch)

    def _stop_admitting(self) -> None:
        self.order.closing = True

    def _drain(self) -> None:
        """Let running handlers end: with the gate closing none of them can wait."""
        give_up = time.monotonic() + DRAIN_MAX_S
        while time.monotonic() < give_up:
            if not any(session.open_requests for session in self.sessions.values()):
                return
            time.sleep(0.005)

    def _finish_closing(self, epoch: int) -> tuple[Position, bool]:
        """No connection is left: everything that was done is in the journal and on the disk."""
        for session in self.sessions.values():
            session.join(DRAIN_MAX_S)
        self.order.close_batch(CAUSE_CLOSE)
        try:
            self.journal.sync()
        except OSError as error:
            self.order.fail_journal("error", f"the journal could not be synced: {error.strerror}")
        clean = self.order.journal_state == "ok" and not self.journal.open_records
        for number in list(self.sessions):
            self._mounted.end(number)
        position = self.journal.position
        if clean:
            value = {"state": "at", "position": position.to_json()}
            save_json(self.places.tree, value, operation="save-tree")
        self._state.clear()
        self.clean = clean
        print(
            f"everup-guard: gate closed at {epoch}/{position.sequence}", file=sys.stderr, flush=True
        )
        return position, clean

    def _connection_ended(self) -> None:
        """Somebody else unmounted or aborted it: no dead mount may stay behind."""
        if not self.order.closing:
            print("everup-guard: a connection ended, closing the gate", file=sys.stderr, flush=True)
            threading.Thread(target=self.close, args=(0,), daemon=True).start()

    # policy and acknowledgements

    def set_policy(self, policy: Policy) -> None:
        with self._lock:
            self.order.set_policy(policy)
            if self.sessions:
                self._save_state()

    def in_work(self) -> list[tuple[int, int]]:
        """See the session's."""
        return [work for session in list(self.sessions.values()) for work in session.in_work()]

    def _acknowledged(self, up_to: int) -> None:
        for session in list(self.sessions.values()):
            session.syncs.acknowledged(up_to)
