"""All mutants of the data path, each against the test that it names.

What enters: which of them an earlier run has done. What leaves: findings, and how each one ended.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
SECONDS_MAX = 2400


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """One run of pytest: its mutants are tried two at a time."""
    command = [sys.executable, "-m", "pytest", "tests/mutants", "--verbose"]
    ended = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=SECONDS_MAX
    )
    lines = [line for line in ended.stdout.splitlines() if "::" in line]
    memory["noticed"] = sum(1 for line in lines if "is_noticed" in line and "PASSED" in line)
    memory["findings"] = [line.strip() for line in lines if line.startswith(("FAILED", "ERROR"))]
    if ended.returncode and not memory["findings"]:
        memory["findings"] = [f"pytest ended with {ended.returncode}: {ended.stdout[-2000:]}"]
    keep()
