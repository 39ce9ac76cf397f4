"""Everything that the agent of one server is made of, put together in one place.

What enters: places and membership. What leaves: `Parts`. Called by the service, and by tests with
another Systemd. Nothing is started here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everup import __version__
from everup.act.executor import Executor
from everup.act.tools import Tools
from everup.agent.event_log import EventLog
from everup.agent.jobs import Jobs
from everup.agent.loop import ControlLoop
from everup.agent.membership.membership import Membership
from everup.agent.recorder import Recorder
from everup.agent.state_store import StateStore
from everup.applications.services import Manager, Services, UnitWatch
from everup.observe.world import World
from everup.places import Places
from everup.system.clock import boot_id
from everup.wire.control import ControlClient

UNIT_DIRECTORY = Path("/etc/systemd/system")


@dataclass(frozen=True)
class Parts:
    places: Places
    membership: Membership
    keeper: ControlClient
    guard: ControlClient
    replicator: ControlClient
    services: Services
    watch: UnitWatch
    world: World
    executor: Executor
    events: EventLog
    jobs: Jobs
    loop: ControlLoop
    extra_facts: dict[str, Any]


def assemble(
    places: Places,
    membership: Membership,
    systemd: Manager,
    unit_directory: Path = UNIT_DIRECTORY,
) -> Parts:
    """Build the agent's parts. Raises Corrupt when the stored state cannot be read."""
    boot = boot_id()
    server = membership.name

    def settings() -> Any:
        return membership.settings.current

    keeper = ControlClient(places.keeper_socket)
    guard = ControlClient(places.guard_socket)
    replicator = ControlClient(places.replicator_socket)
    services = Services(systemd, unit_directory, places.active_flag)
    watch = UnitWatch(services, lambda: loop.wake())
    world = World(
        server,
        boot,
        keeper=keeper,
        guard=guard,
        replicator=replicator,
        units=watch,
        page=places.lease_page,
        flag=places.active_flag,
        settings=settings,
    )
    tools = Tools(
        server,
        boot.hex(),
        keeper,
        guard,
        replicator,
        services,
        places.active_flag,
        places.tree,
        settings,
    )
    executor = Executor(tools, lambda: loop.wake())
    events = EventLog(places.state / "events.jsonl", server)
    extra = {"version": __version__}
    loop = ControlLoop(
        world,
        executor,
        StateStore(places.state / "agent.json"),
        events,
        Recorder(places.state / "recorder"),
        keeper,
        extra,
    )
    return Parts(
        places,
        membership,
        keeper,
        guard,
        replicator,
        services,
        watch,
        world,
        executor,
        events,
        Jobs(),
        loop,
        extra,
    )
