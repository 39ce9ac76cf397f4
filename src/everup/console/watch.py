"""What the page shows, fetched once for all who look at it.

What enters: the agent's status and events, twice a second while somebody looks. What leaves:
`Snapshot`s; each page compares numbers and redraws when they differ.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from everup.console.ask import AgentClient
from everup.errors import EverupError

Json = dict[str, Any]

INTERVAL_S = 0.5
EVENTS_INTERVAL_S = 1.0
EVENTS_SHOWN = 30


@dataclass(frozen=True)
class Snapshot:
    """One look at the group; `number` grows with every change."""

    number: int = 0
    status: Json | None = None
    """The last status that the agent gave."""
    trouble: str = ""
    """Why there is no fresh status; "" when there is."""
    events: tuple[Json, ...] = field(default=())
    """Of all servers, newest first."""
    missing: tuple[str, ...] = ()
    """Servers whose events are not among them."""


class Watch:
    """Polls while at least one page is open."""

    def __init__(self, agent: AgentClient) -> None:
        self._agent = agent
        self._lookers = 0
        self._task: asyncio.Task[None] | None = None
        self._events: deque[Json] = deque(maxlen=EVENTS_SHOWN)
        self._cursors = ""
        self._missing: tuple[str, ...] = ()
        self._events_due = 0.0
        self.snapshot = Snapshot()

    def enter(self) -> None:
        """A page was opened."""
        self._lookers += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._poll())

    def leave(self) -> None:
        """A page was closed."""
        self._lookers -= 1
        if self._lookers == 0 and self._task is not None:
            self._task.cancel()
            self._task = None

    async def refresh(self) -> Snapshot:
        """Look once."""
        old = self.snapshot
        status, trouble = old.status, ""
        try:
            status = await self._agent.get("/v1/status")
            await self._fetch_events()
        except EverupError as error:
            trouble = error.sentence
        # A server that was away brings what is older than what is shown already.
        events = tuple(reversed(sorted(self._events, key=_moment)))
        new = Snapshot(old.number, status, trouble, events, self._missing)
        if new != old:
            self.snapshot = replace(new, number=old.number + 1)
        return self.snapshot

    async def _fetch_events(self) -> None:
        """Every second: the agent asks the other servers for theirs."""
        now = asyncio.get_running_loop().time()
        if now < self._events_due:
            return
        self._events_due = now + EVENTS_INTERVAL_S
        path = f"/v1/group/events?after={self._cursors}&limit={EVENTS_SHOWN}"
        found = await self._agent.get(path)
        self._events.extend(found["events"])
        self._cursors = ",".join(f"{name}:{number}" for name, number in found["cursors"].items())
        self._missing = tuple(found["unreachable"])

    async def _poll(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await self.refresh()
                await asyncio.sleep(INTERVAL_S)


def _moment(event: Json) -> datetime:
    return datetime.fromisoformat(str(event["at"]))
