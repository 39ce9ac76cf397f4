"""The signs of life of the side that sends a stream.

What enters: whether something was heard or said. What leaves: an idle frame after a second without
a word, an error after five without one of the peer. Called by `link` and `relay`, in their threads.
"""

import time

from everup.errors import NotConnected
from everup.wire.session import idle_frame
from everup.wire.transport import Connection

SILENCE_MS = 5000
IDLE_MS = 1000


class Signs:
    """One per connection."""

    def __init__(self, connection: Connection, server: str) -> None:
        self._connection = connection
        self._server = server
        self._heard_at = self._said_at = time.monotonic()

    def said(self) -> None:
        self._said_at = time.monotonic()

    def keep(self, heard: bool) -> None:
        """Called at every turn. Raises NotConnected when the peer has been silent for too long."""
        now = time.monotonic()
        if heard:
            self._heard_at = now
        elif now - self._heard_at > SILENCE_MS / 1000:
            raise NotConnected(f"{self._server} has been silent for 5 s")
        if now - self._said_at > IDLE_MS / 1000:
            self._connection.send(idle_frame())
            self._said_at = now
