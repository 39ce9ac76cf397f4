"""How fast a connection is when it is full, as the kernel measures it.

What enters: a TCP socket. What leaves: bytes per second, 0 while it was never full. Called by
`transport`. The kernel's delivery rate counts acknowledged bytes, so that neither a send buffer nor
a short burst looks like speed; samples from times with too little to send say only "at least".
"""

import socket
from struct import Struct

_TCP_INFO_BYTES = 192
_FLAGS = Struct("<7xB")
_DELIVERY = Struct("<160xQ")
_RTT = Struct("<68xI")
_TOO_LITTLE_TO_SEND = 1
NEW_PART = 0.3
"""Weight of a new sample."""


class LinkSpeed:
    """Keeps what was learnt; belongs to one thread."""

    def __init__(self) -> None:
        self.bytes_per_s = 0.0
        self.round_trip_us = 0

    def look(self, channel: socket.socket) -> None:
        """Take a sample; a kernel that tells less leaves things as they are."""
        try:
            data = channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return
        if len(data) < _DELIVERY.size:
            return
        (flags,) = _FLAGS.unpack_from(data)
        (rate,) = _DELIVERY.unpack_from(data)
        (self.round_trip_us,) = _RTT.unpack_from(data)
        self.note(rate, at_least=bool(flags & _TOO_LITTLE_TO_SEND))

    def note(self, rate: float, *, at_least: bool) -> None:
        known = self.bytes_per_s
        if not rate or (at_least and (not known or rate <= known)):
            return
        self.bytes_per_s = known + (rate - known) * NEW_PART if known else rate
