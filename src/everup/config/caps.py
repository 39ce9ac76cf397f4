"""The bandwidth cap: how much may be sent to a peer at which hour of which day (pure).

What enters: the table of the group's settings, a weekday and a minute. What leaves: bytes per
second. Called by the replicator about once a second, so that a change holds at once.
"""

import re
from collections.abc import Iterable

from everup.config.base import Settings

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
KBIT_PER_S_MIN = 64
"""Less would not carry the signs of life."""
WINDOWS_MAX = 100
_HOURS = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


class CapWindow(Settings, frozen=True):
    """A cap for some hours of some days, by the clock of the sending server."""

    kbit_per_s: int
    """1000 bit per second; 0: no limit in this time."""
    days: str = "mon-sun"
    """Days and ranges of days: "mon-fri", "sat,sun"."""
    hours: str = "00:00-24:00"
    """Over midnight too ("22:00-06:00"): it then belongs to the day on which it begins."""
    to: str = ""
    """Only to this server; empty: to each."""


class Bandwidth(Settings, frozen=True):
    """What may be sent to each peer; the first window that holds decides."""

    kbit_per_s: int = 0
    """Outside of all windows; 0: no limit."""
    windows: tuple[CapWindow, ...] = ()


def cap_at(bandwidth: Bandwidth, server: str, weekday: int, minute: int) -> int:
    """Bytes per second that may go to `server`; 0: no limit. `weekday`: Monday is 0."""
    kbit_per_s = bandwidth.kbit_per_s
    for window in bandwidth.windows:
        if window.to in ("", server) and _holds(window, weekday, minute):
            kbit_per_s = window.kbit_per_s
            break
    return kbit_per_s * 125


def _holds(window: CapWindow, weekday: int, minute: int) -> bool:
    days, (begin, end) = _days(window.days), _hours(window.hours)
    if begin < end:
        return weekday in days and begin <= minute < end
    yesterday = (weekday - 1) % 7
    return (weekday in days and minute >= begin) or (yesterday in days and minute < end)


def _days(text: str) -> frozenset[int]:
    """Raises ValueError."""
    found: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.strip().partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found |= {(begin + n) % 7 for n in range((end - begin) % 7 + 1)}
    return frozenset(found)


def _hours(text: str) -> tuple[int, int]:
    """Minutes of the day. Raises ValueError."""
    match = _HOURS.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    numbers = [int(group) for group in match.groups()]
    begin, end = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
    if begin >= DAY_MINUTES or end > DAY_MINUTES or begin == end:
        raise ValueError(text)
    return begin, end


def bandwidth_problems(bandwidth: Bandwidth, names: Iterable[str]) -> list[str]:
    """Every mistake that types cannot express, as sentences."""
    found = []
    caps = [("bandwidth.kbit_per_s", bandwidth.kbit_per_s)]
    if len(bandwidth.windows) > WINDOWS_MAX:
        found.append(f"bandwidth.windows: more than {WINDOWS_MAX}")
    known = {*names, ""}
    for number, window in enumerate(bandwidth.windows):
        place = f"bandwidth.windows.{number}"
        caps.append((f"{place}.kbit_per_s", window.kbit_per_s))
        for name, read, usual in (("days", _days, "mon-fri"), ("hours", _hours, "08:00-18:00")):
            try:
                read(getattr(window, name))
            except ValueError:
                found.append(f'{place}.{name}: {getattr(window, name)!r} is not like "{usual}"')
        if window.to not in known:
            found.append(f"{place}.to: {window.to!r} is no server of the group")
    found += [
        f"{key} must be 0 (no limit) or at least {KBIT_PER_S_MIN}"
        for key, value in caps
        if value != 0 and value < KBIT_PER_S_MIN
    ]
    return found
