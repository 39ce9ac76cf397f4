"""Endurance rounds: every kind of fault twice, under load, with an audit after each.

What enters: what an earlier run has done. What leaves: findings, the rounds, the seed. A portion of
rounds has a lab of its own, so that a run can be broken off and go on between portions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from everup.lab.endure.plan import DECK
from everup.lab.endure.run import Wishes, run_endure

PROJECT = Path(__file__).parents[2]
SEED = 2026
ROUNDS = 2 * len(DECK)
PORTION = 10


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """All rounds that are not done yet."""
    memory.setdefault("seed", SEED)
    memory.setdefault("rounds", [])
    while len(memory["rounds"]) < ROUNDS:
        done = len(memory["rounds"])
        wishes = Wishes(
            name="soak-endure",
            rounds=min(PORTION, ROUNDS - done),
            seed=memory["seed"],
            first=done + 1,
            report=PROJECT / f"build/soak/endure-{done + 1}.json",
            project=PROJECT,
        )
        told = run_endure(wishes).to_json()
        memory["rounds"] += told["rounds"]
        memory["findings"] += told["findings"]
        keep()
