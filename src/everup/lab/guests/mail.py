"""A real SMTP server that keeps every mail as a file.

What enters: mails on port 25. What leaves: DIRECTORY/NUMBER.eml and NUMBER.json with the moment of
arrival (monotonic), sender, receivers and subject.
"""

import asyncio
import email
import email.policy
import json
import sys
import time
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller


class Keeper:
    """aiosmtpd's handler: one call per mail."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep the mail, then accept it."""
        at = time.monotonic()
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        number = len(list(self._directory.glob("*.json"))) + 1
        told = {
            "at_monotonic": at,
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "subject": " ".join(str(mail["subject"]).split()),
        }
        (self._directory / f"{number:06d}.eml").write_bytes(envelope.content)
        temporary = self._directory / f"{number:06d}.new"
        temporary.write_text(json.dumps(told))
        temporary.rename(self._directory / f"{number:06d}.json")
        return "250 kept"


def main(directory: Path, port: int) -> None:
    """Serve until killed."""
    directory.mkdir(parents=True, exist_ok=True)
    controller = Controller(Keeper(directory), hostname="0.0.0.0", port=port)
    controller.start()
    asyncio.new_event_loop().run_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
