"""The passive side in this process, fed by hand: a journal that somebody wrote, and a target.

What enters: an empty directory. What leaves: frames of a stand-in guard's journal, and a `Target`
over its own places that takes them; it can be stopped and started again where it stood. Used by
tests of receiving and applying that need no connection.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from replicating import GROUP_ID, HIDDEN
from standin_guard import StandInGuard
from workload import Workload

from everup.config.load import load_group
from everup.journal.reader import Cursor
from everup.model.position import ORIGIN, Position
from everup.places import Places
from everup.replicate.context import Context
from everup.replicate.seal import Seal
from everup.replicate.target import Target
from everup.replicate.treestate import AT, TreeState, save_tree_state
from everup.system.files import REAL_DOOR, Door
from everup.wire.frames import BatchFrame

END_BYTES = 113
SETTINGS = (
    f'version = 1\ngroup = "test"\ngroup_id = "{GROUP_ID}"\n[[protect]]\nid = 1\npath = "/srv/x"\n'
)


def written_journal(base: Path, seed: int, steps: int) -> StandInGuard:
    """A source with a tree and the journal of it; the same seed is the same journal."""
    places = Places.below(base)
    places.make()
    places.lower(1).mkdir(mode=0o755)
    guard = StandInGuard(places, GROUP_ID)
    guard.open(1, "alpha")
    workload = Workload(guard, random.Random(seed))
    for _ in range(steps):
        workload.step()
    for object_id in workload.orphans:
        guard.release(object_id)
    guard.end_batch()
    return guard


def frames_of(guard: StandInGuard) -> list[tuple[BatchFrame, Position]]:
    """Every batch and the position at its end."""
    cursor = Cursor(guard.places.journal, ORIGIN)
    found = [(BatchFrame(b.data, END_BYTES), b.end) for b in iter(cursor.next, None)]
    cursor.close()
    return found


class Passive:
    """One passive server without a network; `target` is the one that runs now."""

    def __init__(self, base: Path, like: StandInGuard, door: Door = REAL_DOOR) -> None:
        self.places = Places.below(base)
        self.places.make()
        self.lower = self.places.lower(1)
        self.places.group_settings.write_text(SETTINGS)
        self._like = like.root
        self.make_tree()
        save_tree_state(self.places.tree, TreeState(AT, ORIGIN))
        self.context = Context(
            self.places, "beta", load_group(self.places.group_settings), door=door
        )
        self.stream = object()
        self.target = self._made()
        self.target.log.open()
        self.target.log.reset(ORIGIN)
        self._go()

    def make_tree(self) -> None:
        """An empty tree, as it was before the first record."""
        if self.lower.exists():
            shutil.rmtree(self.lower)
        status = self._like.stat()
        self.lower.mkdir()
        self.lower.chmod(status.st_mode & 0o7777)
        os.setxattr(self.lower, "trusted.everup.group", GROUP_ID.encode())
        (self.lower / HIDDEN.decode()).mkdir(mode=0o700)
        os.utime(self.lower, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _made(self) -> Target:
        return Target(self.context, Seal(self.context.seal_path), lambda: None)

    def _go(self) -> None:
        self.target.start()
        self.target.take_over_stream(self.stream, 1, "alpha")

    def receive(self, *frames: BatchFrame) -> Position:
        return self.target.receive(self.stream, 1, list(frames))

    def restart(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Stop wherever the applier is, and go on with what is on the disk."""
        self.target.stop()
        meanwhile()
        self.target = self._made()
        self._go()

    def stop(self) -> None:
        self.target.stop()
