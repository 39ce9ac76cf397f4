"""The agent's process: the control loop and its service to everybody else.

What enters: settings, and signals of systemd. What leaves: a server that keeps its part in the
group. Unit: everup-agent. It may be restarted at any time: keeper, guard and replicator go on.
"""

import asyncio
import logging
import signal

from everup.agent.membership.membership import Membership
from everup.agent.service import Everup
from everup.api.server import ApiServer
from everup.errors import EverupError
from everup.places import Places
from everup.system.notify import notify


async def serve(places: Places) -> None:
    """Until SIGTERM."""
    agents: list[Everup] = []
    membership = Membership(places, lambda: agents[0].active_server() if agents else None)
    agent = Everup(places, membership)
    agents.append(agent)
    api = ApiServer(agent, membership)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    await agent.start()
    await api.start()
    spreading = asyncio.create_task(membership.keep_spread(), name="spread settings")
    notify("READY=1")
    await done.wait()
    notify("STOPPING=1")
    spreading.cancel()
    await api.stop()
    await agent.stop()
    await membership.close()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    places = Places.real()
    places.make()
    try:
        asyncio.run(serve(places))
    except EverupError as error:
        raise SystemExit(f"{error.sentence}\n  what to do: {error.remedy}") from error


if __name__ == "__main__":
    main()
