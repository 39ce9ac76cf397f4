"""Five minutes of stress-ng's file system class on a mount, with verification.

What enters: nothing. What leaves: findings (stressors that pass on the lower file system and not on
the mount, a worker that died, a journal that does not give the same tree), and what ran.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fuse"))

from guarding import GuardProcess
from stressing import findings, run_stress, stressors

BELOW_S = 60
MOUNT_S = 300


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """Both sides, then the comparison."""
    with tempfile.TemporaryDirectory(prefix="soak-stress-") as place:
        base = Path(place)
        guard = GuardProcess(base)
        native = base / "native"
        native.mkdir()
        names = stressors()
        below = run_stress(native, names, BELOW_S)
        memory["below"] = sorted(below.passed)
        keep()
        try:
            guard.start()
            guard.arm()
            guard.open()
            mounted = run_stress(guard.tree, names, MOUNT_S)
            memory["mounted"] = sorted(mounted.passed)
            memory["findings"] += findings(below, mounted)
            keep()
            memory["findings"] += _of_the_guard(guard)
        finally:
            guard.stop()
        keep()


def _of_the_guard(guard: GuardProcess) -> list[str]:
    found = []
    if restarts := guard.call("status")["worker"]["restarts"]:
        found.append(f"the worker died {restarts} times")
    if "Traceback" in guard.log.read_text():
        found.append(f"the guard had mistakes: {guard.log.read_text()[-2000:]}")
    try:
        guard.compare()
    except AssertionError as difference:
        found.append(f"the journal does not give the lower tree: {difference}")
    return found
