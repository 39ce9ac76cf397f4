"""How much waits between two positions, and for how long.

What enters: what was put into a queue, by sequence. What leaves: bytes, operations and age of what
is still in it. Called by target (receive queue) and source (send queue).
"""

import threading
from collections import deque
from typing import NamedTuple

ENTRIES_MAX = 4096


class Entry(NamedTuple):
    sequence: int
    operations: int
    byte_count: int
    since_ns: int


class QueueMeter:
    """Bounded: when it is full, new arrivals are added to the newest entry."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._lock = threading.Lock()

    def add(self, sequence: int, operations: int, byte_count: int, now_ns: int) -> None:
        """Everything up to `sequence` is in the queue now."""
        with self._lock:
            if len(self._entries) >= ENTRIES_MAX:
                last = self._entries.pop()
                operations += last.operations
                byte_count += last.byte_count
                now_ns = last.since_ns
            self._entries.append(Entry(sequence, operations, byte_count, now_ns))

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def measure(self, done_sequence: int, now_ns: int) -> dict[str, int]:
        """What is left when everything up to `done_sequence` has gone out."""
        entries = self._entries
        with self._lock:
            while entries and entries[0].sequence <= done_sequence:
                entries.popleft()
            waiting = list(entries)
        return {
            "bytes": sum(entry.byte_count for entry in waiting),
            "operations": sum(entry.operations for entry in waiting),
            "oldest_ms": max(0, now_ns - waiting[0].since_ns) // 1_000_000 if waiting else 0,
        }
