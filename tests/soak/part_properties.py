"""The property tests and the fuzz tests with many times as many examples as in `make test`.

What enters: the files that an earlier run has done. What leaves: findings with the blob or seed to
repeat them, and the seconds of each file.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
LONGER = "20"
SECONDS_MAX = 900


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """Each file by itself, so that one which finds something does not hide the others."""
    done: dict[str, float] = memory.setdefault("files", {})
    found = sorted((PROJECT / "tests").glob("*/test_property_*.py"))
    found += sorted((PROJECT / "tests").glob("*/test_fuzz_*.py"))
    for path in found:
        name = str(path.relative_to(PROJECT))
        if name in done:
            continue
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", name, f"--timeout={SECONDS_MAX}"], cwd=PROJECT,
            env={**os.environ, "EVERUP_LONGER": LONGER}, capture_output=True, text=True,
            timeout=2 * SECONDS_MAX,
        )  # fmt: skip
        if ended.returncode:
            memory["findings"].append(f"{name}: {ended.stdout[-4000:]}")
        done[name] = round(time.monotonic() - began, 1)
        keep()
