"""`make check`: format, lint, types, layers, tidy, unit tests and scenarios, in under a minute.

What enters: the working tree. What leaves: one line per step, and the exit code. Steps that do not
need each other run at the same time.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BIN = Path(sys.executable).parent
TESTED = ("tests/unit", "tests/scenarios", "tests/tidy")
STEPS: list[tuple[str, list[str]]] = [
    ("types", [str(BIN / "mypy")]),
    ("tests", [sys.executable, "-m", "pytest", "-n", str(os.cpu_count()), *TESTED]),
    ("format", [str(BIN / "ruff"), "format", "--check", "-q", "src", "tests", "tools"]),
    ("lint", [str(BIN / "ruff"), "check", "-q", "src", "tests", "tools"]),
    ("layers", [str(BIN / "lint-imports"), "--no-logo"]),
]


def run(step: tuple[str, list[str]]) -> tuple[str, bool, str, float]:
    name, command = step
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return name, done.returncode == 0, done.stdout + done.stderr, time.monotonic() - begin


def main() -> int:
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for name, good, output, seconds in pool.map(run, STEPS):
            print(f"{'ok  ' if good else 'FAIL'}  {name:8} {seconds:5.1f} s", flush=True)
            if not good:
                failed += 1
                print(output)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
