"""Which files need a sync at all: an fsync of a file that nobody has changed is answered at once.

What enters: the object id of every record, and syncs as they begin and end. What leaves: whether
the disk must be asked. Called by the order (records) and `syncing` (fsync). A database that
recovers after a crash syncs every file that it has; each costs a flush of the disk (3 ms on a
virtual disk), a thousand times and more, although nearly all are clean. One sync of the whole file
system, at the first such file, makes all that was there before durable at once.
"""

import threading
from collections.abc import Callable

OBJECTS_MAX = 200_000


class Unsynced:
    """Objects of all trees with changes that no sync has covered, as far as this worker saw."""

    def __init__(self, objects_max: int = OBJECTS_MAX) -> None:
        self._objects_max = objects_max
        self._lock = threading.Lock()
        self._changes: dict[bytes, int] = {}
        self._count = 0
        self._whole: set[int] = set()
        self._forgotten = 0
        self._syncing = threading.Lock()

    def changed(self, object_id: bytes) -> None:
        """The object was changed; called before the change is answered."""
        with self._lock:
            self._count += 1
            self._changes[object_id] = self._count
            if len(self._changes) > self._objects_max:
                # Bounded: what is forgotten here is covered by another whole sync.
                self._changes.clear()
                self._whole.clear()
                self._forgotten += 1

    def change_of(self, object_id: bytes | None) -> int | None:
        """Before a sync: the object's last change; None when there is none that we know of."""
        return self._changes.get(object_id) if object_id is not None else None

    def synced(self, object_id: bytes | None, change: int | None) -> None:
        """A sync that began after `change` has succeeded; later changes are not covered."""
        if object_id is None or change is None:
            return
        with self._lock:
            if self._changes.get(object_id) == change:
                del self._changes[object_id]

    def make_whole(self, tree_id: int, sync: Callable[[], None]) -> None:
        """Make durable what was in the tree before we counted; only the first call does `sync`."""
        if tree_id in self._whole:
            return
        with self._syncing:
            if tree_id in self._whole:
                return
            forgotten = self._forgotten
            sync()
            with self._lock:
                if forgotten == self._forgotten:
                    self._whole.add(tree_id)
