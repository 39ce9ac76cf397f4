"""One seed, and one mutant against many seeds; shared by `run` and the tests."""

from __future__ import annotations

from typing import Any

from simmutants import MUTANTS
from simnode import SECOND
from simworld import Result, World

CHAOS_NS = 40 * SECOND
MUTANT_SEEDS = 400


def one(seed: int) -> Result:
    return World(seed, CHAOS_NS).run()


def try_mutant(name: str) -> tuple[str, dict[str, Any]]:
    """Seeds until the checker finds the mistake."""
    with MUTANTS[name]():
        for seed in range(MUTANT_SEEDS):
            violations = one(seed).violations
            if violations:
                return name, {"caught": True, "seed": seed, "promise": violations[0][0]}
    return name, {"caught": False, "seed": None}
