"""Listen to what keeper, replicator and guard report, and wake the control loop for it.

What enters: their event streams. What leaves: turns, and events for people where something happened
that a turn does not see (a divergence was saved, a resync ended, a tree was written behind its
mount). Called by the service. A stream that ends is opened again; what was missed meanwhile is seen
by the ordinary turns.
"""

import asyncio
import logging
from typing import Any

from everup.agent.parts import Parts
from everup.errors import EverupError
from everup.model.action import Severity
from everup.wire.control import ControlClient

log = logging.getLogger(__name__)

AGAIN_S = 0.5

_SEVERITIES: dict[str, Severity] = {
    "info": "info",
    "warning": "warning",
    "critical": "critical",
}


class Feeds:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def run(self) -> None:
        """For ever."""
        await asyncio.gather(
            self._listen(self._parts.keeper, speaks=False),
            self._listen(self._parts.replicator, speaks=True),
            self._listen(self._parts.guard, speaks=True),
        )

    async def _listen(self, client: ControlClient, *, speaks: bool) -> None:
        while True:
            try:
                async for line in client.subscribe("subscribe"):
                    self._parts.loop.wake()
                    if speaks:
                        self._say(line)
            except EverupError as error:
                log.debug("%s reports nothing: %s", client.name, error)
            await asyncio.sleep(AGAIN_S)

    def _say(self, line: dict[str, Any]) -> None:
        """An event with a sentence is for people; one without is only a reason to look."""
        sentence = line.get("sentence")
        kind = line.get("event")
        if not isinstance(sentence, str) or not isinstance(kind, str) or not sentence:
            return
        severity = _SEVERITIES.get(str(line.get("severity")), "info")
        self._parts.events.add(kind, severity, sentence, told=severity == "critical")
