"""Start the keeper's process: settings, memory, priority, control socket, signals, loop.

What enters: the places of this server and its public address. What leaves: an exit code. Called by
the mains of keeper and witness.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

from everup.errors import EverupError
from everup.keeper.control import Control
from everup.keeper.public import PublicDoor
from everup.keeper.scheduling import settle
from everup.keeper.service import Service, log
from everup.keeper.settings import KeeperSettings, read_settings
from everup.places import Places
from everup.system.notify import notify
from everup.wire.local import LocalServer

REFUSED_S = 2


def serve(
    places: Places, make_door: Callable[[KeeperSettings], PublicDoor], scheduling: str
) -> int:
    """Run until SIGTERM. 0, or 1 with a sentence on stderr."""
    try:
        places.make()
        settings = read_settings(places)
        settle()
        service = Service(places, settings, make_door(settings), scheduling)
        service.open()
    except (EverupError, OSError) as error:
        remedy = error.remedy if isinstance(error, EverupError) else ""
        print(f"the keeper cannot start: {error}\n{remedy}", file=sys.stderr, flush=True)
        # It is started again at once after a crash; what a person has to mend may wait.
        time.sleep(REFUSED_S)
        return 1
    server = LocalServer(places.keeper_socket, Control(service).handle)
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    signal.signal(signal.SIGINT, lambda *_: service.stop())
    signal.signal(signal.SIGHUP, lambda *_: service.mailbox.put(lambda: _reload(service)))
    log(f"keeper of {settings.server} runs as {service.keeper.desk.run:#x}, pid {os.getpid()}")
    notify("READY=1")
    service.run()
    server.stop()
    return 0


def _reload(service: Service) -> None:
    try:
        service.reload()
    except (EverupError, OSError) as error:
        log(f"the settings were not read again: {error}")
