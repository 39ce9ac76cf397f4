"""What a tree of 10^3 to 10^6 files costs: time per operation, memory of the guard.

What enters: a guard's site. What leaves: microseconds per operation in a directory of each size,
and the guard's memory when the kernel, and so the guard, knows all of them.
"""

import os
import random
import time
from pathlib import Path

from tests.bench.experiment import OURS, Figures
from tests.bench.site import Site

SIZES = (1_000, 10_000, 100_000, 1_000_000)
PER_DIRECTORY = 1000
OPERATIONS = 2000


def _populate(directory: Path, files: int) -> None:
    for part in range(files // PER_DIRECTORY):
        folder = directory / f"part{part}"
        folder.mkdir()
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(PER_DIRECTORY):
            os.close(os.open(f"file{number}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=place))
        os.close(place)


def _know(directory: Path) -> int:
    """Look at every file; how many there are."""
    count = 0
    for folder in os.scandir(directory):
        for entry in os.scandir(folder):
            entry.stat()
            count += 1
    return count


class FilledSite(Site):
    """A site whose directory holds trees of every size before the gate closes over it."""

    def prepare(self) -> None:
        for files in SIZES:
            top = self.guarded / f"tree{files}"
            top.mkdir()
            _populate(top, files)


class Scale:
    """Every tree is looked at through the mount, and then changed a little."""

    sides: tuple[str, ...] = (OURS,)

    def __init__(self, site: Site) -> None:
        self._site = site

    def run(self, side: str) -> Figures:
        del side
        figures: Figures = {}
        for files in SIZES:
            seen = self._site.guarded / f"tree{files}"
            begin = time.perf_counter()
            assert _know(seen) == files
            figures[f"know_{files}"] = (time.perf_counter() - begin) / files * 1e6
            figures[f"change_{files}"] = self._change(seen, files)
        figures["rss"] = self._site.usage().guard_rss
        return figures

    @staticmethod
    def _change(directory: Path, files: int) -> float:
        """Create, write, rename and remove in directories chosen at random; us per operation."""
        choice = random.Random(files)
        parts = files // PER_DIRECTORY
        begin = time.perf_counter()
        for number in range(OPERATIONS // 4):
            path = f"{directory}/part{choice.randrange(parts)}/new{number}"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(descriptor, b"x" * 1000)
            os.close(descriptor)
            os.rename(path, path + "moved")
            os.unlink(path + "moved")
        return (time.perf_counter() - begin) / OPERATIONS * 1e6

    def close(self) -> None:
        pass
