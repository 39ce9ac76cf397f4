"""The long proofs: `make soak [PART=name]`.

What enters: names of parts, or none for all. What leaves: build/soak.json, `{parts: {name: {state,
ok, findings, seconds, began, ended, ...}}, ok}`, written anew after every step of a part. A part
that was broken off goes on where it stood; one that ended begins anew. Each takes at most 40
minutes. A further part is a file `part_NAME.py` beside this one with `run(memory, keep)`: `memory`
is what the part wrote when it was broken off (empty at first), `keep()` stores it; it fills in
`findings`, a list of sentences, and returns when it is through.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
RESULT = PROJECT / "build/soak.json"

Memory = dict[str, Any]


def known_parts() -> list[str]:
    """Every part by name."""
    files = sorted(Path(__file__).parent.glob("part_*.py"))
    return [file.stem.removeprefix("part_") for file in files]


def load_result() -> dict[str, Memory]:
    """What earlier runs have left."""
    return json.loads(RESULT.read_text())["parts"] if RESULT.exists() else {}


def save_result(parts: dict[str, Memory]) -> None:
    """The whole file at once."""
    ok = bool(parts) and all(memory.get("ok", False) for memory in parts.values())
    RESULT.parent.mkdir(exist_ok=True)
    temporary = RESULT.with_suffix(".new")
    temporary.write_text(json.dumps({"parts": parts, "ok": ok}, indent=1) + "\n")
    temporary.rename(RESULT)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_part(name: str, parts: dict[str, Memory]) -> bool:
    """Run one part, or the rest of it; True without findings."""
    memory = parts.get(name, {})
    if memory.get("state") != "broken off":
        memory = {"began": now(), "seconds": 0.0, "findings": []}
    parts[name] = memory
    memory.update(state="broken off", ok=False)
    spent, began = memory["seconds"], time.monotonic()

    def keep() -> None:
        memory["seconds"] = round(spent + time.monotonic() - began, 1)
        save_result(parts)

    keep()
    part: Callable[[Memory, Callable[[], None]], None]
    part = importlib.import_module(f"tests.soak.part_{name}").run
    part(memory, keep)
    memory.update(state="ended", ended=now(), ok=not memory["findings"])
    keep()
    return bool(memory["ok"])


def main() -> int:
    """0 when every chosen part ended without a finding."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("part", nargs="?", choices=known_parts(), help="default: all")
    wanted = reader.parse_args().part
    parts = load_result()
    good = True
    for name in [wanted] if wanted else known_parts():
        print(f"soak: {name}", flush=True)
        good = run_part(name, parts) and good
        told = parts[name]
        print(f"soak: {name} ended after {told['seconds']:.0f} s: {len(told['findings'])} findings")
        for sentence in told["findings"]:
            print(f"  {sentence}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
