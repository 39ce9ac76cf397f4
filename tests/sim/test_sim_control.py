"""A few seeds of the simulated decisions in every test run; `make sim` does hundreds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from simcontrol import KINDS, Story, control
from simcontrolmutants import CONTROL_MUTANTS, try_control_mutant

SEEDS = range(5000, 5024)


def test_groups_keep_their_promises_and_get_well_by_themselves() -> None:
    results = [control(seed) for seed in SEEDS]
    assert {result.kind for result in results} == set(KINDS)
    for result in results:
        replay = f"replay with: make sim SEED={result.seed}"
        assert result.violations == [] and result.available_again, f"{replay}: {result.told}"


def test_the_same_seed_is_the_same_story() -> None:
    traces: list[list[str]] = []
    for _ in range(2):
        lines: list[str] = []
        Story(11, trace=lines.append).run()
        traces.append(lines)
    assert traces[0] == traces[1] and len(traces[0]) > 50


@pytest.mark.parametrize("name", CONTROL_MUTANTS)
def test_each_mistake_in_the_decisions_is_caught(name: str) -> None:
    _, verdict = try_control_mutant(name)
    assert verdict["caught"], name
