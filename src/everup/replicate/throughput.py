"""How fast data goes to a peer, and how much of it did not have to.

What enters: bytes that were written here and bytes that went over the wire, with the time. What
leaves: both per second over the last moments, and their ratio. Owned by the peer's link; asked by
whoever asks for the status.
"""

import threading
from collections import deque
from typing import Any, NamedTuple

OVER_SECONDS = 10.0
SAMPLES_MAX = 256


class _Sample(NamedTuple):
    at: float
    written: int
    sent: int


class Throughput:
    """Every look is a sample; any thread."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        self._lock = threading.Lock()

    def look(self, now: float, written: int, sent: int) -> dict[str, Any]:
        """`written` and `sent` are totals; `saving` is None before anything was sent."""
        with self._lock:
            samples = self._samples
            while len(samples) > 1 and now - samples[1].at >= OVER_SECONDS:
                samples.popleft()
            first = samples[0] if samples else _Sample(now, written, sent)
            samples.append(_Sample(now, written, sent))
        seconds = now - first.at
        return {
            "bytes_written": written,
            "bytes_sent": sent,
            "written_bytes_per_s": int((written - first.written) / seconds) if seconds else 0,
            "sent_bytes_per_s": int((sent - first.sent) / seconds) if seconds else 0,
            "saving": round(written / sent, 2) if sent else None,
        }
