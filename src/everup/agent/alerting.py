"""Connects the events of this server with the messages to people.

What enters: events marked as told. What leaves: messages in the outbox, which sends them. Called by
the service. The settings are read for every message, so a changed address counts at once.
"""

from everup.agent.event_log import Event
from everup.agent.parts import Parts
from everup.alerts.mail import Mailer
from everup.alerts.message import Message
from everup.alerts.outbox import Outbox
from everup.alerts.webhook import Caller


class Alerting:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        settings = parts.membership.settings

        self._outbox = Outbox(
            parts.places.state / "outbox",
            {
                "mail": Mailer(lambda: settings.current.alerts.mail),
                "webhook": Caller(lambda: settings.current.alerts.webhook),
            },
        )
        parts.events.listeners.append(self._tell)

    async def run(self) -> None:
        """For ever."""
        await self._outbox.run()

    def _tell(self, event: Event) -> None:
        if not event.told:
            return
        group = self._parts.membership.settings.current.group
        self._outbox.put(
            Message(
                group=group,
                server=event.server,
                kind=event.kind,
                severity=event.severity,
                sentence=event.sentence,
                at=event.at,
                event_id=event.id,
            )
        )
