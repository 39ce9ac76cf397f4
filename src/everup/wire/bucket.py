"""A token bucket: how many bytes may go now (pure).

What enters: a rate, bytes that went, times. What leaves: bytes that may go, or how long to wait.
Called by `bandwidth`, which owns the clock.
"""

BURST_SECONDS = 0.1
BURST_BYTES_MIN = 4 << 10


class TokenBucket:
    """Fills at `rate` bytes per second up to a tenth of a second's worth; 0: no limit."""

    def __init__(self, rate: float = 0.0, now_ns: int = 0) -> None:
        self._rate = rate
        self._tokens = 0.0
        self._at_ns = now_ns

    @property
    def rate(self) -> float:
        return self._rate

    def set_rate(self, rate: float, now_ns: int) -> None:
        """From now on; what was saved up is kept as far as the new burst allows."""
        self._fill(now_ns)
        self._rate = rate
        self._tokens = min(self._tokens, self._burst)

    def allowed(self, now_ns: int) -> int:
        """Bytes that may go now; 0 while some are still owed. Call it only with a rate."""
        self._fill(now_ns)
        return max(0, int(self._tokens))

    def spend(self, count: int, now_ns: int) -> None:
        """`count` bytes went; more than allowed is owed and waited for later."""
        self._fill(now_ns)
        self._tokens -= count

    def wait_ms(self, now_ns: int) -> int:
        """Until half a burst may go; 0 when it may now."""
        self._fill(now_ns)
        missing = self._burst / 2 - self._tokens
        return 0 if missing <= 0 else int(missing / self._rate * 1000) + 1

    @property
    def _burst(self) -> float:
        return max(self._rate * BURST_SECONDS, BURST_BYTES_MIN)

    def _fill(self, now_ns: int) -> None:
        passed = max(0, now_ns - self._at_ns)
        self._at_ns = max(self._at_ns, now_ns)
        self._tokens = min(self._burst, self._tokens + passed * self._rate / 1e9)
