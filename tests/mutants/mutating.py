"""Mistakes put into a copy of the package: the test that each one names has to fail.

What enters: mutants (one small edit of a source file each) and the test that must notice. What
leaves: whether it did. The edit is made in a copy in a temporary directory, which stands first on
PYTHONPATH of the test and of every process that it starts; the product knows nothing of this.
A test that lets its mutant pass proves nothing.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from compileall import compile_dir
from itertools import count
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "everup"
SECONDS_MAX = 120
PASSED, FAILED = 0, 1
"""Exit codes of pytest; everything else means that the test did not run."""


class Mutant(NamedTuple):
    """`old` stands exactly once in `file`; `new` is the mistake; `test` must fail on it."""

    name: str
    file: str
    old: str
    new: str
    test: str


class Outcome(NamedTuple):
    code: int
    output: str


class Unfit(Exception):
    """The text to be changed is not in the source, or more than once."""


def mutated(mutant: Mutant) -> str:
    """The changed source. Raises Unfit."""
    source = (PACKAGE / mutant.file).read_text()
    count = source.count(mutant.old)
    if count != 1:
        raise Unfit(f"{mutant.name}: the text is {count} times in {mutant.file}")
    return source.replace(mutant.old, mutant.new)


class Workshop:
    """Makes copies of the package and runs tests on them; used by several threads."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._numbers = count()
        # Compiled once: a guard or replicator starts several processes.
        self._pristine = base / "pristine"
        shutil.copytree(PACKAGE, self._pristine / "everup", ignore=shutil.ignore_patterns("__py*"))
        compile_dir(self._pristine, quiet=2)

    def copy(self, target: Path, mutant: Mutant | None) -> None:
        """A directory for PYTHONPATH, with the mistake in it if there is to be one."""
        shutil.copytree(self._pristine, target)
        if mutant is not None:
            changed = target / "everup" / mutant.file
            for stale in (changed.parent / "__pycache__").glob(f"{changed.stem}.*"):
                stale.unlink()
            changed.write_text(mutated(mutant))

    def run(self, tests: Sequence[str], mutant: Mutant | None = None) -> Outcome:
        """Run tests on a copy, with the mistake in it or without one."""
        base = self._base / str(next(self._numbers))
        command = [
            sys.executable, "-m", "pytest", "--exitfirst", "-p", "no:cacheprovider",
            "--hypothesis-profile", "quick", "--basetemp", str(base / "t"), *tests,
        ]  # fmt: skip
        try:
            self.copy(base / "source", mutant)
            return _run(command, environment_of(base / "source"), SECONDS_MAX * len(tests))
        finally:
            _unmount_below(base)
            shutil.rmtree(base, ignore_errors=True)


def environment_of(source: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(source)}


def _run(command: list[str], environment: dict[str, str], seconds: float) -> Outcome:
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True, text=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return Outcome(process.returncode, output)


def _unmount_below(base: Path) -> None:
    """A test that was killed has left its mounts."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = line.split()[4]
        if place.startswith(f"{base}/"):
            subprocess.run(["umount", "--lazy", place], check=False, timeout=30)
