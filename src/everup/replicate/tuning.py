"""Keeps the compression of one connection at the level that fits its link and this processor.

What enters: a connection and its packer, and how long things wait. What leaves: the packer's rung,
chosen a few times per second. Used by the stream (`pipe`) and by the sync channel; belongs to one
thread.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from everup.wire.frames import Pieces
from everup.wire.levels import LevelControl, LinkState
from everup.wire.packing import Packer
from everup.wire.transport import Connection

LOOK_EVERY_MS = 250
SLOW_BYTES_PER_S = 16 << 20
"""Below this a link is slow: bytes are worth more than looking for them elsewhere."""


@dataclass
class Made:
    """What was packed."""

    pieces: Pieces = field(default_factory=list)


class Tuner:
    """`adapt` before something is packed, `measured` around it."""

    def __init__(self, connection: Connection, packer: Packer) -> None:
        self._connection = connection
        self._packer = packer
        self._control = LevelControl()
        self._look_at_ms = 0.0
        self.link_bytes_per_s = 0.0
        """What the link takes, or the cap if that is less; 0: it was never full."""

    @property
    def slow(self) -> bool:
        return 0 < self.link_bytes_per_s < SLOW_BYTES_PER_S

    @property
    def queue_ms(self) -> float:
        """How long what is queued now will take."""
        rate = self.link_bytes_per_s
        return self._connection.queued_bytes * 1000 / rate if rate else 0.0

    def adapt(self, oldest_ms: float) -> None:
        """Choose the level for what comes next."""
        now_ms = time.monotonic() * 1000
        if now_ms < self._look_at_ms:
            return
        self._look_at_ms = now_ms + LOOK_EVERY_MS
        rate = self._connection.speed().bytes_per_s
        throttle = self._connection.throttle
        cap = throttle.bytes_per_s if throttle is not None else 0
        self.link_bytes_per_s = min(rate or cap, cap) if cap else rate
        state = LinkState(self.link_bytes_per_s, oldest_ms)
        self._packer.use(self._control.choose(state, now_ms))

    @contextmanager
    def measured(self, raw_bytes: int) -> Iterator[Made]:
        """Note what packing `raw_bytes` cost and made of them."""
        made = Made()
        begin = time.thread_time_ns()
        yield made
        packed = sum(map(len, made.pieces))
        self._control.note(raw_bytes, packed, time.thread_time_ns() - begin)
