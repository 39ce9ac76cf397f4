"""Bridges and cables of a lab, and what can be done to them: cut, one-way cut, heal, slow.

What enters: server plans and links. What leaves: network devices inside the lab's own network
namespace. A cut takes the carrier away on both ends, as pulling a plug does. What was done to a
cable is kept in a file, because it must outlast a power cut of the server.
"""

import fcntl
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from everup.lab import relay as relay_program
from everup.lab.base import Base
from everup.lab.cgroups import Group
from everup.lab.commands import LabError
from everup.lab.layout import NETWORKS, ServerPlan

_FIREWALL = """
table bridge lab {
    set from_server { type ifname; }
    set to_server { type ifname; }
    chain before { type filter hook prerouting priority -300; iifname @from_server drop; }
    chain after { type filter hook postrouting priority 300; oifname @to_server drop; }
}
"""
_DIRECTIONS = {"out": "from_server", "in": "to_server"}


@dataclass(frozen=True)
class CableState:
    """What was done to one cable. `muted`: `in`, `out` or nothing; rate in bit/s, 0 = unlimited."""

    cut: bool = False
    muted: str = ""
    rate_bits_per_s: int = 0
    delay_ms: float = 0.0

    @property
    def slow(self) -> bool:
        return self.rate_bits_per_s > 0 or self.delay_ms > 0


