"""What a run leaves: build/bench.json, and the page with its table and picture.

What enters: rows as dictionaries. What leaves: a file into which runs of some rows are merged, so
that a whole page can come from several runs; every row carries its own date. The page's lower part
is written by hand and kept.
"""

import html
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "build/bench.json"
PAGE = ROOT / "docs/operating/performance.md"
PICTURE = ROOT / "docs/pictures/performance.svg"
END = "<!-- end of what make bench writes -->"
HEAD = """# Performance

Written by `make bench` down to the marked line. A ratio is our throughput divided by that of the
same work on the lower file system in the same round, both in turn; medians with spread. CPU is
that of all rounds on our side; memory is what stood there at the end of the row. `capture`: guard
and journal, no peer. `async`, `durable`: a live passive server on the same cores and the same disk.
"""
MEBI = 1 << 20
_BAR = 9
_STEP = 18
_LEFT, _WIDTH = 190, 460

Rows = list[dict[str, Any]]


def load() -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(REPORT.read_text())
    except (FileNotFoundError, ValueError):
        value = {}
    return {"machine": value.get("machine", {}), "rows": value.get("rows", [])}


def save(machine: dict[str, Any], new: Rows, order: list[str]) -> dict[str, Any]:
    """Merge rows into the report by id, in the order of the table; others keep their place."""
    rows = {row["id"]: row for row in load()["rows"]} | {row["id"]: row for row in new}
    known = [rows.pop(id_) for id_ in order if id_ in rows]
    report = {"machine": machine, "rows": known + list(rows.values())}
    REPORT.parent.mkdir(exist_ok=True)
    beside = REPORT.with_suffix(".new")
    beside.write_text(json.dumps(report, indent=1))
    beside.replace(REPORT)
    return report


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "bytes":
        return f"{value / MEBI:.0f} MiB"
    return f"{value:.3g}" if unit == "ratio" else f"{value:.3g} {unit}"


def _line(row: dict[str, Any]) -> str:
    unit = row["unit"]
    figures = [_number(row[name], unit) for name in ("median", "min", "max", "asked", "aim")]
    usage = [
        f"{row['guard_cpu_seconds']:.1f}", f"{row['replicator_cpu_seconds']:.1f}",
        f"{row['guard_rss'] / MEBI:.0f}", f"{row['replicator_rss'] / MEBI:.0f}",
    ]  # fmt: skip
    baseline = f"{row['baseline']:.4g}" if row["baseline"] else ""
    cells = (row["id"], *figures, baseline, *usage, row["date"], row["note"])
    return "| " + " | ".join(cells) + " |"


def write_page(report: dict[str, Any]) -> None:
    """The table and its picture; what stands below the mark stays."""
    below = ""
    if PAGE.exists() and END in PAGE.read_text():
        below = PAGE.read_text().split(END, 1)[1]
    machine = report["machine"]
    columns = (
        "row | median | min | max | asked | aim | baseline | guard CPU s | replicators CPU s "
        "| guard MiB | replicator MiB | measured | note"
    )
    rows = [row for row in report["rows"] if "guard_cpu_seconds" in row]
    lines = [
        HEAD,
        f"Machine: {machine['cores']} cores, {machine['memory_bytes'] / (1 << 30):.0f} GiB, "
        f"Linux {machine['kernel']}, {machine['file_system']}.",
        "",
        f"| {columns} |",
        "|" + "---|" * (columns.count("|") + 1),
        *map(_line, rows),
        "",
        "![Ratios with their spread](../pictures/performance.svg)",
        "",
        END,
    ]
    PAGE.write_text("\n".join(lines) + (below or "\n"))
    PICTURE.write_text(picture([row for row in rows if row["unit"] == "ratio"]))


def picture(rows: Rows) -> str:
    """A bar for each ratio with its spread, and a mark where it was asked to be."""
    height = _STEP * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 60}" '
        f'height="{height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for tenth in range(0, 11, 2):
        x = _LEFT + _WIDTH * tenth / 10
        parts.append(f'<line x1="{x}" y1="20" x2="{x}" y2="{height - 14}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="14" text-anchor="middle">{tenth / 10:.1f}</text>')
    for number, row in enumerate(rows):
        parts += _bar(row, 26 + number * _STEP)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(row: dict[str, Any], top: int) -> list[str]:
    def x(value: float) -> float:
        return round(_LEFT + _WIDTH * min(value, 1.1), 1)

    middle = top + _BAR / 2
    good = min if row.get("smaller") else max
    reached = row["asked"] is None or good(row["median"], row["asked"]) == row["median"]
    colour = "#3b7a57" if reached else "#b5482a"
    parts = [
        f'<text x="{_LEFT - 6}" y="{top + _BAR}" text-anchor="end">{html.escape(row["id"])}</text>',
        f'<rect x="{_LEFT}" y="{top}" width="{x(row["median"]) - _LEFT:.1f}" height="{_BAR}" '
        f'fill="{colour}"/>',
        f'<line x1="{x(row["min"])}" y1="{middle}" x2="{x(row["max"])}" y2="{middle}" '
        f'stroke="#222"/>',
        f'<text x="{x(max(row["max"], row["asked"] or 0)) + 5}" y="{top + _BAR}">'
        f"{row['median']:.2f}</text>",
    ]
    if row["asked"] is not None:
        at = x(row["asked"])
        parts.append(
            f'<line x1="{at}" y1="{top - 3}" x2="{at}" y2="{top + _BAR + 3}" stroke="#000" '
            f'stroke-width="2"/>'
        )
    return parts
