"""Work for the keeper's loop from other threads, and news from the loop to them.

What enters: functions to be called in the loop, events for subscribers. What leaves: their results.
Called by the control socket's threads and the saving thread.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from everup.errors import DeadlinePassed, EverupError

SUBSCRIBERS_MAX = 16
LINES_MAX = 256
ALIVE_S = 15


class Answer:
    """A result that the loop gives once; any thread may wait for it."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._value: dict[str, Any] = {}
        self._error: EverupError | None = None

    def give(self, value: dict[str, Any]) -> None:
        self._value = value
        self._ready.set()

    def fail(self, error: EverupError) -> None:
        self._error = error
        self._ready.set()

    def wait(self, seconds: float) -> dict[str, Any]:
        if not self._ready.wait(seconds):
            raise DeadlinePassed("the keeper did not finish in time", remedy="everup status")
        if self._error is not None:
            raise self._error
        return self._value


class Mailbox:
    """`descriptor` becomes readable when there is work."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def put(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        os.eventfd_write(self.descriptor, 1)

    def wake(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def run(self) -> None:
        """Do what is waiting now."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            pass
        while True:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                return
            work()


class Subscribers:
    """Lines for everybody who has subscribed; whoever does not read is left behind."""

    def __init__(self) -> None:
        self._queues: list[queue.Queue[dict[str, Any] | None]] = []
        self._lock = threading.Lock()

    def add(self) -> Iterator[dict[str, Any]]:
        lines: queue.Queue[dict[str, Any] | None] = queue.Queue(LINES_MAX)
        with self._lock:
            if len(self._queues) >= SUBSCRIBERS_MAX:
                self._end(self._queues.pop(0))
            self._queues.append(lines)
        return self._read(lines)

    def _read(self, lines: "queue.Queue[dict[str, Any] | None]") -> Iterator[dict[str, Any]]:
        try:
            while True:
                try:
                    line = lines.get(timeout=ALIVE_S)
                except queue.Empty:
                    line = {"event": "alive"}
                if line is None:
                    return
                yield line
        finally:
            with self._lock:
                if lines in self._queues:
                    self._queues.remove(lines)

    @staticmethod
    def _end(lines: "queue.Queue[dict[str, Any] | None]") -> None:
        try:
            lines.put_nowait(None)
        except queue.Full:
            lines.get_nowait()
            lines.put_nowait(None)

    def tell(self, line: dict[str, Any]) -> None:
        with self._lock:
            for lines in list(self._queues):
                try:
                    lines.put_nowait(line)
                except queue.Full:
                    self._queues.remove(lines)
                    self._end(lines)
