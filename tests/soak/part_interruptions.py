"""Thirty random interruptions of an initial sync and of a resync, under load, several times.

What enters: what an earlier run has done. What leaves: findings, and what was done to each round.
The short form is `contract/test_replicate_interrupted.py`.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from interrupting import Interrupted

ROUNDS = 6
INTERRUPTIONS = 15
"""Of the initial sync, and as many of the resync."""
MEBIBYTES = 160


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """All rounds that are not done yet."""
    memory.setdefault("rounds", [])
    while len(memory["rounds"]) < ROUNDS:
        seed = len(memory["rounds"])
        with tempfile.TemporaryDirectory(prefix="everup-soak-") as base:
            memory["rounds"].append(_round(Path(base), seed, memory["findings"]))
        keep()


def _round(base: Path, seed: int, findings: list[str]) -> dict[str, Any]:
    made = Interrupted(base, seed, MEBIBYTES)
    try:
        made.start()
        made.interrupt(INTERRUPTIONS)
        made.settle(180)
        made.unfinish()
        made.interrupt(INTERRUPTIONS)
        made.compare()
    except AssertionError as broken:
        findings.append(f"seed {seed}: {broken}")
    finally:
        made.stop()
    log = made.pair.alpha.log.read_text()
    if "sync-unequal" in log:
        findings.append(f"seed {seed}: a finished copy was different")
    return {
        "seed": seed,
        "faults": dict(made.told.faults),
        "during_sync": made.told.during_sync,
        "copies": log.count("resync-started"),
    }
