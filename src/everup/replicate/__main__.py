"""`python -m everup.replicate`: the replicator process of a server.

What enters: settings, verbs on replicator.sock, SIGTERM and SIGHUP. What leaves: replication. Run
by everup-replicator.service; may be killed at any moment and goes on from durable positions.
"""

import argparse
import os
import resource
import signal
import sys

from everup.config.load import load_group, load_server
from everup.errors import EverupError
from everup.places import PEER_STREAM_PORT, Places
from everup.replicate.context import Context
from everup.replicate.process import Replicator
from everup.system.notify import notify
from everup.wire.local import LocalServer

OPEN_FILES = 16384
SWITCH_SECONDS = 0.0005
"""A thread that has a batch to acknowledge must not wait 5 ms for one that applies."""


def main() -> int:
    """Runs until SIGTERM; exit code 1 when it cannot start."""
    options = _options()
    places = Places.real()
    try:
        server = load_server(places.server_settings)
        context = Context(places, server.name, load_group(places.group_settings))
    except EverupError as problem:
        print(f"{problem.sentence}\n{problem.remedy}", file=sys.stderr)
        return 1
    places.make()
    _prepare()
    replicator = Replicator(context, options.listen, options.port)
    control = LocalServer(places.replicator_socket, replicator.handle)
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    control.start()
    notify("READY=1")
    while signal.sigwait(signals) == signal.SIGHUP:
        try:
            replicator.handle("reload", {})
        except EverupError as problem:
            print(f"settings not taken: {problem.sentence}", file=sys.stderr, flush=True)
    notify("STOPPING=1")
    control.stop()
    replicator.close()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="everup.replicate", description=__doc__)
    parser.add_argument("--listen", default="", help="address to listen on (default: all)")
    parser.add_argument("--port", type=int, default=PEER_STREAM_PORT)
    return parser.parse_args()


def _prepare() -> None:
    """Limits of this process; modes of new files are set exactly, so no umask."""
    os.umask(0)
    sys.setswitchinterval(SWITCH_SECONDS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
