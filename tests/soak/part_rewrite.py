"""Power cuts among blocks that are rewritten and forced to the disk, in both modes.

What enters: what an earlier run has done. What leaves: a line for each round, findings when trees
differ after the rejoin or an acknowledged block is missing (durable mode). Builds a lab of its own.
"""

import random
import time
from collections.abc import Callable
from typing import Any

from tests.lab.ground import PROTECTED, Ground, wait
from tests.lab.rewriting import rewriting

ROUNDS = 24
LEAST_S, MOST_S = 1.0, 8.0
DIRECTORY = f"{PROTECTED[0]}/rewritten"


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """All rounds that are not done yet; durable and asynchronous by turns."""
    done: list[dict[str, Any]] = memory.setdefault("rounds", [])
    chance = random.Random(len(done))
    ground = Ground()
    try:
        ground.build()
        while len(done) < ROUNDS:
            mode = ("durable", "async")[len(done) % 2]
            told = one_round(ground, mode, chance.uniform(LEAST_S, MOST_S))
            done.append(told)
            what = f"round {len(done)}, {mode}"
            memory["findings"] += [f"{what}: {each}" for each in told["differences"]]
            if told["missing"]:
                memory["findings"].append(f"{what}: {told['missing']} blocks are missing")
            keep()
    finally:
        ground.down()


def one_round(ground: Ground, mode: str, seconds: float) -> dict[str, Any]:
    """One power cut of the active server, `seconds` after the work has begun."""
    ground.normal()
    ground.change_settings(mode=mode)
    ground.wait_whole()
    active, passive = ground.active, ground.passive
    with rewriting(ground, active, DIRECTORY) as work:
        wait(lambda: work.ready, 60, "files")
        time.sleep(seconds)
        ground.lab.power_cut(active)
    wait(lambda: ground.roles().get(passive) == "active", 30, f"promotion of {passive}")
    missing = work.missing(ground.server(passive).disk.real(DIRECTORY)) if mode == "durable" else []
    ground.lab.power_on(active)
    ground.wait_whole()
    sync = ground.ask(active, "replicator")["sync"]
    found = ground.compare()
    return {
        "mode": mode,
        "forced": len(work.lines),
        "missing": len(missing),
        "differences": found.differences,
        "entries": found.entries,
        "compared_bytes": sync.get("compared_bytes"),
        "copied_bytes": sync.get("copied_bytes"),
    }
