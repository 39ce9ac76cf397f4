"""The worker's pulse: shows the holder that it lives, and for how long requests have been stuck.

What enters: the requests in work. What leaves: two words on a shared page, twice a second. Started
by the worker; judged by the holder (`liveness`), which replaces a worker that is stuck.

A request is stuck when it stays the same, its thread waits for a lock, and so does every other one
that is at a request: who holds the lock would be seen inside a call (a slow disk), asleep (without
a lease), or running. No cost for the requests: their slots are looked at from here.
"""

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from everup.capture.liveness import PAGE_BYTES, PULSE, STUCK_MS, TICK_S, threads_of

_FUTEX = {"x86_64": 202, "aarch64": 98}[os.uname().machine]


InWork = tuple[int, int]
"""(the kernel's id of a thread, unique of the request that it is at)"""


def waits_for_lock(thread: int) -> bool:
    """Whether a thread of ours sleeps on a lock; False if it runs or is inside another call."""
    try:
        words = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
    except OSError:
        return False
    return words[0] == str(_FUTEX)


class StuckFor:
    """For how long the requests in work have made no way."""

    def __init__(self, waits: Callable[[int], bool] = waits_for_lock) -> None:
        self._waits = waits
        self._before: set[InWork] = set()
        self._passed_s = 0.0

    def look(self, passed_s: float, works: Iterable[InWork], disk: bool) -> float:
        """Seconds; called at every tick, with whether any thread waits for the disk."""
        now = set(works)
        same = now & self._before
        self._before = now
        if (
            not same
            or disk
            or passed_s > 2 * TICK_S
            or not all(self._waits(thread) for thread, _ in now)
        ):
            self._passed_s = 0.0
        else:
            self._passed_s += passed_s
        return self._passed_s


def start(page: int, works: Callable[[], Iterable[InWork]]) -> None:
    """From here on the holder hears of us."""
    words = memoryview(mmap.mmap(page, PAGE_BYTES)).cast("Q")
    os.close(page)

    def beat() -> None:
        stuck = StuckFor()
        before = time.monotonic()
        while True:
            now = time.monotonic()
            disk = "D" in threads_of(os.getpid()).states
            words[STUCK_MS] = int(stuck.look(now - before, works(), disk) * 1000)
            words[PULSE] += 1
            before = now
            time.sleep(TICK_S)

    threading.Thread(target=beat, name="pulse", daemon=True).start()
