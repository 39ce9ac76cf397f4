"""The worker's side of the holder: wait for the word, hand descriptors over, find them again.

What enters: descriptors with names. What leaves: the same descriptors in the next worker. Called by
the worker. Without a holder (tests) descriptors are kept by this process alone.
"""

import json
import os
import socket
import threading

from everup.capture.holder import CONTROL, MESSAGE_BYTES_MAX

ANSWER_S = 5.0
DESCRIPTORS_MAX = 250


class Keeping:
    """Connection to the holder; safe for threads."""

    def __init__(self) -> None:
        number = os.environ.pop(CONTROL, "")
        self.held: dict[str, int] = {}
        self.restarts = 0
        self.reason = ""
        self.page = -1
        """Where our pulse is shown; -1 without a holder."""
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        if number:
            self._channel = socket.socket(fileno=int(number))
            self._channel.set_inheritable(False)

    def stand_by(self) -> None:
        """Everything is loaded: wait until this worker is the one. SystemExit if it never is."""
        if self._channel is None:
            return
        self._channel.send(json.dumps({"standing": True}).encode())
        data, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES_MAX, DESCRIPTORS_MAX)
        if not data:
            raise SystemExit("everup-guard: the holder is gone")
        message = json.loads(data)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self.page = descriptors.pop()
        self.held = dict(zip(message["go"], descriptors, strict=True))
        self.restarts, self.reason = message["restarts"], message["reason"]
        self._channel.settimeout(ANSWER_S)

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
