"""The worker's side of the holder: hand descriptors over, find them again.

What enters: descriptors with names. What leaves: the same descriptors in the next worker. Called by
the worker. Without a holder (tests) descriptors are kept by this process alone.
"""

import json
import os
import socket
import threading

from everup.capture.holder import CONTROL, HELD, MESSAGE_BYTES_MAX, RESTARTS

ANSWER_S = 5.0


class Keeping:
    """Connection to the holder; safe for threads."""

    def __init__(self) -> None:
        number = os.environ.pop(CONTROL, "")
        self.held: dict[str, int] = json.loads(os.environ.pop(HELD, "{}"))
        self.restarts = int(os.environ.pop(RESTARTS, "0"))
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        if number:
            self._channel = socket.socket(fileno=int(number))
            self._channel.settimeout(ANSWER_S)
        for descriptor in (*self.held.values(), *([int(number)] if number else [])):
            os.set_inheritable(descriptor, False)

    def _tell(self, message: dict[str, object], descriptors: list[int]) -> None:
        if self._channel is None:
            return
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(message).encode()], descriptors)
            self._channel.recv(MESSAGE_BYTES_MAX)

    def keep(self, name: str, descriptor: int) -> None:
        """From here on the descriptor outlives this process. Raises OSError."""
        self._tell({"keep": name}, [descriptor])
        self.held[name] = descriptor

    def drop(self, name: str) -> None:
        """Nobody needs it any more; it is closed on both sides."""
        descriptor = self.held.pop(name, None)
        self._tell({"drop": name}, [])
        if descriptor is not None:
            os.close(descriptor)

    def ready(self) -> None:
        self._tell({"ready": True}, [])
