"""Hot restart in full: the worker dies at every step of every operation, with re-send and without
it, and its memory is measured over ten million changes.

What enters: nothing. What leaves: findings, pauses of the applications, sizes in bytes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
FILES, CHANGES = 1_000_000, 10_000_000
RESIDENT_MAX = 300 << 20
GROWTH_MAX = 1.03
"""From the first tenth of the changes to the last: it is flat."""
STEPS_S = 1500
MEMORY_S = 900


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """Both halves; each is done once."""
    for name, half in (("steps", _steps), ("memory", _memory)):
        if name not in memory:
            memory[name] = half(memory["findings"])
            keep()


def _steps(findings: list[str]) -> list[str]:
    words = [sys.executable, "-m", "pytest", "-s", "--timeout", "900"]
    ended = subprocess.run(
        [*words, "tests/fuse/test_fuse_killsteps.py"], cwd=PROJECT, text=True, capture_output=True,
        timeout=STEPS_S, check=False, env={**os.environ, "EVERUP_LONGER": "2"},
    )  # fmt: skip
    lines = [line for line in ended.stdout.splitlines() if "over a worker's death" in line]
    if ended.returncode:
        findings.append(f"a worker's death was noticed: {ended.stdout[-2000:]}")
    return lines


def _memory(findings: list[str]) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "tests.soak.nodememory", str(FILES), str(CHANGES)]
    ended = subprocess.run(
        words, cwd=PROJECT, text=True, capture_output=True, timeout=MEMORY_S, check=True
    )
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    sizes = [line["resident"] for line in told if line["state"] == "changing"]
    if max(sizes) > RESIDENT_MAX:
        findings.append(f"{FILES} files take {max(sizes) >> 20} MiB")
    if sizes[-1] > sizes[0] * GROWTH_MAX:
        findings.append(f"memory grew over {CHANGES} changes: {sizes}")
    return told
