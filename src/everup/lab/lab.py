"""The lab as one thing: up, down, and everything that can happen to its servers and cables.

What enters: the lab's name and verbs. What leaves: whole servers. Called by `everup lab`, the demo
and the tests; several processes may work on the same lab.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from everup.errors import BadInput, Refused
from everup.lab.base import Base
from everup.lab.layer import LayerBuilder
from everup.lab.layout import DATA_SERVERS, SERVERS, Link, server_plan
from everup.lab.preflight import missing_for, missing_things, require
from everup.lab.root import LAYER
from everup.lab.server import Server
from everup.lab.wheels import Wheels
from everup.lab.wiring import CableState, Wiring

DEFAULT_SERVERS = ("primary", "secondary", "witness")


@dataclass(frozen=True)
class ServerStatus:
    """One line of `everup lab status`."""

    name: str
    power: bool
    frozen: bool
    addresses: dict[str, str]
    cables: dict[str, str]


class Lab:
    """A lab by name, whether it runs or not."""

    def __init__(self, name: str = "lab") -> None:
        self.base = Base(name)
        self.name = name
        self.wiring = Wiring(self.base)
        self._servers: dict[str, Server] = {}

    @property
    def running(self) -> bool:
        return self.base.running

    @property
    def directory(self) -> Path:
        """The lab's directory on the host: images, consoles, journals, logs of programs."""
        return self.base.directory

    @property
    def server_names(self) -> list[str]:
        """The servers that this lab has, with or without power."""
        images = self.base.directory / "images"
        return [name for name in SERVERS if (images / f"{name}.img").exists()]

    def server(self, name: str) -> Server:
        """The server called `name`; a LabError comes from its use when it does not exist."""
        if name not in self._servers:
            self._servers[name] = Server(self.base, self.wiring, server_plan(name))
        return self._servers[name]

    def up(
        self,
        servers: list[str] | tuple[str, ...] = DEFAULT_SERVERS,
        *,
        file_system: str | Mapping[str, str] = "ext4",
        services: Mapping[str, tuple[str, ...]] | None = None,
        wheels: Wheels | None = None,
        timeout_s: float = 90.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make the networks and the servers, and boot them all.

        `file_system`: of every disk, or by server name. `services`: units to start at boot, by
        server. `wheels`: what is installed on every server; nothing without. `say` hears what
        begins now.
        """
        for name in servers:
            server_plan(name)
        require([*missing_things(), *missing_for(servers)])
        with self.base.locked():
            if self.base.exists:
                raise Refused(
                    f"There is a lab called {self.name} already.",
                    remedy=f"everup lab down --name {self.name}, or choose another --name.",
                )
            say("namespaces and bridges")
            self.base.start()
            if wheels is not None:
                say("the layer that pip installs (from the cache when nothing has changed)")
                self._mount_layer(LayerBuilder(self.base, wheels).image())
            self.wiring.build()
            say(f"disks and roots of {', '.join(servers)}")
            for name in servers:
                kind = (
                    file_system if isinstance(file_system, str) else file_system.get(name, "ext4")
                )
                self.server(name).create(kind, (services or {}).get(name, ()))
            say(f"booting {len(servers)} servers")
            self._boot(list(servers), timeout_s)

    def _mount_layer(self, layer: Path) -> None:
        self.base.path(LAYER).mkdir()
        self.base.run(["mount", "-o", "loop,ro,noload", str(layer), LAYER])

    def _boot(self, servers: list[str], timeout_s: float) -> None:
        for name in servers:
            self.server(name).power_on(wait=False)
        for name in servers:
            self.server(name).wait_until_up(timeout_s)

    def down(self) -> None:
        """Remove everything of this lab, whatever state it is in. Safe to repeat."""
        with self.base.locked():
            self.base.remove()
            self._servers.clear()

    def power_cut(self, *names: str) -> None:
        """Cut the power of these servers, one right after the other."""
        with self.base.locked():
            for name in names:
                self._existing(name).power_cut()

    def power_on(self, name: str, *, wait: bool = True, timeout_s: float = 60.0) -> None:
        with self.base.locked():
            self._existing(name).power_on(wait=wait, timeout_s=timeout_s)

    def freeze(self, name: str) -> None:
        self._powered(name).freeze()

    def thaw(self, name: str) -> None:
        self._powered(name).thaw()

    def cut(self, link: str, one_way: str = "") -> None:
        """Cut a link (`[SERVER:]NETWORK`); `one_way` is `in` or `out`, seen from the server."""
        if one_way not in ("", "in", "out"):
            raise BadInput(f"A cable can be cut one way 'in' or 'out', not {one_way!r}.")
        for plan, network in Link.parse(link).cables(self.server_names):
            self.wiring.cut(plan, network, one_way)

    def heal(self, link: str) -> None:
        """Make the link whole and fast again."""
        for plan, network in Link.parse(link).cables(self.server_names):
            self.wiring.heal(plan, network)

    def slow(self, link: str, *, rate_bits_per_s: int = 0, delay_ms: float = 0.0) -> None:
        """Limit the rate and add a delay to each direction of the link's cables."""
        for plan, network in Link.parse(link).cables(self.server_names):
            self.wiring.slow(plan, network, rate_bits_per_s, delay_ms)

    def status(self) -> list[ServerStatus]:
        """How every server and its cables stand."""
        states = self.wiring.states()
        lines = []
        for name in self.server_names:
            server, plan = self.server(name), server_plan(name)
            cables = {}
            for network in plan.hosts:
                state = states.get(plan.cable(network))
                cables[network] = _cable_word(state) if state else "whole"
            addresses = {network: plan.address(network) for network in plan.hosts}
            lines.append(ServerStatus(name, server.powered, server.frozen, addresses, cables))
        return lines

    @property
    def data_servers(self) -> list[str]:
        return [name for name in self.server_names if name in DATA_SERVERS]

    def _existing(self, name: str) -> Server:
        server_plan(name)
        if name not in self.server_names:
            raise Refused(f"The lab {self.name} has no server called {name}.")
        return self.server(name)

    def _powered(self, name: str) -> Server:
        server = self._existing(name)
        _ = server.leader
        return server


def _cable_word(state: CableState) -> str:
    if state.cut:
        return "cut"
    words = [f"cut {state.muted}"] if state.muted else []
    if state.rate_bits_per_s:
        words.append(f"{state.rate_bits_per_s / 1e6:g} Mbit/s")
    if state.delay_ms:
        words.append(f"+{state.delay_ms:g} ms")
    return ", ".join(words) or "whole"
