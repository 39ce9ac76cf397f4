"""Names and numbers of a lab: which servers there are, on which networks, with which addresses.

What enters: nothing but names. What leaves: plans, device names and addresses; all of it pure, so
that every part of the lab (and every test) derives the same names without asking another part.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from everup.errors import BadInput

PUBLIC_ADDRESS = "192.0.2.10"
PUBLIC_PREFIX = 24
ECHO_PORT = 7007
MAIL_PORT = 25
WEBHOOK_PORT = 8080


@dataclass(frozen=True)
class Network:
    """One bridge of the lab. `prefix` is the first three numbers of its /24."""

    name: str
    prefix: str
    device: str
    number: int

    @property
    def bridge(self) -> str:
        return f"br-{self.name}"

    @property
    def lab_address(self) -> str:
        """The lab's own address on this network; the browser's way in."""
        return f"{self.prefix}.1" if self.name != "channel" else f"{self.prefix}.254"


NETWORKS = {
    "public": Network("public", "192.0.2", "eth0", 1),
    "channel": Network("channel", "10.0.0", "eth1", 2),
    "management": Network("management", "198.51.100", "eth2", 3),
}


@dataclass(frozen=True)
class ServerPlan:
    """One server: its cables (network name to last number of the address) and its number."""

    name: str
    number: int
    hosts: dict[str, int]

    def address(self, network: str) -> str:
        return f"{NETWORKS[network].prefix}.{self.hosts[network]}"

    def cable(self, network: str) -> str:
        """The lab's end of the cable; at most 15 characters, as the kernel asks."""
        return f"{network[:3]}.{self.name}"[:15]

    def hardware_address(self, network: str) -> str:
        """Stays the same over power cuts, as on a real card."""
        return f"02:45:56:00:{NETWORKS[network].number:02x}:{self.number:02x}"


SERVERS = {
    plan.name: plan
    for plan in (
        ServerPlan("primary", 1, {"public": 11, "channel": 1, "management": 11}),
        ServerPlan("secondary", 2, {"public": 12, "channel": 2, "management": 12}),
        ServerPlan("tertiary", 3, {"public": 13, "channel": 3, "management": 13}),
        ServerPlan("witness", 4, {"management": 20}),
        ServerPlan("client", 5, {"public": 30, "management": 30}),
        ServerPlan("services", 6, {"public": 40, "management": 40}),
        ServerPlan("etcd1", 7, {"management": 51}),
        ServerPlan("etcd2", 8, {"management": 52}),
        ServerPlan("etcd3", 9, {"management": 53}),
    )
}

DATA_SERVERS = ("primary", "secondary", "tertiary")

# Real directories of the server's own disk, never overlay: renaming a directory that comes from
# the overlay's lower layer fails with EXDEV, handles and trusted.* attributes differ there.
REAL_DIRECTORIES = (
    "/var/lib/everup",
    "/etc/everup",
    "/var/lib/postgresql",
    "/etc/postgresql",
    "/var/lib/mysql",
    "/srv",
)

_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


def check_lab_name(name: str) -> str:
    """A lab's name becomes a directory and a cgroup; anything else is refused."""
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} cannot be the name of a lab.",
            remedy="Use 1 to 20 small letters, digits and dashes, beginning with a letter.",
        )
    return name


def server_plan(name: str) -> ServerPlan:
    """The plan of the server called `name`."""
    if name not in SERVERS:
        raise BadInput(
            f"There is no lab server called {name!r}.", remedy=f"Name one of: {', '.join(SERVERS)}."
        )
    return SERVERS[name]


@dataclass(frozen=True)
class Link:
    """`[SERVER:]NETWORK`: one cable, or all the cables of a network."""

    server: str | None
    network: str

    @classmethod
    def parse(cls, text: str) -> "Link":
        server, colon, network = text.rpartition(":")
        if network not in NETWORKS or (colon and not server):
            raise BadInput(
                f"{text!r} is not a link of the lab.",
                remedy=f"Write [SERVER:]NETWORK with a network of {', '.join(NETWORKS)}.",
            )
        if server and network not in server_plan(server).hosts:
            raise BadInput(f"The server {server} has no cable to the network {network}.")
        return cls(server or None, network)

    def cables(self, servers: list[str]) -> list[tuple[ServerPlan, str]]:
        """The cables that are meant, among the running `servers`."""
        names = [self.server] if self.server else servers
        plans = [server_plan(name) for name in names]
        return [(plan, self.network) for plan in plans if self.network in plan.hosts]


def machine_id(lab: str, server: str) -> str:
    """A stable id per lab and server; state that is bound to it does not fit another one."""
    return hashlib.blake2b(f"{lab}/{server}".encode(), digest_size=16).hexdigest()


def real_directory(path: str) -> str:
    """Where the real directory for `path` lies, relative to the root of the server's disk."""
    return str(PurePosixPath("real") / path.lstrip("/"))
