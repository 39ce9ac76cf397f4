"""How things are said on a terminal: errors, amounts, times.

What enters: values of the API. What leaves: text. Called by all verbs; rich is imported only by
those that draw tables.
"""

import json
import sys
from typing import Any

from everup.errors import EverupError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def print_error(error: EverupError, *, as_json: bool) -> None:
    """A sentence and a remedy on standard error, or JSON on standard output."""
    if as_json:
        print_json({"error": error.to_json()})
        return
    print(f"everup: {error.sentence}", file=sys.stderr)
    if error.remedy:
        print(f"  what to do: {error.remedy}", file=sys.stderr)


def say(text: str) -> None:
    """A line for a person, apart from results: on standard error."""
    print(text, file=sys.stderr, flush=True)


def bytes_text(count: int | float) -> str:
    """4096 -> 4.0 KiB."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def link_text(link: dict[str, Any]) -> str:
    """How fast data goes to a peer: what is written, what of it has to be sent, and the cap."""
    text = (
        f"{bytes_text(link['sent_bytes_per_s'])}/s sent for "
        f"{bytes_text(link['written_bytes_per_s'])}/s written"
    )
    if link["saving"]:
        text += f" (1 of {link['saving']:.1f} bytes sent)"
    if link["cap_bytes_per_s"]:
        text += f", capped at {bytes_text(link['cap_bytes_per_s'])}/s"
    return text


def duration_text(ms: int | float) -> str:
    """90500 -> 1 min 31 s."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = round(ms / 1000)
    if seconds < 60:
        return f"{ms / 1000:.1f} s" if ms < 10_000 else f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def amount_text(done: float, total: float | None, unit: str) -> str:
    """Progress in its own unit."""
    if unit == "bytes":
        shown, whole = bytes_text(done), bytes_text(total) if total else ""
    else:
        shown, whole = f"{done:.0f}", f"{total:.0f} {unit}" if total else ""
    return f"{shown} of {whole}" if whole else f"{shown} {unit if unit != 'bytes' else ''}".strip()
