"""The replicator's line to the guard of this server.

What enters: a wake-up when batches were closed. What leaves: acknowledgements of peers, at once.
The guard may be away (it restarts hot): then the journal is looked at every few milliseconds, and
what was acknowledged meanwhile is told as soon as it is back. One per peer thread.
"""

import json
import socket
import time
from pathlib import Path
from typing import Any

from everup.errors import EverupError
from everup.model.position import Position
from everup.wire.local import LineChannel, call, subscribe

RETRY_SECONDS = 0.5
POLL_MS = 20
"""How often the journal is looked at while the guard is away."""
CALL_MS = 2000


class GuardLink:
    """Never raises for an absent guard. Belongs to one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel: LineChannel | None = None
        self._tried_at = 0.0
        self._last: dict[str, Any] | None = None
        self.journal_ok = True
        """Whether what is changed now reaches the journal at all, as the guard said last."""

    @property
    def descriptor(self) -> int | None:
        """To wait on, besides the peer's connection."""
        if self._channel is None and time.monotonic() - self._tried_at > RETRY_SECONDS:
            self._tried_at = time.monotonic()
            self._open()
        return None if self._channel is None else self._channel.connection.fileno()

    def _open(self) -> None:
        try:
            self._channel = subscribe(self._path, "follow")
            self._channel.connection.setblocking(False)
        except (EverupError, OSError):
            self._channel = None
            return
        if self._last is not None:
            self._send(self._last)

    def clear(self) -> None:
        """Take what has arrived; the journal itself says what is new."""
        if self._channel is None:
            return
        try:
            heard = self._channel.connection.recv(1 << 16)
            if not heard:
                self.close()
            else:
                self._note(heard)
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _note(self, heard: bytes) -> None:
        """The newest whole line counts; the guard says everything again soon."""
        for line in reversed(heard.split(b"\n")):
            try:
                self.journal_ok = json.loads(line).get("journal", "ok") == "ok"
            except (ValueError, AttributeError):
                continue
            return

    def acknowledged(self, server: str, sequence: int) -> None:
        """Durable on `server` up to `sequence`."""
        self._last = {"verb": "acknowledged", "server": server, "sequence": sequence}
        if self._channel is not None:
            self._send(self._last)

    def _send(self, line: dict[str, Any]) -> None:
        assert self._channel is not None
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            self._channel.connection.send(data, socket.MSG_NOSIGNAL)
        except OSError:
            # A guard that does not read its acknowledgements is asked again on a fresh connection.
            self.close()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def guard_position(path: Path) -> Position | None:
    """End of the last closed batch, as the guard says; None: none. Raises EverupError."""
    value = call(path, "status", deadline_ms=CALL_MS).get("position")
    return None if value is None else Position.from_json(value)


def release_segments(path: Path, sequence: int, quota_bytes: int) -> None:
    """Tell the guard that nobody needs the journal up to `sequence` any more, and its quota."""
    call(
        path,
        "release_segments",
        deadline_ms=CALL_MS,
        up_to_sequence=sequence,
        quota_bytes=quota_bytes,
    )
