"""What every part of the replicator needs to know, and how it tells the agent what happened.

What enters: places, settings, the door to durable files. What leaves: the same, as one value, and
events. Made by the process; handed to source, target and sync.
"""

import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everup.config.caps import cap_at
from everup.config.schema import GroupSettings
from everup.places import Places
from everup.replicate.lower import LowerTree, open_tree
from everup.replicate.names import TreeOperations
from everup.system.files import REAL_DOOR, Door, load_json, save_json

EVENTS_QUEUED_MAX = 256
SUBSCRIBERS_MAX = 16
HEARTBEAT_SECONDS = 30


class EventBus:
    """Events to whoever subscribed, and to the log of the service.

    A subscriber that does not read loses the oldest ones.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: list[queue.Queue[dict[str, Any]]] = []

    def emit(self, kind: str, sentence: str, **fields: Any) -> None:
        event = {"event": kind, "sentence": sentence, **fields}
        print(f"everup-replicator: {kind}: {sentence}", file=sys.stderr, flush=True)
        with self._lock:
            for subscriber in self._subscribers:
                if subscriber.full():
                    try:
                        subscriber.get_nowait()
                    except queue.Empty:
                        pass
                subscriber.put_nowait(event)

    def subscribe(self) -> Iterator[dict[str, Any]]:
        """Events from now on, for ever; an `alive` event now and then finds closed connections."""
        mine: queue.Queue[dict[str, Any]] = queue.Queue(EVENTS_QUEUED_MAX)
        with self._lock:
            self._subscribers.append(mine)
            del self._subscribers[:-SUBSCRIBERS_MAX]
        return self._lines(mine)

    def _lines(self, mine: "queue.Queue[dict[str, Any]]") -> Iterator[dict[str, Any]]:
        yield {"event": "subscribed"}
        try:
            while True:
                try:
                    yield mine.get(timeout=HEARTBEAT_SECONDS)
                except queue.Empty:
                    yield {"event": "alive"}
        finally:
            with self._lock:
                if mine in self._subscribers:
                    self._subscribers.remove(mine)


@dataclass
class Context:
    """One per process; `group` is replaced by `reload`."""

    places: Places
    server: str
    group: GroupSettings
    events: EventBus = field(default_factory=EventBus)
    door: Door = REAL_DOOR

    @property
    def seal_path(self) -> Path:
        return self.places.state / "seal.json"

    @property
    def proven_path(self) -> Path:
        return self.places.state / "proven.json"

    def path_of(self, tree_id: int) -> str:
        """The protected directory, as people know it."""
        return next((t.path for t in self.group.protect if t.id == tree_id), f"tree {tree_id}")

    def servers(self) -> frozenset[str]:
        """Names of the servers that hold data."""
        return frozenset(member.name for member in self.group.servers)

    @property
    def unproven_path(self) -> Path:
        """Exists from the begin of a copy until its proof."""
        return self.places.state / "unproven.json"

    @property
    def trees_path(self) -> Path:
        return self.places.state / "trees.json"

    def held_trees(self) -> frozenset[int]:
        """Trees that were copied to this server, or written here, at least once."""
        try:
            held = frozenset(map(int, load_json(self.trees_path) or []))
        except (ValueError, TypeError):
            return frozenset()
        return held

    def is_waited_for(self) -> bool:
        """An fsync may wait for what is sent."""
        return self.group.mode == "durable"

    def cap(self, server: str) -> int:
        """Bytes per second that may be sent to `server` now; 0: no limit."""
        now = time.localtime()
        return cap_at(self.group.bandwidth, server, now.tm_wday, now.tm_hour * 60 + now.tm_min)

    def add_held_trees(self, trees: Iterable[int]) -> None:
        held = self.held_trees()
        added = held.union(trees)
        if added != held:
            save_json(self.trees_path, sorted(added), operation="save-trees")

    def open_lower(self, tree_id: int, *, adopt: bool = False) -> LowerTree:
        """Raises Refused when the tree is not there or not this group's."""
        return open_tree(self.places.lower(tree_id), tree_id, self.group.group_id, adopt=adopt)

    def open_operations(self, tree_id: int) -> TreeOperations:
        return TreeOperations(self.open_lower(tree_id))
