"""The proof of prefixes in its long form: every fsync boundary of PostgreSQL and of MariaDB.

What enters: nothing. What leaves: a finding when a test fails, with its last words.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
TEST = "tests/fuse/test_fuse_prefix.py"
LONGEST_S = 40 * 60
LAST_CHARACTERS = 2000


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """The whole file of tests, with every boundary instead of a choice."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", TEST, "-q", "--timeout", str(LONGEST_S)],
        cwd=PROJECT,
        env={**os.environ, "EVERUP_LONGER": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    memory["said"] = done.stdout[-LAST_CHARACTERS:]
    if done.returncode != 0:
        memory["findings"].append(f"{TEST} ended with {done.returncode}: {memory['said']}")
    keep()
