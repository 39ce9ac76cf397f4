"""How fast a connection is when it is full.

What enters: a TCP socket, looked at now and then, and the time. What leaves: bytes per second, 0
for a link that slows nobody as far as is known. Called by `transport`. What the kernel counts is
what the other side has acknowledged, so neither a send buffer nor a burst looks like speed: between
two looks at which something waited in the kernel the link was full, otherwise it takes at least
that much. A long way counts as narrow until it shows more: bytes are seldom free there, and a
millisecond for compressing them is not noticed.
"""

import math
import socket
from struct import Struct
from typing import NamedTuple

_TCP_INFO_BYTES = 192
_ACKNOWLEDGED = Struct("<120xQ")
_WAITING = Struct("<144xII")
"""Bytes that were not sent yet; the shortest round trip of the last minutes."""
FAR_US = 5000
"""A round trip of this long is a long way."""
FAR_BYTES_PER_S = 1.25e6
"""10 Mbit/s."""


class Look(NamedTuple):
    at: float
    acknowledged: int
    waiting: int
    round_trip_us: int


class LinkSpeed:
    """Keeps what was learnt; belongs to one thread."""

    def __init__(self) -> None:
        self._when_full = 0.0
        self._at_least = 0.0
        self._last: Look | None = None

    @property
    def bytes_per_s(self) -> float:
        if self._when_full:
            return self._when_full
        far = self._last is not None and self._last.round_trip_us >= FAR_US
        return max(self._at_least, FAR_BYTES_PER_S) if far else 0.0

    def look(self, channel: socket.socket, now: float) -> None:
        """Take a sample; a kernel that tells less leaves things as they are."""
        try:
            data = channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return
        if len(data) < _WAITING.size:
            return
        (acknowledged,) = _ACKNOWLEDGED.unpack_from(data)
        self.note(Look(now, acknowledged, *_WAITING.unpack_from(data)))

    def note(self, look: Look) -> None:
        """One sample; at least a tenth of a second behind the one before."""
        last, self._last = self._last, look
        if last is None or look.at <= last.at:
            return
        rate = (look.acknowledged - last.acknowledged) / (look.at - last.at)
        self._at_least = max(self._at_least, rate)
        full = last.waiting > 0 and look.waiting > 0 and rate > 0
        if self._when_full and (full or rate > self._when_full):
            # The geometric mean: one that is a thousand times slower now is known as such soon.
            self._when_full = math.sqrt(self._when_full * rate)
        elif full:
            self._when_full = rate
