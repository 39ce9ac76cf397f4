"""The settings of a server and of a group, as frozen typed values.

What enters: values that `load` read from TOML. What leaves: structs whose relations hold
(`problems` lists every one that does not). Every process reads its settings from here.
Times are in milliseconds, sizes in bytes.
"""

from ipaddress import ip_interface
from typing import Literal

from everup.config.base import Settings as Settings
from everup.config.caps import Bandwidth, bandwidth_problems

Mode = Literal["async", "durable"]
Identity = Literal["primary", "secondary", "tertiary", "witness"]
DurablePolicy = Literal["degrade", "block"]
Feed = Literal["star", "chain"]
OrphanPolicy = Literal["report", "quarantine", "delete"]

SETTINGS_VERSION_FIRST = 1
VERIFY_BYTES_PER_S_MIN = 1 << 20


class ServerSettings(Settings, frozen=True):
    """/etc/everup/server.toml: what only this server knows about itself."""

    name: str
    """Name in the group; also in its certificate."""
    identity: Identity
    """Fixed place in the group; the role swaps, this does not."""
    group: str
    """Name of the group, to refuse a foreign settings file early."""
    management: str
    """Address for people and for the peers' agents; never moves."""
    channels: tuple[str, ...] = ()
    """Addresses of this server on the replication networks, best first."""


class Timing(Settings, frozen=True):
    """Heartbeat and lease; the relations are in `problems`."""

    heartbeat_ms: int = 100
    """Interval between heartbeats on every channel."""
    lease_ms: int = 1000
    """How long a grant of a voter holds."""
    renew_ms: int = 250
    """Interval at which the holder asks again; at least three fit into a lease."""
    round_trip_ms: int = 100
    """Longest round trip expected between voters."""


class Member(Settings, frozen=True):
    """A server (or the witness) as its peers know it."""

    name: str
    identity: Identity
    management: str
    channels: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address at which this member can be reached, best first."""
        return (*self.channels, self.management)


class PublicAddress(Settings, frozen=True):
    """Address that clients use; it follows the active role."""

    address: str
    """With prefix length: "192.0.2.10/24"."""
    interface: str
    """Network interface that carries it, the same name on every server."""


class ProtectedTree(Settings, frozen=True):
    """A directory whose changes are replicated."""

    id: int
    """Small number, never used again for another path of this group."""
    path: str


class Application(Settings, frozen=True):
    """What is started when a server becomes active, in this order, and stopped in reverse."""

    units: tuple[str, ...] = ()
    start_deadline_ms: int = 60_000
    """A unit that is not active by then failed to start."""
    stop_deadline_ms: int = 20_000
    """A unit that still runs then is killed."""


class Durable(Settings, frozen=True):
    """What an fsync waits for in durable mode, and for how long."""

    policy: DurablePolicy = "degrade"
    timeout_ms: int = 2000
    """Without an acknowledgement for this long the peer leaves the may-take-over list first."""


class Mail(Settings, frozen=True):
    host: str
    port: int = 25
    sender: str = "everup@localhost"
    recipients: tuple[str, ...] = ()


class Webhook(Settings, frozen=True):
    url: str


class Alerts(Settings, frozen=True):
    """Who is told about failover, switchover and trouble."""

    mail: Mail | None = None
    webhook: Webhook | None = None


class GroupSettings(Settings, frozen=True):
    """The group's one versioned document, the same on every member."""

    version: int
    """Grows with every change; the active stores a change first."""
    group: str
    group_id: str
    """32 hexadecimal digits, made by `init`."""
    mode: Mode = "durable"
    timing: Timing = Timing()
    members: tuple[Member, ...] = ()
    public: tuple[PublicAddress, ...] = ()
    protect: tuple[ProtectedTree, ...] = ()
    application: Application = Application()
    durable: Durable = Durable()
    max_loss_bytes: int = 64 << 20
    """Async mode: a peer that is further behind may not take over by itself."""
    journal_quota_bytes: int = 4 << 30
    """Room for changes that a peer has not received yet."""
    bandwidth: Bandwidth = Bandwidth()
    verify_every_hours: int = 168
    """Everything is proven equal again by itself when the last proof is older; 0: never."""
    verify_bytes_per_s: int = 32 << 20
    """What such a verification reads at most, on each side."""
    removals_percent_max: int = 50
    """A copy that would remove a greater part of a server's objects stops and asks."""
    orphans: OrphanPolicy = "quarantine"
    """What becomes of files on a passive server that never came from an active one."""
    feed: Feed = "star"
    """With three servers: "star", the active one supplies both others; "chain", it supplies the
    first of them, which passes on to the other what is on its own disk."""
    alerts: Alerts = Alerts()

    @property
    def servers(self) -> tuple[Member, ...]:
        """The members that hold data."""
        return tuple(m for m in self.members if m.identity != "witness")

    @property
    def witness(self) -> Member | None:
        return next((m for m in self.members if m.identity == "witness"), None)

    def member(self, name: str) -> Member | None:
        return next((m for m in self.members if m.name == name), None)


def timing_problems(timing: Timing) -> list[str]:
    """Every relation between heartbeat, renewal and lease that does not hold, as a sentence."""
    found = []
    for name in ("heartbeat_ms", "lease_ms", "renew_ms", "round_trip_ms"):
        if getattr(timing, name) <= 0:
            found.append(f"timing.{name} must be greater than 0")
    if timing.lease_ms < 3 * timing.renew_ms + timing.round_trip_ms:
        found.append(
            f"timing.lease_ms ({timing.lease_ms}) must be at least three renewals and a round "
            f"trip: {3 * timing.renew_ms + timing.round_trip_ms}"
        )
    if timing.heartbeat_ms > timing.renew_ms:
        found.append("timing.heartbeat_ms must not be longer than timing.renew_ms")
    return found


def group_problems(group: GroupSettings) -> list[str]:
    """Every mistake in a group's settings that types cannot express, as sentences."""
    found = timing_problems(group.timing)
    names = [member.name for member in group.members]
    found += [
        f"members: the name {n!r} is used twice" for n in sorted(set(names)) if names.count(n) > 1
    ]
    found += _address_problems(group)
    found += bandwidth_problems(group.bandwidth, [member.name for member in group.servers])
    if not 0 <= group.removals_percent_max <= 100:
        found.append("removals_percent_max must be 0 to 100")
    if group.verify_every_hours < 0:
        found.append("verify_every_hours must be 0 (never) or more")
    if group.verify_bytes_per_s < VERIFY_BYTES_PER_S_MIN:
        found.append(f"verify_bytes_per_s must be at least {VERIFY_BYTES_PER_S_MIN}")
    ids = [tree.id for tree in group.protect]
    if len(set(ids)) != len(ids):
        found.append("protect: two trees have the same id")
    found += [
        f"protect: {tree.path!r} must be an absolute path"
        for tree in group.protect
        if not tree.path.startswith("/")
    ]
    return found


def _address_problems(group: GroupSettings) -> list[str]:
    found = []
    for public in group.public:
        if "/" not in public.address or not _is_interface(public.address):
            found.append(
                f"public.address {public.address!r} is not an address with prefix length, "
                'such as "192.0.2.10/24"'
            )
    for member in group.members:
        for address in member.addresses:
            if "/" in address or not _is_interface(address):
                found.append(f"members.{member.name}: {address!r} is not an IP address")
    return found


def _is_interface(text: str) -> bool:
    try:
        ip_interface(text)
    except ValueError:
        return False
    return True
