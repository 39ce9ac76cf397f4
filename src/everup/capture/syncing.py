"""Syncs: requests that wait for the disk, or until other servers have what was written.

What enters: requests whose handler wants the fsync contract, acknowledgements, signals. What
leaves: their answers. One per mounted tree, made by its session. Whoever waits for other servers
occupies no thread: its number is parked in shared memory and answered later, also by the next
worker.
"""

import errno
import os
import threading
import time
from typing import Protocol

from everup.capture import protocol
from everup.capture.descriptors import Marks
from everup.capture.lower import LowerTree
from everup.capture.order import Order
from everup.capture.slots import WAITS_DISK, WAITS_PEERS, Parked, Slots
from everup.capture.waiting import killed
from everup.system.kernelcalls import sync_filesystem

SYNC_THREADS = 4
KILLED_POLL_S = 0.1


class Asking(Protocol):
    """The request that wants the sync."""

    @property
    def unique(self) -> int: ...

    @property
    def node(self) -> int: ...

    @property
    def thread(self) -> int: ...


class Answers(Protocol):
    """The connection on which they are answered."""

    def answer(self, unique: int, body: bytes) -> None: ...

    def answer_error(self, unique: int, number: int) -> None: ...


class Syncs:
    """All that wait in one tree. Safe for many threads."""

    def __init__(
        self, tree: LowerTree, order: Order, slots: Slots, marks: Marks, answers: Answers
    ) -> None:
        self.tree = tree
        self.order = order
        self._slots = slots
        self._marks = marks
        self._answers = answers
        # So many threads may be inside a sync; the others go on with reads and writes.
        self._at_once = len(slots.slots) - 2
        self._syncing = 0
        self._parked: dict[int, Parked] = {}
        self._waiters: dict[int, int] = {}
        self._signalled: set[int] = set()
        self._watching = False
        self.resent: dict[int, int] = {}
        """Writes that the kernel sends again and of which only the sync is missing: their bytes."""
        self._lock = threading.Lock()
        self._places = threading.Semaphore(SYNC_THREADS)

    # from a killed worker

    def take_over(self, resend: bool) -> None:
        """Requests that waited without a slot when the worker before us was killed.

        With re-send the kernel brings them again, under another `unique`; syncs are then simply
        done anew, and writes must only be synced. Without it they go on waiting here.
        """
        for parked in self._slots.parked():
            if resend:
                if parked.written:
                    self.resent[parked.unique & ~protocol.UNIQUE_RESEND] = parked.written
                with self._lock:
                    # Also one that was parked a moment ago, while its slot was settled.
                    self._unlist(parked)
                self._slots.unpark(parked)
            elif parked.place not in self._parked:
                with self._lock:
                    self._parked[parked.place] = parked
                threading.Thread(target=self._sync_apart, args=(parked, True), daemon=True).start()

    def was_parked(self, request: Asking) -> bool:
        """A write that the worker before us had done and that still waits for its sync."""
        written = self.resent.pop(request.unique & ~protocol.UNIQUE_RESEND, None)
        if written is None:
            return False
        success = protocol.WRITE_OUT.pack(written)
        answer = self.sync_then_answer(request, written, True, success)
        if answer is not None:
            self._answers.answer(request.unique, answer)
        return True

    # the contract

    def sync_then_answer(
        self, request: Asking, written: int, data_only: bool, success: bytes
    ) -> bytes | None:
        """The fsync contract: lower file, and in durable mode every member of the list."""
        order = self.order
        durable = order.policy.durable
        sequence = order.sequence_to_wait_for() if durable else 0
        if self._syncing < self._at_once:
            self._syncing += 1
            try:
                self._sync_now(request.node, data_only)
            finally:
                self._syncing -= 1
            if not durable:
                order.confirm()
                return success
            self._after_disk(self._park(request, sequence, written, WAITS_PEERS))
            return None
        # Most threads are inside a sync already: this one goes to a thread of its own, so that
        # reads and writes go on.
        parked = self._park(request, sequence, written, WAITS_DISK)
        threading.Thread(target=self._sync_apart, args=(parked, data_only), daemon=True).start()
        return None

    def _park(self, request: Asking, sequence: int, written: int, state: int) -> Parked:
        parked = self._slots.park(request.unique, request.node, sequence, written, state)
        with self._lock:
            self._parked[parked.place] = parked
            self._waiters[parked.place] = request.thread
        return parked

    def _sync_now(self, node: int, data_only: bool) -> None:
        hot = self.tree.hot(node)
        if hot.path_only:
            return
        unsynced = self.order.unsynced
        object_id = None if hot.directory else self.tree.known_identity(hot)
        change = unsynced.change_of(object_id)
        if change is None and not hot.directory:
            unsynced.make_whole(self.tree.tree_id, self._sync_tree)
            return
        self.order.record_first(hot)
        if data_only:
            os.fdatasync(hot.descriptor)
        else:
            os.fsync(hot.descriptor)
            unsynced.synced(object_id, change)

    def _sync_tree(self) -> None:
        self.order.record_first()
        sync_filesystem(self.tree.root)

    def _sync_apart(self, parked: Parked, data_only: bool) -> None:
        with self._places:
            place = self._marks.join()
            self._marks.enter(place)
            try:
                self._sync_now(parked.node, data_only)
            except OSError as error:
                self._finish(parked, error.errno or errno.EIO)
                return
            finally:
                self._marks.leave(place)
                self._marks.part(place)
        with self._lock:
            if not self._listed(parked):
                return
            parked = self._slots.change(parked, state=WAITS_PEERS)
            self._parked[parked.place] = parked
        self._after_disk(parked)

    def _listed(self, parked: Parked) -> bool:
        """Whether the place still holds this very request; the lock is held."""
        known = self._parked.get(parked.place)
        return known is not None and known.unique == parked.unique

    def _unlist(self, parked: Parked) -> bool:
        """Take it off the list; False when somebody else did. The lock is held."""
        if not self._listed(parked):
            return False
        del self._parked[parked.place]
        self._waiters.pop(parked.place, None)
        self._signalled.discard(parked.place)
        return True

    def _after_disk(self, parked: Parked) -> None:
        if parked.sequence <= self.order.acknowledged_up_to or not self.order.policy.durable:
            self._finish(parked, 0)

    def _finish(self, parked: Parked, number: int) -> None:
        with self._lock:
            if not self._unlist(parked):
                return
        if not number:
            try:
                self.order.confirm()
            except OSError:
                number = errno.EIO
        if number:
            self._answers.answer_error(parked.unique, number)
        elif parked.written:
            self._answers.answer(parked.unique, protocol.WRITE_OUT.pack(parked.written))
        else:
            self._answers.answer(parked.unique, b"")
        self._slots.unpark(parked)

    # what lets them go

    def acknowledged(self, up_to: int) -> None:
        """Every server that must have them has the records up to `up_to`."""
        for parked in list(self._parked.values()):
            if parked.state == WAITS_PEERS and parked.sequence <= up_to:
                self._finish(parked, 0)

    def interrupt(self, unique: int) -> None:
        """A signal reached a process that waits; it is let go if it was, or will be, killed."""
        plain = unique & ~protocol.UNIQUE_RESEND
        with self._lock:
            for parked in self._parked.values():
                if parked.unique & ~protocol.UNIQUE_RESEND == plain:
                    self._signalled.add(parked.place)
            if not self._signalled or self._watching:
                return
            self._watching = True
        threading.Thread(target=self._watch_signalled, daemon=True).start()

    def _watch_signalled(self) -> None:
        while True:
            with self._lock:
                waiting = [(self._parked[i], self._waiters.get(i, 0)) for i in self._signalled]
                if not waiting:
                    self._watching = False
                    return
            for parked, thread in waiting:
                if killed(thread):
                    self._finish(parked, errno.EINTR)
            time.sleep(KILLED_POLL_S)

    def fail_waiting(self, number: int) -> None:
        """The gate closes: all of them end with this error."""
        for parked in list(self._parked.values()):
            self._finish(parked, number)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._parked)
