"""A few seeds of the simulator in every test run; `make sim` does hundreds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from simmutants import MUTANTS
from simseeds import CHAOS_NS, MUTANT_SEEDS, one, try_mutant
from simworld import World

SEEDS = range(1000, 1030)


def test_promises_hold_in_every_seed() -> None:
    for seed in SEEDS:
        result = one(seed)
        assert result.violations == [], f"replay with: make sim SEED={seed}"
        assert result.available_again, f"replay with: make sim SEED={seed}"


def test_the_same_seed_is_the_same_run() -> None:
    traces: list[list[str]] = []
    for _ in range(2):
        lines: list[str] = []
        World(7, CHAOS_NS, trace=lines.append).run()
        traces.append(lines)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 50


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_caught(name: str) -> None:
    _, verdict = try_mutant(name)
    assert verdict["caught"], f"{name} passed {MUTANT_SEEDS} seeds"
