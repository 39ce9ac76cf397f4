"""Watches the group while the load runs: for how long was durable mode not what it says?

What enters: the group and the server to ask. What leaves: milliseconds in which a data server was
missing from the may-take-over list, or the mode was not durable.
"""

import threading
import time

from everup.errors import EverupError
from everup.lab.group import Group, Json

_INTERVAL_S = 0.2


class Watch:
    """Asks for the status five times a second while the `with` block runs."""

    def __init__(self, group: Group, server: str) -> None:
        self._group = group
        self._server = server
        self._wanted = set(group.lab.data_servers)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.degraded_ms = 0
        self.mode = ""

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(_INTERVAL_S):
            now = time.monotonic()
            try:
                status = self._group.status(self._server)
            except EverupError:
                continue  # counted with the next answer, because `before` stays
            self.mode = str(status["mode"])
            if degraded(status, self._wanted):
                self.degraded_ms += round((now - before) * 1000)
            before = now


def degraded(status: Json, wanted: set[str]) -> bool:
    """Whether an fsync may be answered now without one of the `wanted` servers."""
    listed = set(status["arbiter"]["may_take_over"])
    return status["mode"] != "durable" or not wanted <= listed
