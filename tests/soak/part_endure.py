"""Endurance rounds: every kind of fault twice, under load, with an audit after each.

What enters: what an earlier run has done. What leaves: findings, the rounds, the seed. Rounds that
are through count, also when the run is broken off; the next run goes on with a lab of its own.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everup.lab.endure.plan import DECK
from everup.lab.endure.run import Wishes, run_endure

PROJECT = Path(__file__).parents[2]
SEED = 2026
ROUNDS = 2 * len(DECK)


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """All rounds that are not done yet."""
    memory.setdefault("seed", SEED)
    memory.setdefault("rounds", [])
    done = len(memory["rounds"])
    report = PROJECT / f"build/soak/endure-{done + 1}.json"
    report.unlink(missing_ok=True)
    wishes = Wishes(
        name="soak-endure",
        rounds=ROUNDS - done,
        seed=memory["seed"],
        first=done + 1,
        report=report,
        project=PROJECT,
    )
    try:
        run_endure(wishes)
    finally:
        if report.exists():
            told = json.loads(report.read_text())
            memory["rounds"] += told["rounds"]
            memory["findings"] += told["findings"]
            keep()
