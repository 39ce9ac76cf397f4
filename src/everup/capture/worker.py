"""The process that does the guard's work; the holder replaces it when it dies or is stuck.

What enters: descriptors of a worker before it, by the holder. What leaves: mounted trees and the
control socket. Run as `python -m everup.capture.worker` by the holder: it loads everything, then
stands by until it is the one.
"""

import os
import resource
import signal
import sys
import threading
from types import FrameType

from everup.capture import pulse
from everup.capture.control import Control
from everup.capture.guard import Guard
from everup.capture.keeping import Keeping
from everup.capture.watching import watch_behind
from everup.places import Places
from everup.system.capabilities import SYS_RESOURCE, give_up
from everup.system.kernelcalls import be_io_flusher, die_with_parent, keep_in_memory
from everup.wire.local import LocalServer

STOP_GRACE_MS = 2000
SWITCH_INTERVAL_S = 0.0005
PRIORITY = -10


def _prepare() -> None:
    """What the process needs before it may stand between applications and their files."""
    die_with_parent()
    if os.getppid() == 1:
        raise SystemExit("everup-guard: the holder is gone")
    os.umask(0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    be_io_flusher()
    keep_in_memory()
    # With it every write would pass over the disk quota of the file's owner.
    give_up(SYS_RESOURCE)
    # Handlers are short; a thread that computes must not keep the others from /dev/fuse for 5 ms.
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def _hurry() -> None:
    try:
        # Every request of an application waits for this process. Transactions of a database on a
        # busy machine, three runs each: 22 % more, 27 % more, 9 % fewer.
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    except OSError:
        pass


def main() -> int:
    """Until SIGTERM, which closes an open gate; returns the exit code."""
    _prepare()
    keeping = Keeping()
    keeping.stand_by()
    _hurry()
    places = Places.real()
    places.make()
    guard = Guard(places, keeping)
    stop = threading.Event()

    def on_term(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if keeping.page >= 0:
        pulse.start(keeping.page, guard.in_work)
    guard.start()
    server = LocalServer(places.guard_socket, Control(guard).handle)
    server.start()
    watch_behind(guard.memory)
    keeping.ready()
    stop.wait()
    server.stop()
    guard.close(STOP_GRACE_MS)
    guard.order.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
