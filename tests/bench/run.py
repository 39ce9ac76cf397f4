"""`make bench`: run the rows interleaved, write build/bench.json and the page with the figures.

What enters: a glob of row ids. What leaves: medians with their spread, as ratios to the lower file
system in the same run.
"""

import argparse
import fnmatch
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.guarded import Guarded
from tests.bench.rows import ROWS, Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/operating/performance.md"


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cores": os.cpu_count(), "memory_bytes": memory, "kernel": platform.release()}


def measure(row: Row, pair: Guarded) -> dict[str, Any]:
    """Plain and guarded in turn, so that a drift of the machine meets both."""
    ratios, plain = [], []
    cpu = pair.cpu_seconds()
    for _ in range(row.runs):
        baseline = row.work(pair.plain)
        ratios.append(row.work(pair.guarded) / baseline)
        plain.append(baseline)
    return {
        "id": row.id,
        "unit": "ratio",
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "n": row.runs,
        "baseline": round(statistics.median(plain), 1),
        "asked": row.asked,
        "aim": row.aim,
        "guard_cpu_seconds": round(pair.cpu_seconds() - cpu, 2),
        "note": row.note,
    }


def write_page(report: dict[str, Any]) -> None:
    lines = [
        "# Performance",
        "",
        "Written by `make bench`. A ratio is our throughput divided by that of the same work on",
        "the lower file system in the same run, plain and guarded in turn; medians with spread.",
        "",
        f"Machine: {report['machine']['cores']} cores, Linux {report['machine']['kernel']}.",
        "",
        "| row | median | min | max | asked | guard CPU (s) | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['id']} | {row['median']} | {row['min']} | {row['max']} | {row['asked']} "
            f"| {row['guard_cpu_seconds']} | {row['note']} |"
        )
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="*")
    chosen = [row for row in ROWS if fnmatch.fnmatch(row.id, parser.parse_args().rows)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="everup-bench-", dir="/var/tmp") as base:
        Path(base).chmod(0o755)
        with Guarded(Path(base)) as pair:
            for row in chosen:
                result = measure(row, pair)
                rows.append(result)
                print(f"{row.id:24} {result['median']:6} asked {row.asked}", flush=True)
    report = {"machine": machine(), "rows": rows}
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build/bench.json").write_text(json.dumps(report, indent=1))
    if len(chosen) == len(ROWS):
        write_page(report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
