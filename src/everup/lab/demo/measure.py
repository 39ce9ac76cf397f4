"""Reading what the client wrote down: who answered when, and which transactions were acknowledged.

What enters: the logs of the prober and of the load, moments on the one monotonic clock. What
leaves: times in milliseconds and sets of transactions. All of it pure but for reading the files.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """One answer of the echo. Seconds on the monotonic clock."""

    at: float
    asked_at: float
    server: str


@dataclass(frozen=True)
class Acknowledged:
    """One transaction that the server acknowledged to the client."""

    at: float
    worker: int
    number: int

    @property
    def key(self) -> tuple[int, int]:
        return self.worker, self.number


def parse_answers(text: str) -> list[Answer]:
    """The prober's lines; an unfinished last line is left out."""
    return [
        Answer(float(at), float(asked), server)
        for at, asked, server in (line.split() for line in _whole_lines(text))
    ]


def parse_acknowledged(text: str, worker: int) -> list[Acknowledged]:
    """The lines of one worker's log."""
    return [
        Acknowledged(float(at), worker, int(number))
        for number, at in (line.split() for line in _whole_lines(text))
    ]


def _whole_lines(text: str) -> list[str]:
    return text.split("\n")[:-1]


def read_answers(path: Path, last_bytes: int | None = None) -> list[Answer]:
    """The prober's answers, or those in the last bytes of its log."""
    return parse_answers(_read(path, last_bytes)) if path.exists() else []


def read_acknowledged(directory: Path, last_bytes: int | None = None) -> list[Acknowledged]:
    """All workers' transactions in the order of their acknowledgement, or each log's last bytes."""
    found: list[Acknowledged] = []
    for path in directory.glob("worker-*.log"):
        worker = int(path.stem.removeprefix("worker-"))
        found += parse_acknowledged(_read(path, last_bytes), worker)
    return sorted(found, key=lambda each: each.at)


def _read(path: Path, last_bytes: int | None) -> str:
    """Looking again and again at a growing log must not cost the servers their processor."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if last_bytes is None or size <= last_bytes:
            file.seek(0)
            return file.read().decode()
        file.seek(size - last_bytes)
        return file.read().partition(b"\n")[2].decode()


def first_answer_of(answers: Iterable[Answer], server: str, after: float) -> Answer | None:
    """The first answer that `server` gave to a question asked after a moment."""
    good = (each for each in answers if each.server == server and each.asked_at > after)
    return next(good, None)


def longest_gap_ms(moments: Iterable[float], begin: float, end: float) -> float:
    """The longest time without an event between two moments, its neighbours outside included."""
    ordered = sorted(moments)
    before = [moment for moment in ordered if moment <= begin]
    after = [moment for moment in ordered if moment >= end]
    inside = [moment for moment in ordered if begin < moment < end]
    points = [*before[-1:], *inside, *after[:1]]
    gaps = [later - earlier for earlier, later in pairwise(points)]
    return max(gaps, default=end - begin) * 1000


def round_ms(seconds: float) -> int:
    return round(seconds * 1000)
