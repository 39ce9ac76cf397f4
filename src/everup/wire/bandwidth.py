"""The bandwidth cap of one peer, shared by all connections to it.

What enters: the cap that holds now, asked for once a second, and bytes that were sent. What leaves:
how many bytes a connection may write, and for how long it should wait. Called by `transport` on the
threads of the stream, a sync and a verification.
"""

import threading
import time
from collections.abc import Callable

from everup.wire.bucket import TokenBucket

LOOK_EVERY_NS = 10**9
UNLIMITED = 1 << 62


class Throttle:
    """`cap` gives bytes per second, 0 for no limit; it must be quick and not raise."""

    def __init__(self, cap: Callable[[], int]) -> None:
        self._cap = cap
        self._lock = threading.Lock()
        self._bucket = TokenBucket(0.0, time.monotonic_ns())
        self._look_at_ns = 0

    @property
    def bytes_per_s(self) -> int:
        """The cap that holds now; 0: none."""
        with self._lock:
            return int(self._rate(time.monotonic_ns()))

    def allowed(self) -> int:
        """Bytes that may be written now."""
        with self._lock:
            now_ns = time.monotonic_ns()
            return self._bucket.allowed(now_ns) if self._rate(now_ns) else UNLIMITED

    def spend(self, count: int) -> None:
        with self._lock:
            now_ns = time.monotonic_ns()
            if self._rate(now_ns):
                self._bucket.spend(count, now_ns)

    def wait_ms(self) -> int:
        """How long nothing worth a call may be written; 0: write now."""
        with self._lock:
            now_ns = time.monotonic_ns()
            return self._bucket.wait_ms(now_ns) if self._rate(now_ns) else 0

    def _rate(self, now_ns: int) -> float:
        if now_ns >= self._look_at_ns:
            self._look_at_ns = now_ns + LOOK_EVERY_NS
            rate = float(self._cap())
            if rate != self._bucket.rate:
                self._bucket.set_rate(rate, now_ns)
        return self._bucket.rate
