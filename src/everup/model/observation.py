"""Everything that one control turn knows, gathered once and frozen.

What enters: facts of the keeper, the guard, the replicator, systemd and this server, plus what a
person asked for. What leaves: `Observation`; `decide` looks at nothing else, so a recorded
observation replays a decision exactly. A part that did not answer in time is None: unknown is
never taken for "no". Times are CLOCK_BOOTTIME milliseconds or durations in milliseconds.
"""

from dataclasses import dataclass, field
from typing import Literal

from everup.model.position import Position

Mode = Literal["async", "durable"]


@dataclass(frozen=True)
class Record:
    """The one record that says who may be promoted; held durably by the voters."""

    version: int = 0
    epoch: int = 0
    voters: tuple[str, ...] = ()
    may_take_over: tuple[str, ...] = ()
    mode: Mode = "async"


@dataclass(frozen=True)
class PeerFacts:
    """What a peer's agent says of itself in its heartbeats; empty before the first one."""

    role: str = ""
    epoch: int = 0
    gate: str = ""
    position: Position | None = None
    """End of the last batch that this peer wrote itself, or received."""
    applied: Position | None = None
    consistent: bool = False
    hand_to: str = ""
    """Server that this peer hands the active role to; it may stand when the lease is released."""
    cause: str = ""
    """Why it hands over: "switchback" when it could not go into service itself."""
    partner: str = ""
    trouble: str = ""
    """Id of what is wrong there, "" for nothing."""
    send_queue: tuple[int, int, int] | None = None
    """Bytes, operations and age in ms of what it had written and nobody acknowledged yet."""


@dataclass(frozen=True)
class KeeperPeer:
    """Another voter or server as the heartbeats show it."""

    server: str
    reachable: bool = False
    heard_ms_ago: int | None = None
    """None: never heard since this keeper started."""
    facts: PeerFacts = field(default_factory=PeerFacts)


@dataclass(frozen=True)
class Keeper:
    """Lease, record and heartbeats as this server's keeper sees them."""

    promised_epoch: int = 0
    holder: str = ""
    """Server that holds the lease as far as it is heard; "" for nobody."""
    holder_epoch: int = 0
    expires_in_ms: int = 0
    record: Record = field(default_factory=Record)
    previous: Record | None = None
    """What `record` is to replace, as long as a majority has not stored it."""
    peers: tuple[KeeperPeer, ...] = ()
    quorum_reachable: bool = False
    present: tuple[str, ...] = ()
    """Public addresses that this server carries and has proven to be its own."""

    def peer(self, server: str) -> KeeperPeer | None:
        return next((p for p in self.peers if p.server == server), None)


@dataclass(frozen=True)
class Guard:
    """The gate and the journal of this server."""

    gate: Literal["open", "closed"] = "closed"
    epoch: int = 0
    armed: tuple[int, ...] = ()
    """Ids of the trees whose path is behind the gate."""
    position: Position | None = None
    sequence: int = 0
    """Last record, also inside an unfinished batch."""
    mode: Mode = "async"
    must_acknowledge: tuple[str, ...] = ()
    waiting_fsyncs: int = 0
    journal_state: str = "ok"
    journal_sentence: str = ""


@dataclass(frozen=True)
class Tree:
    """What the lower trees hold: one position, a running history, a half-done sync, or nothing."""

    state: Literal["at", "open", "syncing", "empty"] = "empty"
    position: Position | None = None
    epoch: int = 0
    server: str = ""


@dataclass(frozen=True)
class Follower:
    """A peer as the source of the stream sees it."""

    server: str
    connected: bool = False
    in_sync: bool = False
    acknowledged: Position | None = None
    applied: Position | None = None
    queue_bytes: int = 0
    queue_operations: int = 0
    oldest_ms: int = 0


@dataclass(frozen=True)
class Replicator:
    """Stream, receive log and lower tree of this server."""

    role: Literal["idle", "source", "target"] = "idle"
    source_epoch: int = 0
    sealed_epoch: int = 0
    received: Position | None = None
    applied: Position | None = None
    tree: Tree = field(default_factory=Tree)
    consistent: bool = False
    in_sync: bool = False
    sync_state: str = "none"
    receive_bytes: int = 0
    receive_operations: int = 0
    receive_oldest_ms: int = 0
    """What was received and is not applied yet: it is safe, it only is not visible."""
    followers: tuple[Follower, ...] = ()
    trouble: str = ""
    """Sentence of what stopped applying; "" for nothing."""

    def follower(self, server: str) -> Follower | None:
        return next((f for f in self.followers if f.server == server), None)


@dataclass(frozen=True)
class Unit:
    """A protected application unit as systemd sees it."""

    name: str
    state: str = "inactive"
    """systemd's ActiveState: active, reloading, inactive, failed, activating, deactivating."""
    held: bool = False
    """It may only start while this server is active (our drop-in is in place and loaded)."""


@dataclass(frozen=True)
class Group:
    """The group's settings, as far as a decision needs them."""

    servers: tuple[str, ...] = ()
    """Servers that hold data, in the order of their identities."""
    witness: str = ""
    trees: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    public: tuple[str, ...] = ()
    mode: Mode = "durable"
    may_degrade: bool = True
    degrade_ms: int = 2000
    silence_ms: int = 500
    """A peer not heard for this long is called silent."""
    lease_ms: int = 1000
    max_loss_bytes: int = 64 << 20
    stop_deadline_ms: int = 20_000
    start_deadline_ms: int = 60_000


@dataclass(frozen=True)
class Request:
    """What a person asked this server for; answered by a row of the table or refused."""

    id: int
    kind: Literal["found", "hold", "switchover", "failover"]
    to: str = ""
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """How the last try of an action ended."""

    key: str
    done: bool
    at_ms: int
    tries: int = 1
    code: str = ""
    sentence: str = ""
    position: Position | None = None


@dataclass(frozen=True)
class Observation:
    """One turn's whole knowledge."""

    now_ms: int
    boot_id: str
    server: str
    started_ms: int = 0
    """When this agent began to observe."""
    group: Group = field(default_factory=Group)
    keeper: Keeper | None = None
    guard: Guard | None = None
    replicator: Replicator | None = None
    units: tuple[Unit, ...] | None = None
    stopping: bool = False
    """systemd is shutting this server down: it stops the units and starts nothing any more."""
    page_epoch: int = 0
    page_left_ms: int = 0
    """The deadline page, which the guard obeys: epoch of this server's lease and time left."""
    flag: bool = False
    """/run/everup/active exists."""
    under_way: frozenset[str] = frozenset()
    """Keys of actions that have not ended yet."""
    outcomes: tuple[Outcome, ...] = ()
    request: Request | None = None

    def outcome(self, key: str) -> Outcome | None:
        return next((o for o in self.outcomes if o.key == key), None)
