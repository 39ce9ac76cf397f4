"""How much of the time a verification works, and how much it rests (pure).

What enters: how long a slice took, how much it compared, how busy the send queue is. What leaves:
how long to rest before the next one. Called by `verify`.
"""

from dataclasses import dataclass

REST_SECONDS_MAX = 60.0
"""Also a verification that everything else keeps waiting comes to its end some day."""
SHARE_ASKED = 0.5
SHARE_GENTLE = 0.1
QUEUE_BUSY_BYTES = 4 << 20
QUEUE_BUSY_MS = 1000


@dataclass(frozen=True)
class Pace:
    """`share`: the part of the time in which it works; `bytes_per_s`: what it compares at most,
    0: as much as it can; `gives_way`: it rests while changes wait to be sent."""

    share: float
    bytes_per_s: int = 0
    gives_way: bool = False

    def rest_s(self, worked_s: float, compared_bytes: int) -> float:
        """Seconds of rest that a slice has earned."""
        rest = worked_s * (1 - self.share) / self.share
        if self.bytes_per_s:
            rest = max(rest, compared_bytes / self.bytes_per_s - worked_s)
        return min(rest, REST_SECONDS_MAX)

    def waits(self, queue_bytes: int, oldest_ms: int) -> bool:
        """Whether it keeps out of the way of what is to be sent."""
        return self.gives_way and (queue_bytes > QUEUE_BUSY_BYTES or oldest_ms > QUEUE_BUSY_MS)


ASKED = Pace(SHARE_ASKED)
"""Somebody waits for it."""


def gentle(bytes_per_s: int) -> Pace:
    """Nobody waits for it."""
    return Pace(SHARE_GENTLE, bytes_per_s, gives_way=True)
