"""Which of a peer's addresses the stream uses: the best one that works, and back to it.

What enters: the addresses in order of preference, and what went wrong with each. What leaves: the
order in which to dial, and the word that a better address answers again. Called by the link.

An address over which nothing came any more is tried last for a while: it may accept connections
and then swallow what is sent. Once the stream has taken a worse one, it looks for the better one:
otherwise it would stay there for ever, on the management network for example.
"""

import socket
import threading
import time
from collections.abc import Sequence

SHUN_SECONDS = 15.0
PROBE_EVERY_SECONDS = 5.0
PROBE_SECONDS = 1.0


class Channels:
    """The addresses of one peer; used by its link's thread only, but for the probe."""

    def __init__(self, addresses: Sequence[str], port: int) -> None:
        self.addresses = list(addresses)
        self._port = port
        self._failed_at: dict[str, float] = {}
        self._next_probe = 0.0
        self._probe: threading.Thread | None = None
        self.better = threading.Event()

    def order(self) -> list[str]:
        """Best first; those that failed a moment ago last."""
        now = time.monotonic()
        return sorted(self.addresses, key=lambda address: self._shunned(address, now))

    def failed(self, address: str) -> None:
        """Over this address came nothing any more."""
        self._failed_at[address] = time.monotonic()

    def forgive(self) -> None:
        """No address answers: it was not the fault of one of them."""
        self._failed_at.clear()

    def look_for_better(self, current: str) -> None:
        """Called again and again while a stream runs over `current`; `better` tells the result."""
        now = time.monotonic()
        index = self.addresses.index(current) if current in self.addresses else 0
        if index == 0 or now < self._next_probe:
            return
        self._next_probe = now + PROBE_EVERY_SECONDS
        wanted = [a for a in self.addresses[:index] if not self._shunned(a, now)]
        if wanted and (self._probe is None or not self._probe.is_alive()):
            self._probe = threading.Thread(target=self._try, args=(wanted,), daemon=True)
            self._probe.start()

    def _shunned(self, address: str, now: float) -> bool:
        return now - self._failed_at.get(address, -SHUN_SECONDS) < SHUN_SECONDS

    def _try(self, wanted: list[str]) -> None:
        for address in wanted:
            try:
                socket.create_connection((address, self._port), timeout=PROBE_SECONDS).close()
            except OSError:
                continue
            self.better.set()
            return
