"""Send a message by mail.

What enters: a message. What leaves: an SMTP delivery, or an EverupError that the outbox answers
with another try. Called by the outbox. No mail settings means nothing to do.
"""

from collections.abc import Callable
from email.message import EmailMessage

import aiosmtplib

from everup.alerts.message import Message
from everup.config.schema import Mail
from everup.errors import NotConnected

SEND_S = 4.0


class Mailer:
    def __init__(self, settings: Callable[[], Mail | None]) -> None:
        self._settings = settings

    @property
    def wanted(self) -> bool:
        mail = self._settings()
        return mail is not None and bool(mail.recipients)

    async def send(self, message: Message) -> None:
        """Deliver to every recipient. Raises NotConnected when the mail server did not take it."""
        mail = self._settings()
        if mail is None or not mail.recipients:
            return
        try:
            await aiosmtplib.send(
                compose(message, mail),
                hostname=mail.host,
                port=mail.port,
                timeout=SEND_S,
                # Encryption is taken when the server offers it; a relay on the same network often
                # does not, and a failover must be told all the same.
                start_tls=None,
                validate_certs=False,
            )
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise NotConnected(f"the mail server {mail.host}:{mail.port}: {error}") from error


def compose(message: Message, mail: Mail) -> EmailMessage:
    """The mail itself."""
    email = EmailMessage()
    email["From"] = mail.sender
    email["To"] = ", ".join(mail.recipients)
    email["Subject"] = message.subject
    email["X-Everup-Event"] = message.kind
    email["X-Everup-Server"] = message.server
    # The same message sent again after a lost answer is recognised as the same.
    email["Message-ID"] = f"<{message.event_id}.{message.kind}.{message.server}@{message.group}>"
    email.set_content(message.body)
    return email
