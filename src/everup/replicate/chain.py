"""Who supplies the third server: the active one itself, or the first passive one, which passes the
stream on (pure).

What enters: the group's setting, what both links hear, the time in seconds of one monotonic clock.
What leaves: whether the link of the third server streams or rests. One per source; called by the
links' threads. The active server always begins itself, since only it can compare trees and only it
has the whole journal; it hands a peer over that is in sync, and takes it back when nothing is heard
of it any more. Which of the two sends decides nothing else: positions and acknowledgements are the
same, and the journal is kept until the third server has it.
"""

import threading
from collections.abc import Callable, Sequence

from everup.config.schema import Member
from everup.wire.messages import Relayed

HAND_OVER_SECONDS = 1.5
"""The server that passes on has to reach the third one within this time: an fsync may wait for it
meanwhile, and less than it takes to degrade."""
GRACE_SECONDS = 1.0
"""A link between the two passive servers that broke may come back for so long."""
PAUSE_SECONDS_MIN = 5.0
PAUSE_SECONDS_MAX = 300.0
"""After a failed try the next one waits, longer each time."""

_ORDER = {"primary": 0, "secondary": 1, "tertiary": 2}


def order_of_succession(servers: Sequence[Member]) -> list[str]:
    """Names of the servers that hold data, in the order in which they are preferred."""
    return [m.name for m in sorted(servers, key=lambda m: _ORDER.get(m.identity, 9))]


def passing_pair(servers: Sequence[Member], active: str) -> tuple[str, str]:
    """(who passes on, to whom) when `active` is; ("", "") with fewer than two others."""
    others = [name for name in order_of_succession(servers) if name != active]
    return (others[0], others[-1]) if len(others) >= 2 else ("", "")


class Chain:
    """`on_change` is called (in any thread) when the two links should look again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = False
        self._handed = False
        self._seen_at = 0.0
        self._confirmed = False
        self._retry_at = 0.0
        self._pause = PAUSE_SECONDS_MIN
        self._by_in_sync = self._by_there = False
        self._relayed: Relayed | None = None
        self.by = self.to = ""
        self.to_in_sync = False
        """Whether the third server is in sync, for the one that tells it so."""
        self.on_change: Callable[[], None] = lambda: None

    def arrange(self, by: str, to: str, wanted: bool) -> None:
        """What the settings say now; may be called again and again."""
        with self._lock:
            same = (by, to, wanted) == (self.by, self.to, self._wanted)
            if (by, to) != (self.by, self.to):
                self._handed = self._by_in_sync = self._by_there = False
            if not same:
                self.by, self.to, self._wanted = by, to, wanted and bool(by)
                self._retry_at, self._pause = 0.0, PAUSE_SECONDS_MIN
        if not same:
            self.on_change()

    def passes_on(self, server: str) -> bool:
        """Whether this peer is to pass the stream on now."""
        return self._handed and server == self.by

    def supplier(self, server: str) -> str:
        """Who passes the stream on to this peer; "" when nobody does."""
        return self.by if self._handed and server == self.to else ""

    # the link of the server that passes on

    def heard(self, server: str, in_sync: bool, relayed: Relayed | None) -> None:
        """What it said last; called at every turn of its link."""
        if server != self.by:
            return
        with self._lock:
            news = relayed != self._relayed
            self._by_there, self._by_in_sync, self._relayed = True, in_sync, relayed
        if news:
            self.on_change()

    def lost(self, server: str) -> None:
        """Its link is gone, and with it every word of the third server."""
        if server != self.by:
            return
        with self._lock:
            self._by_there, self._by_in_sync, self._relayed = False, False, None
        self.on_change()

    # the link of the third server

    def hand_over(self, server: str, in_sync: bool, now: float) -> bool:
        """Whether its link rests from now on."""
        with self._lock:
            if server != self.to:
                return False
            ready = self._wanted and in_sync and self._by_in_sync and now >= self._retry_at
            if ready:
                self._handed, self._confirmed, self._seen_at = True, False, now
                self.to_in_sync = True
                # What was said of an earlier time does not count.
                self._relayed = None
        if ready:
            self.on_change()
        return ready

    def follow(self, now: float) -> tuple[bool, Relayed | None]:
        """Whether its link goes on resting, and what was said of the third server last."""
        with self._lock:
            if not (self._handed and self._wanted and self._by_there):
                return False, None
            relayed = self._relayed
            if relayed is not None and relayed.connected:
                self._confirmed, self._seen_at = True, now
            patience = GRACE_SECONDS if self._confirmed else HAND_OVER_SECONDS
            # One that is not in sync may not be receiving at all, and has nothing to pass on.
            return self._by_in_sync and now - self._seen_at < patience, relayed

    def take_back(self, now: float) -> None:
        """The active server supplies it again; the next try waits a while."""
        with self._lock:
            if not self._handed:
                return
            self._handed = False
            self._pause = (
                PAUSE_SECONDS_MIN if self._confirmed else min(PAUSE_SECONDS_MAX, 2 * self._pause)
            )
            self._retry_at = now + self._pause
        self.on_change()
