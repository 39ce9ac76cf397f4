"""`make bench`: run the rows, all sides in turn, and write build/bench.json and the page.

What enters: a glob of row ids. What leaves: medians with their spread. Rows that were measured
before stay in the report, so a whole page can come from several runs.
"""

import argparse
import fnmatch
import os
import platform
import statistics
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import benchreport as report
from tests.bench.benchscale import FilledSite
from tests.bench.experiment import BASELINE, OURS, Experiment, Figures, Group, Row
from tests.bench.far import LargeSite, SmallSite
from tests.bench.farsite import FarSite
from tests.bench.rows import GROUPS
from tests.bench.site import PairSite, Site, Usage

from everup.system.mounts import mount_points

PLACE = Path("/var/tmp")
_DIGITS = 4
SITES: tuple[tuple[type[Site], tuple[str, ...]], ...] = (
    (Site, ("capture",)),
    (PairSite, ("async", "durable")),
    (FilledSite, ("scale",)),
    (FarSite, ("far",)),
    (LargeSite, ("far-large",)),
    (SmallSite, ("far-small",)),
)


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    below = [point for point in mount_points() if PLACE.is_relative_to(point.path)]
    kind = max(below, key=lambda point: len(point.path.parts)).kind
    return {
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "file_system": kind,
    }


def rounds(group: Group, site: Site, experiment: Experiment) -> Iterator[tuple[str, Figures]]:
    """Every side in turn, so that a drift of the machine meets all of them."""
    for _ in range(group.runs):
        for side in experiment.sides:
            yield side, experiment.run(side)
            site.settle()


def measure(group: Group, site: Site) -> list[dict[str, Any]]:
    """All rows of a group."""
    if isinstance(site, PairSite):
        site.make_durable(group.mode == "durable")
    experiment = group.make(site)
    figures: dict[str, list[Figures]] = {}
    used = Usage(0.0, 0.0, 0, 0)
    try:
        before = site.usage()
        for side, found in rounds(group, site, experiment):
            figures.setdefault(side, []).append(found)
            after = site.usage()
            if side == OURS:
                spent = after.since(before)
                used = Usage(used[0] + spent[0], used[1] + spent[1], spent[2], spent[3])
            before = after
    finally:
        experiment.close()
        site.settle()
    return [result(row, figures, used, group.runs) for row in group.rows]


def result(row: Row, figures: dict[str, list[Figures]], used: Usage, runs: int) -> dict[str, Any]:
    values = [found[row.figure] for found in figures[row.side]]
    medians = {
        name: statistics.median(found[name] for found in figures[row.side])
        for name in figures[row.side][0]
    }
    plain = [found[row.figure] for found in figures.get(BASELINE, [])]
    if row.unit == "ratio":
        values = [value / base for value, base in zip(values, plain, strict=True)]
    digits = None if row.unit == "bytes" else _DIGITS
    return {
        "id": row.id,
        "unit": row.unit,
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "n": runs,
        "baseline": round(statistics.median(plain), 1) if plain else None,
        "asked": row.asked,
        "aim": row.aim,
        "guard_cpu_seconds": round(used.guard_cpu_seconds, 2),
        "replicator_cpu_seconds": round(used.replicator_cpu_seconds, 2),
        "guard_rss": used.guard_rss,
        "replicator_rss": used.replicator_rss,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "smaller": row.smaller,
        "note": row.note.format_map(medians),
    }


def run_groups(groups: list[Group], kind: type[Site]) -> int:
    """Measure on one site; a group that fails is told and does not stop the others."""
    failed = 0
    order = [row.id for group in GROUPS for row in group.rows]
    with (
        tempfile.TemporaryDirectory(prefix="everup-bench-", dir=PLACE) as base,
        kind(Path(base)) as site,
    ):
        for group in groups:
            try:
                rows = measure(group, site)
            except Exception:
                failed += 1
                print(f"{group.rows[0].id}: failed", flush=True)
                traceback.print_exc()
                continue
            report.save(machine(), rows, order)
            for row in rows:
                asked = f"asked {row['asked']:g}" if row["asked"] else ""
                print(f"{row['id']:24} {row['median']:12g} {row['unit']:5} {asked}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="*")
    glob = parser.parse_args().rows
    chosen = [group for group in GROUPS if any(fnmatch.fnmatch(row.id, glob) for row in group.rows)]
    if not chosen:
        parser.error(f"no row is called {glob!r}")
    failed = 0
    for kind, modes in SITES:
        groups = [group for group in chosen if group.mode in modes]
        if groups:
            failed += run_groups(groups, kind)
    written = report.load()
    missing = {row.id for group in GROUPS for row in group.rows}
    missing -= {row["id"] for row in written["rows"]}
    if missing:
        print(f"the page is not written: {len(missing)} rows were never measured")
    else:
        report.write_page(written)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
