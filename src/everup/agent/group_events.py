"""The events of the whole group: each server's own, merged by time.

What enters: the events of this server, and those that the other servers answer. What leaves: one
list in the order of time, and the names of those who did not answer. Called by the service. Within
one server the order is always its own, whatever its clock did.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from everup.agent.event_log import EventLog
from everup.errors import EverupError, NotConnected

log = logging.getLogger(__name__)

Json = dict[str, Any]

ASK_S = 2.0
"""A server that answers later counts as unreachable for this look."""
AGAIN_S = 3.0
"""A server that did not answer is left alone for so long: a page looks every second."""


class Asks(Protocol):
    """The members, as `membership.peers.Peers` reaches them."""

    async def events(self, server: str, after: int, limit: int) -> list[Json]: ...


class GroupEvents:
    """`servers`: all that hold data; `heard`: whether one is heard by this server's keeper."""

    def __init__(
        self,
        own: EventLog,
        name: str,
        peers: Asks,
        servers: Callable[[], Iterable[str]],
        heard: Callable[[str], bool],
    ) -> None:
        self._own, self._name, self._peers = own, name, peers
        self._servers, self._heard = servers, heard
        self._silent_until: dict[str, float] = {}

    async def after(self, cursors: Mapping[str, int], limit: int) -> Json:
        """At most `limit` events after each server's cursor (its last id that was seen).

        Without cursors the newest ones, with cursors the oldest that were not seen. The answer has
        the cursors for the next look.
        """
        others = [name for name in self._servers() if name != self._name]
        answers = await asyncio.gather(*(self._ask(n, cursors.get(n, 0), limit) for n in others))
        found = {name: answer for name, answer in zip(others, answers, strict=True) if answer}
        own = self._own.after(cursors.get(self._name, 0), limit)
        found[self._name] = [event.to_json() for event in own]
        merged = list(heapq.merge(*found.values(), key=_moment))
        shown = merged[:limit] if cursors else merged[-limit:]
        # What was left out at the beginning is older than what is shown: it is not told later.
        passed = shown if cursors else merged
        newest = {str(event["server"]): int(event["id"]) for event in passed}
        return {
            "events": shown,
            "cursors": {**cursors, **newest},
            "unreachable": [n for n, a in zip(others, answers, strict=True) if a is None],
        }

    async def _ask(self, server: str, after: int, limit: int) -> list[Json] | None:
        """None when it does not answer."""
        now = time.monotonic()
        if now < self._silent_until.get(server, 0.0):
            return None
        try:
            if not self._heard(server):
                raise NotConnected(f"{server} is not heard")
            async with asyncio.timeout(ASK_S):
                return await self._peers.events(server, after, limit)
        except (EverupError, TimeoutError) as error:
            log.debug("no events of %s: %s", server, error)
            self._silent_until[server] = time.monotonic() + AGAIN_S
            return None


def _moment(event: Json) -> float:
    """Seconds; 0 for a moment that cannot be read, which must not hide the event."""
    try:
        return datetime.fromisoformat(str(event["at"])).timestamp()
    except (KeyError, ValueError):
        return 0.0
