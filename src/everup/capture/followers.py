"""Who wants to hear of every batch end at once: the threads that ship them to other servers.

What enters: closed batches, and what becomes of the journal. What leaves: one short line to every
follower, written by the very thread that closed the batch; another thread in between would cost two
changes of the processor on the way of every durable sync. Called by the order, with its lock held.
"""

import json
import socket
import threading
from typing import Any

from everup.journal.writer import Closed


class Followers:
    """Connections of guard.sock. Nothing here waits for a follower, or fails."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []

    def add(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections = [*self._connections, connection]

    def remove(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections = [known for known in self._connections if known is not connection]

    def tell(self, closed: Closed | None, journal_state: str) -> None:
        """A follower whose buffer is full has enough to read; the next line says everything."""
        connections = self._connections
        if not connections:
            return
        line = json.dumps(latest(closed, journal_state), separators=(",", ":")).encode() + b"\n"
        for connection in connections:
            try:
                connection.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                # Full, or gone: whoever serves the connection finds that out.
                continue


def latest(closed: Closed | None, journal_state: str) -> dict[str, Any]:
    """The newest batch end, and whether the journal takes what is changed now."""
    if closed is None:
        return {"idle": True, "journal": journal_state}
    place = {"segment": closed.segment.name, "offset": closed.offset}
    return {"closed": {**closed.position.to_json(), **place}, "journal": journal_state}
