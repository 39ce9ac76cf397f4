"""Open descriptors of lower objects, bounded, and closed only when no thread can be using them.

What enters: node numbers. What leaves: `Hot` objects (descriptor, object id, hint). Called by the
lower tree on every request. A closed number that is opened again for another file would send a
write to the wrong object, so retired descriptors wait until every thread that might hold them has
finished its request.
"""

import os
import threading

from everup.capture.ahead import Ahead
from everup.capture.protocol import ROOT_NODE

HOT_MAX = 8192
_IDLE = 1 << 62


class Hot:
    """What is remembered of an object in use; `touched` until its time is in the journal."""

    __slots__ = (
        "ahead", "capabilities", "default_acl", "descriptor", "directory", "hint", "node",
        "object_id", "orphan", "path_only", "pinned", "touched",
    )  # fmt: skip

    def __init__(self, node: int, descriptor: int) -> None:
        self.node = node
        self.descriptor = descriptor
        self.object_id: bytes | None = None
        self.hint: bytes | None = None
        self.path_only = False
        self.directory = False
        self.orphan = False
        self.touched = False
        self.ahead = Ahead()
        # The descriptor is the only way to the object: it lies in no directory at all.
        self.pinned = False
        # None: not looked at yet
        self.default_acl: bool | None = None
        self.capabilities: bool | None = None


class Marks:
    """Which threads are inside a request, and since when (in steps of retiring, not of time)."""

    def __init__(self) -> None:
        self.clock = 1
        self.active: list[int] = []
        self._lock = threading.Lock()
        self._free: list[int] = []

    def join(self) -> int:
        """Place of a new thread."""
        with self._lock:
            if self._free:
                return self._free.pop()
            self.active.append(_IDLE)
            return len(self.active) - 1

    def part(self, place: int) -> None:
        """The thread ends."""
        with self._lock:
            self._free.append(place)

    def enter(self, place: int) -> None:
        self.active[place] = self.clock

    def leave(self, place: int) -> None:
        self.active[place] = _IDLE

    def oldest(self) -> int:
        return min(self.active, default=_IDLE)


class Descriptors:
    """Hot objects of one tree, oldest dropped first when there are too many."""

    def __init__(self, marks: Marks, hot_max: int = HOT_MAX) -> None:
        self.by_node: dict[int, Hot] = {}
        self._marks = marks
        self._hot_max = hot_max
        self._retired: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def keep(self, hot: Hot) -> Hot:
        """Remember `hot`; when another thread was faster, its object is returned instead."""
        with self._lock:
            known = self.by_node.setdefault(hot.node, hot)
            if known is not hot:
                os.close(hot.descriptor)
            elif len(self.by_node) > self._hot_max:
                self._drop_oldest()
            return known

    def _drop_oldest(self) -> None:
        wanted = self._hot_max // 8
        victims = []
        for hot in self.by_node.values():
            if not hot.touched and not hot.pinned and hot.node != ROOT_NODE:
                victims.append(hot)
                if len(victims) == wanted:
                    break
        for hot in victims:
            self._retire(hot)
        self._collect()

    def drop(self, node: int) -> None:
        """The kernel forgot the node."""
        with self._lock:
            hot = self.by_node.get(node)
            if hot is not None and not hot.touched:
                self._retire(hot)
                if len(self._retired) > 64:
                    self._collect()

    def collect(self) -> None:
        """Close what no thread can be using any more."""
        with self._lock:
            self._collect()

    def _retire(self, hot: Hot) -> None:
        del self.by_node[hot.node]
        self._retired.append((self._marks.clock, hot.descriptor))
        self._marks.clock += 1

    def _collect(self) -> None:
        oldest = self._marks.oldest()
        kept = []
        for stamp, descriptor in self._retired:
            if stamp < oldest:
                os.close(descriptor)
            else:
                kept.append((stamp, descriptor))
        self._retired = kept

    def forget_hints(self) -> None:
        """A directory moved: every remembered path may be another one now."""
        for hot in list(self.by_node.values()):
            hot.hint = None

    def close(self) -> None:
        """Close everything; no request may be running."""
        with self._lock:
            for hot in self.by_node.values():
                os.close(hot.descriptor)
            self.by_node.clear()
            for _, descriptor in self._retired:
                os.close(descriptor)
            self._retired.clear()
