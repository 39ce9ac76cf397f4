"""Verifications that begin by themselves: after a time, and when something gives reason to doubt.

What enters: settings, the replicator's status, events, what peers say. What leaves: a slow
verification on the active server; and in this server's heartbeats, when it was proven whole and
what has cast doubt on that since. Called by the service. When one is due says `verify_due`.
"""

import asyncio
import logging
import time
from datetime import datetime
from typing import Any

from everup.agent.event_log import Event
from everup.agent.parts import Parts
from everup.agent.verify_due import Known, due
from everup.errors import EverupError
from everup.model.role import Role

log = logging.getLogger(__name__)

LOOK_S = 10.0
ASK_MS = 20_000
DOUBTS = ("written-behind",)
"""Events after which nobody knows whether the trees are equal."""
TOUCHED = "touched"
_WORDS = {
    "written-behind": "something was written behind the mounts",
    TOUCHED: "only what was doubtful was compared after a server stopped uncleanly",
}

Json = dict[str, Any]
Doubt = tuple[float, str]
"""Since when, and which of `_WORDS`."""


class Scheduled:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tried_s: float | None = None
        self._doubt: Doubt = (0.0, "")
        for event in parts.events.after(0, 1000):
            self._note(event)
        parts.events.listeners.append(self._note)

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.publish()
            try:
                await self.look(time.time())
            except EverupError as error:
                log.warning("a verification could not begin: %s", error)

    def publish(self) -> None:
        """Tell the others about the last whole proof of this server's trees, and of doubts."""
        facts = self._parts.extra_facts
        facts.pop("proven", None)
        facts.pop("doubt", None)
        if self._parts.loop.state.role is not Role.ACTIVE:
            facts.update(proof_facts(self._replicator().get("proven") or {}, self._doubt))

    async def look(self, now_s: float) -> None:
        """Begin a verification if one is due. Raises EverupError when it cannot begin."""
        if self._parts.loop.state.role is not Role.ACTIVE:
            return
        verify = self._replicator().get("verify") or {}
        every_hours = self._parts.membership.settings.current.verify_every_hours
        why = due(now_s, every_hours, self._known(), self._tried_s)
        if not why or verify.get("running"):
            return
        self._tried_s = now_s
        await self._parts.replicator.call("verify", wait_ms=ASK_MS, scheduled=True)
        self._parts.events.add(
            "verify-started", "info", f"Everything is verified at low priority: {why}."
        )

    def _note(self, event: Event) -> None:
        if event.kind in DOUBTS:
            self._doubt = max(self._doubt, (seconds(event.at) or 0.0, event.kind))

    def _replicator(self) -> Json:
        return self._parts.world.answers.get("replicator", {})

    def _known(self) -> list[Known]:
        keeper = self._parts.world.answers.get("keeper", {})
        facts = {p.get("server"): p.get("facts") or {} for p in keeper.get("peers", ())}
        return known_servers(self._replicator(), facts, self._doubt)


def proof_facts(proven: Json, doubt: Doubt) -> Json:
    """What a heartbeat says of the last whole proof of a server's trees. It has to be short."""
    position, at = proven.get("position") or {}, proven.get("at")
    facts: Json = {}
    if position:
        place = {key: position.get(key) for key in ("epoch", "sequence")}
        facts["proven"] = {**place, "at": at}
    touched_s = seconds((proven.get("touched") or {}).get("at"))
    doubt_s, why = max(doubt, (touched_s or 0.0, TOUCHED))
    if doubt_s > (seconds(at) or 0.0):
        facts["doubt"] = [int(doubt_s), why]
    return facts


def known_servers(replicator: Json, facts: dict[Any, Json], own_doubt: Doubt) -> list[Known]:
    """`facts`: what each peer says of itself; `own_doubt`: of the active server's trees."""
    whole = (replicator.get("verify") or {}).get("whole") or {}
    found = []
    for peer in replicator.get("peers", ()):
        server = peer["server"]
        said = facts.get(server) or {}
        times = [
            seconds((said.get("proven") or {}).get("at")),
            seconds((whole.get(server) or {}).get("at")),
        ]
        proven_s = max((each for each in times if each is not None), default=None)
        theirs = said.get("doubt")
        doubt = own_doubt
        if isinstance(theirs, list) and len(theirs) == 2 and isinstance(theirs[0], int):
            doubt = max(doubt, (float(theirs[0]), str(theirs[1])))
        why = _WORDS.get(doubt[1], "there is reason to doubt")
        found.append(Known(server, peer["in_sync"] is True, proven_s, doubt[0], why))
    return found


def seconds(moment: object) -> float | None:
    """An ISO moment with zone as seconds since 1970."""
    try:
        return datetime.fromisoformat(str(moment)).timestamp() if moment else None
    except ValueError:
        return None
