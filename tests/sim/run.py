"""`make sim`: many seeds, the mutants, and what was covered; or one seed with its whole trace.

What enters: --seeds N, or --seed S. What leaves: build/sim.json and a table; exit code 1 when a
promise was broken, a mutant passed or a group did not come back. Each seed is played twice: by the
keepers in true time that nobody knows, and by the decisions of a whole group.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from simcontrol import ControlResult, Story, all_rows, control
from simcontrolmutants import CONTROL_MUTANTS, try_control_mutant
from simmutants import MUTANTS
from simnode import SECOND
from simseeds import CHAOS_NS, one, try_mutant
from simworld import Result, World

WORKERS = 2
SEEDS_FOR_EVERY_ROW = 2000
RESULT = Path(__file__).parents[2] / "build" / "sim.json"
KINDS = (
    "partitions", "one_way", "pauses", "crashes", "restarts", "disk_faults", "slow", "loss",
    "wiped",
)  # fmt: skip


def replay(seed: int) -> int:
    result = World(seed, CHAOS_NS, trace=print).run()
    for promise, sentence in result.violations:
        print(f"VIOLATED {promise}: {sentence}")
    print(f"available again: {result.available_again}; {dict(result.covered)}")
    told = Story(seed, trace=print).run()
    print(f"decisions ({told.kind}): available again: {told.available_again}; {told.violations}")
    well = result.available_again and told.available_again
    return 0 if well and not result.violations and not told.violations else 1


def summary(
    results: list[Result], told: list[ControlResult], mutants: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    covered: Counter[str] = Counter()
    seeds_with: Counter[str] = Counter()
    fired = Counter(row for each in told for row in each.fired)
    virtual_s = sum(r.virtual_ns for r in results) / SECOND + sum(t.virtual_ms for t in told) / 1000
    for result in results:
        covered += result.covered
        seeds_with.update(kind for kind in KINDS if result.covered[kind])
    return {
        "seeds": len(results),
        "violations": [
            {"seed": result.seed, "promise": promise, "sentence": sentence}
            for result in (*results, *told)
            for promise, sentence in result.violations
        ],
        "available_again": sum(
            result.available_again and group.available_again
            for result, group in zip(results, told, strict=True)
        ),
        "coverage": {
            "virtual_hours": round(virtual_s / 3600, 2),
            **{kind: covered[kind] for kind in (*KINDS, "failovers", "switchovers", "records")},
            # Nothing in these processes reads the wall clock, so no jump of it is simulated.
            "clock_jumps": 0,
            "seeds_with": {kind: seeds_with[kind] for kind in KINDS},
            "rows_fired": {row: fired[row] for row in sorted(all_rows())},
        },
        "mutants": mutants,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    began = time.monotonic()
    with multiprocessing.Pool(WORKERS) as pool:
        mutants_running = pool.map_async(try_mutant, MUTANTS, chunksize=1)
        groups_running = pool.map_async(try_control_mutant, CONTROL_MUTANTS, chunksize=1)
        results = list(pool.imap_unordered(one, range(arguments.seeds), chunksize=10))
        told = pool.map(control, range(arguments.seeds), chunksize=10)
        mutants = {**dict(mutants_running.get()), **dict(groups_running.get())}
    results.sort(key=lambda result: result.seed)
    value = summary(results, told, mutants)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(value, indent=1) + "\n")
    return report(value, time.monotonic() - began)


def report(value: dict[str, Any], seconds: float) -> int:
    for each in value["violations"]:
        print(f"VIOLATED seed {each['seed']} {each['promise']}: {each['sentence']}")
    for name, mutant in value["mutants"].items():
        verdict = f"caught by seed {mutant['seed']}" if mutant["caught"] else "NOT CAUGHT"
        print(f"  mutant {name}: {verdict}")
    missing = value["seeds"] - value["available_again"]
    rare = [k for k, n in value["coverage"]["seeds_with"].items() if n * 20 < value["seeds"]]
    asleep = [row for row, count in value["coverage"]["rows_fired"].items() if not count]
    print(f"  rows of the table that did not fire: {', '.join(asleep) or 'none'}")
    if value["seeds"] >= SEEDS_FOR_EVERY_ROW:
        rare += asleep
    print(f"  covered: {json.dumps(value['coverage'])}")
    escaped = [name for name, mutant in value["mutants"].items() if not mutant["caught"]]
    print(
        f"{value['seeds']} seeds in {seconds:.0f} s: {len(value['violations'])} violations, "
        f"{missing} groups that did not come back, {len(escaped)} mutants not caught, "
        f"{len(rare)} kinds of fault in less than 5 % of the seeds, or rows that never fired"
    )
    return 1 if value["violations"] or missing or escaped or rare else 0


if __name__ == "__main__":
    sys.exit(main())
