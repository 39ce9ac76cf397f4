"""Every mistake in the way of a byte is noticed by the test that it names, and by nothing less.

The named tests run on an unchanged copy first: a test that fails anyway would notice everything.
"""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.mutants.capture_mutants import CAPTURE
from tests.mutants.mutating import FAILED, PASSED, Mutant, Outcome, Workshop, environment_of
from tests.mutants.proof_mutants import PROOFS
from tests.mutants.replicate_mutants import REPLICATE

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
ALL = (*CAPTURE, *REPLICATE, *PROOFS)
AT_A_TIME = 2
TRIES = 6
"""A test that draws its cases, or lets threads race, may pass once over a mistake."""


class Runs:
    """Outcomes by mutant; None is the unchanged copy. All of them are begun at once."""

    def __init__(self, workshop: Workshop, wanted: tuple[Mutant, ...]) -> None:
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        tests = sorted({mutant.test for mutant in wanted})
        self.unchanged = self._pool.submit(workshop.run, tests)
        self._begun = {
            mutant: self._pool.submit(self._tried, workshop, mutant) for mutant in wanted
        }

    @staticmethod
    def _tried(workshop: Workshop, mutant: Mutant) -> Outcome:
        for _ in range(TRIES):
            outcome = workshop.run([mutant.test], mutant)
            if outcome.code != PASSED:
                break
        return outcome

    def of(self, mutant: Mutant) -> Future[Outcome]:
        return self._begun[mutant]

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    # A short path: sockets below it have names of at most 107 bytes.
    with TemporaryDirectory(prefix="ev") as base:
        yield Workshop(Path(base))


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Runs]:
    """Of the mutants that are asked for in this run of pytest."""
    names = {item.name for item in request.session.items}
    wanted = tuple(m for m in ALL if f"test_each_mistake_is_noticed[{m.name}]" in names)
    made = Runs(workshop, wanted)
    try:
        yield made
    finally:
        made.stop()


def test_the_copy_is_what_runs(workshop: Workshop, tmp_path: Path) -> None:
    workshop.copy(tmp_path / "copy", None)
    found = subprocess.run(
        [sys.executable, "-c", "import everup; print(everup.__file__)"],
        env=environment_of(tmp_path / "copy"), capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    assert found.strip() == str(tmp_path / "copy" / "everup" / "__init__.py")


@pytest.mark.timeout(1200)
def test_without_a_mistake_the_named_tests_pass(runs: Runs) -> None:
    outcome = runs.unchanged.result()
    assert outcome.code == PASSED, outcome.output


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_each_mistake_is_noticed(runs: Runs, mutant: Mutant) -> None:
    outcome = runs.of(mutant).result()
    assert outcome.code == FAILED, f"{mutant.test} did not notice:\n{outcome.output}"
