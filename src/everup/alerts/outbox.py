"""Messages that are not delivered yet: durable, bounded, sent again until somebody took them.

What enters: messages. What leaves: deliveries over every way that is set up. Called by the agent.
One small file for each message and way, so that a restart or a power cut loses none; the number of
files is bounded and the oldest goes first.
"""

import asyncio
import json
import logging
import time
from collections import deque
from pathlib import Path
from typing import Protocol

from everup.alerts.message import Message
from everup.errors import EverupError
from everup.system.files import REAL_DOOR, Door, load_json, save_json

log = logging.getLogger(__name__)

WAITING_MAX = 500
UNSTORED_MAX = 20
"""Messages kept in memory while the disk takes none."""
AGE_MAX_S = 3 * 24 * 3600
"""Older news helps nobody; it is in the events."""
PAUSES_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""After each failure; a network that is away for a moment costs a second."""
LOOK_S = 30.0


class Way(Protocol):
    """One way of telling people."""

    @property
    def wanted(self) -> bool: ...

    async def send(self, message: Message) -> None: ...


class Outbox:
    """`pauses_s` is what to wait after the first, second, ... failure in a row."""

    def __init__(
        self,
        directory: Path,
        ways: dict[str, Way],
        pauses_s: tuple[float, ...] = PAUSES_S,
        door: Door = REAL_DOOR,
    ) -> None:
        self._directory = directory
        self._pauses_s = pauses_s
        self._ways = ways
        self._news = {name: asyncio.Event() for name in ways}
        self._door = door
        self._unstored: dict[str, deque[Message]] = {n: deque(maxlen=UNSTORED_MAX) for n in ways}
        self._done_with: set[str] = set()
        directory.mkdir(mode=0o700, exist_ok=True)
        self._number = max((_number(p) for p in directory.glob("*.json")), default=0)

    def put(self, message: Message) -> None:
        """Queue a message for every way that is set up; durable before it is sent."""
        for name, way in self._ways.items():
            if way.wanted:
                self._number += 1
                self._save(self._number, name, message)
                self._news[name].set()

    async def run(self) -> None:
        """Deliver, for ever. A way that fails does not hold up another."""
        await asyncio.gather(*(self._deliver(name) for name in self._ways))

    def waiting(self, name: str) -> list[Path]:
        """Files of the messages that `name` still has to deliver, oldest first."""
        try:
            found = sorted(self._directory.glob(f"*.{name}.json"))
        except OSError as error:
            # A disk that fails is no reason to fall silent: what is in memory still goes out.
            log.error("the messages that wait cannot be listed: %s", error)
            return []
        return [path for path in found if path.name not in self._done_with]

    def _save(self, number: int, name: str, message: Message) -> None:
        path = self._directory / f"{number:010d}.{name}.json"
        try:
            value = {"message": message.to_json(), "since": time.time()}
            save_json(path, value, operation="save-alert", door=self._door)
        except OSError as error:
            # A full disk is just what people must hear of: try from memory.
            log.error("a message could not be stored: %s", error)
            self._unstored[name].append(message)
        for old in self.waiting(name)[:-WAITING_MAX]:
            log.warning("too many messages wait for %s; the oldest is dropped", name)
            self._forget(old)

    async def _deliver(self, name: str) -> None:
        failures = 0
        while True:
            self._news[name].clear()
            failures = 0 if await self._send_all(name) else failures + 1
            pause_s = self._pauses_s[min(failures, len(self._pauses_s)) - 1] if failures else LOOK_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._news[name].wait()
            except TimeoutError:
                pass

    async def _send_all(self, name: str) -> bool:
        """Send what waits, oldest first; False when one was not taken."""
        unstored = self._unstored[name]
        while unstored:
            if not await self._send(name, unstored[0]):
                return False
            unstored.popleft()
        for path in self.waiting(name):
            message = _read(path)
            wanted = self._ways[name].wanted
            if message is not None and wanted and not await self._send(name, message):
                return False
            self._forget(path)
        return True

    def _forget(self, path: Path) -> None:
        """Also when the disk does not let it go: nobody is told the same every minute."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.error("a message that is done with could not be removed: %s", error)
            self._done_with.add(path.name)

    async def _send(self, name: str, message: Message) -> bool:
        try:
            await self._ways[name].send(message)
        except EverupError as error:
            log.warning("not delivered yet: %s", error)
            return False
        log.info("%s told: %s", name, message.sentence)
        return True


def _read(path: Path) -> Message | None:
    """The message in a file; None when it is too old, or no message."""
    try:
        value = load_json(path)
        if value is None or time.time() - float(value["since"]) > AGE_MAX_S:
            return None
        return Message(**value["message"])
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        log.warning("%s is no message: %s", path.name, error)
        return None


def _number(path: Path) -> int:
    head = path.name.split(".", 1)[0]
    return int(head) if head.isdigit() else 0
