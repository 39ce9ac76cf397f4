"""Writes of a copy in a thread of their own, so that the next bytes are received meanwhile.

What enters: writes to open files. What leaves: the same, in order, a bounded number behind.
Receiving (and deciphering) and writing to the page cache each keep a core busy, and neither needs
Python for it. Owned by the target's side of a sync; `write` and `drain` belong to its thread.
"""

import queue
import threading

from everup.replicate.blocks import write_all

QUEUED_MAX = 8
"""Of at most a megabyte each, as they come."""


class WriteBehind:
    """`close` once; raises OSError of an earlier write from `write` or `drain`."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[int, bytes, int] | None] = queue.Queue(QUEUED_MAX)
        self._problem: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """The descriptor must stay open until `drain` has returned."""
        self._raise()
        self._queue.put((descriptor, data, offset))

    def drain(self) -> None:
        """Everything is written."""
        self.wait()
        self._raise()

    def wait(self) -> None:
        """Everything is written, or has failed."""
        self._queue.join()

    def close(self) -> None:
        """What was given is written before; errors no longer matter."""
        self._queue.put(None)
        self._thread.join()

    def _raise(self) -> None:
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            descriptor, data, offset = item
            try:
                if self._problem is None:
                    write_all(descriptor, data, offset)
            except OSError as problem:
                self._problem = problem
            finally:
                self._queue.task_done()
        self._queue.task_done()
