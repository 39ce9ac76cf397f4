"""What happened on this server: numbered, bounded, readable after a restart.

What enters: kind (the id of a row), severity, sentence. What leaves: events as JSON, newest kept.
Called by the loop and by jobs; read by the API. One JSON object a line.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from everup.model.action import Severity
from everup.system.files import save_bytes

log = logging.getLogger(__name__)

EVENTS_MAX = 5_000
"""Kept in the file; it is rewritten with the newer half when twice as many were written."""

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


@dataclass(frozen=True)
class Event:
    id: int
    at: str
    """ISO 8601 with zone."""
    kind: str
    severity: Severity
    server: str
    sentence: str
    told: bool = False
    """People are sent a message about it."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class EventLog:
    """`listeners` are called with every new event."""

    def __init__(self, path: Path, server: str, events_max: int = EVENTS_MAX) -> None:
        self._path = path
        self._lines_max = 2 * events_max
        self._server = server
        self._events: deque[Event] = deque(_read(path), maxlen=events_max)
        self._lines = len(self._events)
        self.listeners: list[Callable[[Event], None]] = []

    def add(self, kind: str, severity: Severity, sentence: str, *, told: bool = False) -> Event:
        """Append an event and tell the listeners. A full disk costs the line, not the event."""
        number = self._events[-1].id + 1 if self._events else 1
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        event = Event(number, now, kind, severity, self._server, sentence, told)
        self._events.append(event)
        log.log(_LEVELS[severity], "%s: %s", kind, sentence)
        try:
            self._write(event)
        except OSError as error:
            log.warning("the event could not be stored: %s", error)
        for listener in self.listeners:
            listener(event)
        return event

    def after(self, number: int, limit: int) -> list[Event]:
        """At most `limit` events with a greater number, oldest first; 0 means the newest ones."""
        found = [event for event in self._events if event.id > number]
        return found[:limit] if number else found[-limit:]

    def _write(self, event: Event) -> None:
        if self._lines >= self._lines_max:
            text = "".join(_line(e) for e in self._events)
            save_bytes(self._path, text.encode(), operation="rewrite-events")
            self._lines = len(self._events)
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(event))
        self._lines += 1


def _line(event: Event) -> str:
    return json.dumps(event.to_json(), separators=(",", ":")) + "\n"


def _read(path: Path) -> list[Event]:
    """Every whole line; a last line cut by a power loss is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Event(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