class Wiring:
    """All networks of one lab."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._file = base.directory / "cables.json"

    def build(self) -> None:
        """Make the bridges, each with an address of the lab itself."""
        commands = ["link set lo up"]
        for network in NETWORKS.values():
            commands += [
                f"link add {network.bridge} type bridge forward_delay 0 mcast_snooping 0",
                f"addr add {network.lab_address}/24 dev {network.bridge}",
                f"link set {network.bridge} up",
            ]
        self._ip(commands)
        self._base.run(["nft", "-f", "-"], stdin=_FIREWALL)

    def connect(self, plan: ServerPlan) -> None:
        """Make the server's network namespace and plug its cables in."""
        self._base.run(["ip", "netns", "add", plan.name])
        commands = []
        for name in plan.hosts:
            device, cable = NETWORKS[name].device, plan.cable(name)
            commands += [
                f"link add {cable} type veth peer name {device}"
                f" address {plan.hardware_address(name)} netns {plan.name}",
                f"link set {cable} master {NETWORKS[name].bridge}",
            ]
            if not self.state(cable).cut:
                commands.append(f"link set {cable} up")
        self._ip(commands)
        for name in plan.hosts:
            if self.state(plan.cable(name)).slow:
                self._start_relay(plan, name)

    def unplug(self, plan: ServerPlan) -> None:
        """All cables of one server down, in one step; nothing is remembered."""
        self._ip([f"link set {plan.cable(name)} down" for name in plan.hosts])

    def disconnect(self, plan: ServerPlan) -> None:
        """Forget the server's network namespace; its cables go with it."""
        for name in plan.hosts:
            self._stop_relay(plan.cable(name))
        self._base.run(["ip", "netns", "delete", plan.name], check=False)
        left = [name for name in plan.hosts if self._device_exists(plan.cable(name))]
        # The kernel takes a namespace's cables away a moment later, perhaps just now.
        self._ip([f"link delete {plan.cable(name)}" for name in left], missing_is_fine=True)

    def cut(self, plan: ServerPlan, network: str, one_way: str = "") -> None:
        """Cut the cable, or silence one direction of it (seen from the server)."""
        cable = plan.cable(network)
        if one_way:
            self._mute(cable, one_way)
            self._remember(cable, cut=False, muted=one_way)
        else:
            self._ip([f"link set {cable} down"], missing_is_fine=True)
            self._remember(cable, cut=True)

    def heal(self, plan: ServerPlan, network: str) -> None:
        """Undo every cut, mute and slowness of the cable."""
        cable = plan.cable(network)
        for direction in _DIRECTIONS:
            self._mute(cable, direction, undo=True)
        if self.state(cable).slow and self._device_exists(cable):
            self._stop_relay(cable)
            self._ip([f"link set {cable} master {NETWORKS[network].bridge}"])
        self._ip([f"link set {cable} up"], missing_is_fine=True)
        self._remember(cable, cut=False, muted="", rate_bits_per_s=0, delay_ms=0.0)

    def slow(
        self, plan: ServerPlan, network: str, rate_bits_per_s: int = 0, delay_ms: float = 0.0
    ) -> None:
        """Put a relay into the cable that lets frames through late and not too many a second."""
        cable = plan.cable(network)
        self._stop_relay(cable)
        self._remember(cable, rate_bits_per_s=rate_bits_per_s, delay_ms=delay_ms)
        if self._device_exists(cable):
            self._start_relay(plan, network)

    def state(self, cable: str) -> CableState:
        return self.states().get(cable, CableState())

    def states(self) -> dict[str, CableState]:
        """Every cable that was ever touched."""
        if not self._file.exists():
            return {}
        stored = json.loads(self._file.read_text())
        return {cable: CableState(**state) for cable, state in stored.items()}

    def _remember(self, cable: str, **changes: object) -> None:
        """One at a time: two cables may be cut in the same moment."""
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            states = {name: asdict(state) for name, state in self.states().items()}
            states[cable] = {**asdict(self.state(cable)), **changes}
            temporary = self._file.with_suffix(".new")
            temporary.write_text(json.dumps(states, indent=1))
            temporary.rename(self._file)

    def _mute(self, cable: str, direction: str, *, undo: bool = False) -> None:
        names = [_DIRECTIONS[direction]]
        devices = f"{{ {cable}, r.{cable} }}"
        lines = [f"add element bridge lab {name} {devices}" for name in names]
        if undo:
            lines += [f"delete element bridge lab {name} {devices}" for name in names]
        self._base.run(["nft", "-f", "-"], stdin="\n".join(lines) + "\n")

    def _start_relay(self, plan: ServerPlan, network: str) -> None:
        """cable <-> relay <-> s.CABLE = r.CABLE in the bridge."""
        cable, state = plan.cable(network), self.state(plan.cable(network))
        self._ip(
            [
                f"link set {cable} nomaster",
                f"link add r.{cable} type veth peer name s.{cable}",
                f"link set r.{cable} master {NETWORKS[network].bridge}",
                f"link set r.{cable} up",
                f"link set s.{cable} up",
            ]
        )
        group = Group(self._base.name, f"relay-{cable}")
        group.make()
        enter = ["nsenter", f"--target={self._base.holder_id}", "--net"]
        program = [sys.executable, "-I", "-S", str(Path(relay_program.__file__))]
        words = [cable, f"s.{cable}", str(state.rate_bits_per_s), str(state.delay_ms)]
        process = subprocess.Popen(
            [*enter, *program, str(group.directory / "cgroup.procs"), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self._base.directory / "relay.log").open("ab"),
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout as told:
            if told.readline() != b"ready\n":
                raise LabError(f"The relay in the cable {cable} did not start.")

    def _stop_relay(self, cable: str) -> None:
        group = Group(self._base.name, f"relay-{cable}")
        group.kill()
        group.remove()
        if self._device_exists(f"r.{cable}"):
            self._ip([f"link delete r.{cable}"])

    def _device_exists(self, device: str) -> bool:
        found = self._base.run(["ip", "-br", "link", "show", "dev", device], check=False)
        return found.returncode == 0

    def _ip(self, commands: list[str], *, missing_is_fine: bool = False) -> None:
        if commands:
            batch = "".join(f"{command}\n" for command in commands)
            force = ["-force"] if missing_is_fine else []
            self._base.run(["ip", *force, "-batch", "-"], stdin=batch, check=not missing_is_fine)
