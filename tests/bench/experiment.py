"""What an experiment is: sides that do the same work in turn, and the figures of each.

Called by the run; the experiments themselves are in `files`, `postgres`, `mariadb` and `scale`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.bench.site import Site

BASELINE = "plain"
OURS = "everup"

Figures = dict[str, float]


class Experiment(Protocol):
    """Prepared once, then every side in turn, several times; `close` leaves nothing running."""

    sides: tuple[str, ...]

    def run(self, side: str) -> Figures: ...

    def close(self) -> None: ...


class Row(NamedTuple):
    """One line of the table.

    A `ratio` is the figure of `side` divided by that of the lower file system in the same round;
    other units are the figure itself. `asked` and `aim` are what was promised and what is hoped.
    """

    id: str
    figure: str
    unit: str = "ratio"
    asked: float | None = None
    aim: float | None = None
    side: str = OURS
    note: str = ""
    """May show medians of the figures of `side`: "{seconds:.1f} s"."""
    smaller: bool = False
    """Less is better."""


class Group(NamedTuple):
    """Rows that come from one experiment; `mode` names the site."""

    mode: str
    runs: int
    make: Callable[[Site], Experiment]
    rows: tuple[Row, ...]


class InDirectories:
    """An experiment that is one function of a directory; every run gets a new one."""

    sides: tuple[str, ...] = (BASELINE, OURS)

    def __init__(self, site: Site, work: Callable[[Path, Path], Figures]) -> None:
        self._site = site
        self._work = work
        self._count = 0

    def run(self, side: str) -> Figures:
        """`work` gets the directory, and the same one as it lies on the disk."""
        self._count += 1
        name = f"run{self._count}"
        top = self._site.plain if side == BASELINE else self._site.guarded
        below = self._site.plain if side == BASELINE else self._site.lower()
        (top / name).mkdir()
        return self._work(top / name, below / name)

    def close(self) -> None:
        pass


def in_directories(work: Callable[[Path, Path], Figures]) -> Callable[[Site], Experiment]:
    return lambda site: InDirectories(site, work)
