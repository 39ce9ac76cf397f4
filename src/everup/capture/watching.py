"""Keep a tripwire running beside the worker.

What enters: nothing. What leaves: a process that is started again when it ends. Called by the
worker, in a thread of its own: the kernel ends the tripwire with the thread that started it.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

from everup.capture.behind import STARTING, Behind

TRIPWIRE_MODULE = "everup.capture.tripwire"
AGAIN_S = 1.0
AGAIN_BLIND_S = 60.0


def watch_behind(memory: Path) -> None:
    """Start it and return; nothing is watched before its state in `memory` says so."""
    _say_starting(memory)
    threading.Thread(target=_keep_running, args=(memory,), name="tripwire", daemon=True).start()


def _say_starting(memory: Path) -> None:
    behind = Behind(memory)
    behind.state(STARTING, "")
    behind.keep()


def _keep_running(memory: Path) -> None:
    while True:
        try:
            code = subprocess.Popen([sys.executable, "-m", TRIPWIRE_MODULE]).wait()
        except OSError as error:
            print(f"everup-guard: the tripwire: {error}", file=sys.stderr, flush=True)
            code = 1
        if code < 0:
            _say_starting(memory)
        time.sleep(AGAIN_S if code < 0 else AGAIN_BLIND_S)
