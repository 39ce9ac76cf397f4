"""Send a message as JSON to a web address.

What enters: a message. What leaves: one POST, or an EverupError that the outbox answers with
another try. Called by the outbox. No webhook settings means nothing to do.
"""

from collections.abc import Callable

import aiohttp

from everup.alerts.message import Message
from everup.config.schema import Webhook
from everup.errors import NotConnected

SEND_S = 4.0


class Caller:
    def __init__(self, settings: Callable[[], Webhook | None]) -> None:
        self._settings = settings

    @property
    def wanted(self) -> bool:
        return self._settings() is not None

    async def send(self, message: Message) -> None:
        """POST the message. Raises NotConnected unless the answer says that it was taken."""
        webhook = self._settings()
        if webhook is None:
            return
        timeout = aiohttp.ClientTimeout(total=SEND_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(webhook.url, json=message.to_json(), allow_redirects=False) as answer,
            ):
                if answer.status >= 300:
                    raise NotConnected(f"the webhook answered with status {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # A timeout has no words of its own.
            why = str(error) or f"no answer within {SEND_S:g} s"
            raise NotConnected(f"the webhook cannot be reached: {why}") from error
