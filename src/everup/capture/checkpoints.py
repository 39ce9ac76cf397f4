"""Say now and then that the protected trees are on the disk: the mark of the activity log.

What enters: the order, and the lower trees of the open gate. What leaves: a durable mark; after a
power cut only what the journal has behind it need be compared. Owned by the guard; one thread, in
the background: nothing on the path of an application's write waits for it.

The kernel writes what is 30 s old by itself; asking for it about as often costs little and gives
the one thing that the kernel does not tell: from when on everything is there.
"""

import os
import sys
import threading
import time

from everup.capture.order import Order
from everup.journal.activity import Mark, forget_mark, load_mark, save_mark
from everup.journal.segment import SUFFIX
from everup.model.position import Position
from everup.places import Places
from everup.system.clock import wall_ns
from everup.system.kernelcalls import sync_filesystem

EVERY_S = 30.0
EVERY_BYTES = 512 << 20
"""Of the journal: this much at most is read, and what it names compared, after a power cut."""
LOOK_EVERY_S = 1.0


class Checkpoints:
    """One per guard. `watch` when a tree is mounted, `forget` when its gate closes."""

    def __init__(self, places: Places, order: Order) -> None:
        self._places = places
        self._order = order
        self._lock = threading.Lock()
        self._trees: dict[int, int] = {}
        mark = load_mark(places.state)
        self._mark: Position | None = mark.position if mark else None
        self._looked_at = 0.0
        self._due = False
        self._failed_epoch = 0
        self._stopped = threading.Event()

    def watch(self, tree_id: int, root: int) -> None:
        """A tree of the open gate. What lay in it before is in nobody's journal and may not be on
        the disk yet, so a checkpoint is due."""
        # Opened, not copied, and kept: an error of writing back is told once to each open file.
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        with self._lock:
            self._trees[tree_id] = descriptor
            self._due = True

    def forget(self, tree_id: int) -> None:
        with self._lock:
            descriptor = self._trees.pop(tree_id, -1)
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def needed_after(self) -> int | None:
        """The journal is needed behind this sequence; None when no gate is open, or no mark is."""
        mark = self._mark
        return mark.sequence if mark is not None and self._trees else None

    def start(self) -> None:
        threading.Thread(target=self._run, name="checkpoints", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            order = self._order
            if order.closing or order.epoch == self._failed_epoch:
                continue
            if order.journal_state != "ok":
                self._drop_mark()
                continue
            late = time.monotonic() - self._looked_at > EVERY_S
            if self._due or late or self._journal_bytes() > EVERY_BYTES:
                self._looked_at = time.monotonic()
                self._make()

    def _drop_mark(self) -> None:
        """What the journal lacks would be named by nothing after a power cut: all is compared."""
        if self._mark is None:
            return
        self._mark, self._due = None, True
        try:
            forget_mark(self._places.state)
        except OSError as error:
            self._fail(error)

    def _journal_bytes(self) -> int:
        """What the journal has behind the mark, in whole segments."""
        if self._mark is None:
            return 0
        first = f"{self._mark.sequence + 1:016x}"
        with os.scandir(self._places.journal) as entries:
            return sum(
                entry.stat().st_size
                for entry in entries
                if entry.name.endswith(SUFFIX) and entry.name > first
            )

    def _make(self) -> None:
        """Everything recorded so far lies in the trees already: a change is made, then recorded."""
        order = self._order
        now_ns = wall_ns()
        closed = order.checkpoint()
        with self._lock:
            descriptors = [os.dup(descriptor) for descriptor in self._trees.values()]
            self._due = False
        try:
            if closed is None or closed.position == self._mark:
                return
            order.journal.sync()
            for descriptor in descriptors:
                sync_filesystem(descriptor)
            if order.closing or order.epoch != closed.position.epoch:
                return
            save_mark(self._places.state, Mark(closed.position, now_ns))
            self._mark = closed.position
        except OSError as error:
            self._fail(error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fail(self, error: OSError) -> None:
        """What could not be written back is lost, and the next sync would not tell it again: after
        a power cut of this epoch everything is compared."""
        self._failed_epoch = self._order.epoch
        forget_mark(self._places.state)
        self._mark = None
        print(
            f"everup-guard: the trees could not be made durable: {error.strerror}; after a power "
            "cut they are compared whole",
            file=sys.stderr,
            flush=True,
        )
