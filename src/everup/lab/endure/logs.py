"""What the servers said in a round: lines of Everup's units and of PostgreSQL that matter.

What enters: a lab and a moment. What leaves: warnings, errors and stack traces, read from the
flight recorders outside the servers (so that a power cut takes nothing away). `expected` judges.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from everup.lab.endure.scene import Blackout
from everup.lab.lab import Lab

_OWN_UNITS = ("everup-",)
_LAB_UNITS = ("everup-lab-",)
_DATABASE = "postgres"
_DATABASE_LEVELS = ("WARNING", "ERROR", "FATAL", "PANIC")
_QUIET = ("INFO ", "DEBUG ")
_SYSTEMD_WARNING = 4
_READ_S = 60


@dataclass(frozen=True)
class Line:
    """`source`: an Everup unit, `systemd` (about such a unit), or `postgres`."""

    server: str
    at: float
    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.server} {self.source}: {self.text}"


def read_lines(lab: Lab, since: float, blackouts: Sequence[Blackout]) -> list[Line]:
    """Every line since a moment (seconds of the wall clock) that could be a complaint.

    A server's last words while its power goes, between its disk's end and that of its processes,
    are left out: nobody heard them, and they are about nothing else.
    """
    found = []
    for server in lab.server_names:
        recorder = lab.directory / "journal" / server
        words = ["journalctl", "-D", str(recorder), "--output=json", f"--since=@{since:.3f}"]
        told = lab.base.run([*words, "--quiet"], check=False, timeout_s=_READ_S).stdout
        for text in told.splitlines():
            line = parse(server, json.loads(text))
            if line is not None and not any(spoken_in(line, each) for each in blackouts):
                found.append(line)
    return sorted(found, key=lambda line: line.at)


def spoken_in(line: Line, blackout: Blackout) -> bool:
    """Whether the line's server was just losing its power."""
    return line.server == blackout.server and blackout.began <= line.at <= blackout.ended


def parse(server: str, entry: dict[str, object]) -> Line | None:
    """The journal's entry, when it may be a complaint of somebody who matters here."""
    message = entry.get("MESSAGE")
    if not isinstance(message, str):
        return None
    unit = str(entry.get("_SYSTEMD_UNIT", "")).removesuffix(".service")
    at = float(str(entry.get("__REALTIME_TIMESTAMP", "0"))) / 1e6
    if entry.get("SYSLOG_IDENTIFIER") == _DATABASE:
        matters = any(f"{level}: " in message for level in _DATABASE_LEVELS)
        return Line(server, at, _DATABASE, message) if matters else None
    if entry.get("_PID") == "1":
        about = str(entry.get("UNIT", ""))
        warns = int(str(entry.get("PRIORITY", "6"))) <= _SYSTEMD_WARNING
        matters = warns and about.startswith(_OWN_UNITS) and not about.startswith(_LAB_UNITS)
        return Line(server, at, "systemd", message) if matters else None
    if unit.startswith(_OWN_UNITS) and not unit.startswith(_LAB_UNITS):
        return None if message.startswith(_QUIET) else Line(server, at, unit, message)
    return None
