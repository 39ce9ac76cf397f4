"""The mounted trees of an open gate: their connections to the kernel, and what is kept for them.

What enters: armed trees, descriptors that a killed worker left. What leaves: a session for each,
mounted, until it is ended. Owned by the guard, which opens and closes one at a time.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from everup.capture import gate
from everup.capture.checkpoints import Checkpoints
from everup.capture.descriptors import Marks
from everup.capture.gate import ArmedTree
from everup.capture.handlers import HANDLERS
from everup.capture.keeping import Keeping
from everup.capture.lower import LowerTree
from everup.capture.order import Order
from everup.capture.runstate import OpenTree
from everup.capture.session import THREADS, Session
from everup.capture.slots import Slots
from everup.errors import EverupError, Refused
from everup.journal.writer import CAUSE_CLOSE
from everup.model.ids import root_object_id
from everup.places import Places
from everup.system.kernelcalls import sync_filesystem
from everup.system.mounts import mount_fuse

INIT_MAX_S = 5.0
ENDING_MAX_S = 1.0


class MountedTrees:
    """By tree id. `sessions` may be looked at by any thread."""

    def __init__(
        self,
        places: Places,
        keeping: Keeping,
        memory: Path,
        order: Order,
        checkpoints: Checkpoints,
        on_ended: Callable[[], None],
    ) -> None:
        """`on_ended`: a connection has ended that nobody here has ended."""
        self.sessions: dict[int, Session] = {}
        self._paths: dict[int, Path] = {}
        self._places = places
        self._keeping = keeping
        self._memory = memory
        self._order = order
        self._checkpoints = checkpoints
        self._on_ended = on_ended
        self._marks = Marks()

    @property
    def paths(self) -> list[Path]:
        return list(self._paths.values())

    @property
    def trees(self) -> tuple[OpenTree, ...]:
        """What the next worker must know of them."""
        return tuple(OpenTree(number, str(path)) for number, path in list(self._paths.items()))

    @staticmethod
    def _held_name(tree_id: int) -> str:
        return f"fuse-{tree_id}"

    def _memory_of(self, tree_id: int) -> Path:
        return self._memory / str(tree_id)

    def is_alive(self, tree: OpenTree) -> bool:
        """Whether the connection that a killed worker had is there, and mounted."""
        held = self._held_name(tree.tree_id) in self._keeping.held
        return held and gate.is_open(Path(tree.path))

    def resume(self, tree: OpenTree, group_id: str) -> Session:
        """The same tree again, over the connection and the memory of a killed worker."""
        device = self._keeping.held.get(self._held_name(tree.tree_id), -1)
        return self.make_session(ArmedTree(tree.tree_id, Path(tree.path)), group_id, device)

    def make_session(self, tree: ArmedTree, group_id: str, device: int) -> Session:
        """Raises NoRoom, or OSError."""
        number, memory = tree.tree_id, self._memory_of(tree.tree_id)
        root_id = root_object_id(group_id, number)
        lower = LowerTree(number, self._places.lower(number), root_id, memory, self._marks)
        slots = Slots(memory / "slots", THREADS)
        session = Session(device, lower, self._order, slots, self._marks, HANDLERS)
        session.on_ended = self._on_ended
        self.sessions[number] = session
        self._checkpoints.watch(number, lower.root)
        self._paths[number] = tree.path
        return session

    def mount(self, tree: ArmedTree, group_id: str, remember: Callable[[], None]) -> None:
        """A fresh connection over an armed path. `remember` is called before it is mounted: a
        worker that is killed meanwhile leaves something that the next one can find.

        Raises EverupError or OSError.
        """
        memory = self._memory_of(tree.tree_id)
        shutil.rmtree(memory, ignore_errors=True)
        memory.mkdir(mode=0o700, parents=True)
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._keeping.keep(self._held_name(tree.tree_id), device)
        try:
            session = self.make_session(tree, group_id, device)
        except (OSError, EverupError):
            self._keeping.drop(self._held_name(tree.tree_id))
            shutil.rmtree(memory, ignore_errors=True)
            raise
        session.tree.drop_orphans()
        remember()
        mount_fuse(device, tree.path, gate.MOUNT_NAME)
        session.start()
        give_up = time.monotonic() + INIT_MAX_S
        while not session.slots.features:
            if session.ended.is_set() or time.monotonic() > give_up:
                raise Refused(
                    f"the kernel did not accept the connection over {tree.path}", code="fuse-init"
                )
            time.sleep(0.002)

    def unmount(self, tree: ArmedTree, grace_s: float) -> bool:
        """Take one tree off an open gate; False when it was not there."""
        session = self.sessions.get(tree.tree_id)
        if session is None:
            return False
        session.on_ended = lambda: None
        gate.unmount_gently(tree.path, time.monotonic() + grace_s)
        gate.unmount_hard(tree.path)
        self.end(tree.tree_id)
        return True

    def end(self, number: int) -> None:
        """Its connection is gone: everything to the disk, nothing kept."""
        session = self.sessions.pop(number)
        self._checkpoints.forget(number)
        del self._paths[number]
        session.join(ENDING_MAX_S)
        self._order.close_batch(CAUSE_CLOSE)
        sync_filesystem(session.tree.root)
        session.tree.drop_orphans()
        session.tree.close()
        name = self._held_name(number)
        if name in self._keeping.held:
            self._keeping.drop(name)
        shutil.rmtree(self._memory_of(number), ignore_errors=True)
