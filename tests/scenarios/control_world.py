"""The world of the control scenarios: servers, links, voters, and data that are shipped.

What enters: virtual time. What leaves: leases, records, positions. Everything is as simple as its
contract allows. Called by `control_turns`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from everup.model import action as a
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import State

TURN_MS = 50
SILENT_MS = 400
LEASE_MS = 1000
SYNC_MS = 1500
DURATION_MS = {"Stand": 60, "OpenGate": 60, "StartUnits": 800, "StopUnits": 400, "CloseGate": 100}
SERVERS = ("primary", "secondary")
THIRD = "tertiary"
WITNESS = "witness"
TREES = (1,)
UNITS = ("postgresql",)


def at(epoch: int, sequence: int) -> Position:
    return Position(epoch, sequence, epoch.to_bytes(8, "big") + sequence.to_bytes(8, "big"))


@dataclass
class Voter:
    """What one voter promised; `until` is the end of its grant."""

    promised: int = 0
    holder: str = ""
    until: int = 0
    deaf_until: int = 0


@dataclass
class Work:
    action: a.Action
    ends: int


@dataclass
class Server:
    """One server; what survives a power cut is marked."""

    name: str
    up: bool = True
    agent: bool = True
    boots: int = 1
    started: int = 0
    booted: int = 0
    state: State = field(default_factory=State)  # survives
    page: tuple[int, int] = (0, 0)
    address: bool = False
    flag: bool = False
    # guard
    gate: str = "closed"
    opened_epoch: int = 0  # survives
    armed: tuple[int, ...] = ()  # survives
    end: Position | None = None  # survives
    mode: m.Mode = "async"
    waits_for: tuple[str, ...] = ()
    journal_state: str = "ok"
    # replicator
    stream: str = "idle"
    source_epoch: int = 0
    sealed: int = 0  # survives
    received: Position | None = None  # survives
    tree: m.Tree = field(default_factory=m.Tree)  # survives
    syncing_until: int = 0
    in_sync: bool = False
    apply_trouble: str = ""
    # units
    units: str = "active"
    held: bool = False  # survives
    units_broken: bool = False
    stopping: bool = False
    # executor
    lanes: dict[a.Lane, list[Work]] = field(default_factory=dict)
    outcomes: dict[str, m.Outcome] = field(default_factory=dict)
    request: m.Request | None = None
    hold: bool = False
    busy_turns: int = 0
    permitted: int = 0
    """The keeper keeps the lease until then without a word of the agent."""

    @property
    def boot_id(self) -> str:
        return f"{self.name}-{self.boots}"


class World:
    def __init__(self) -> None:
        self.now = 1_000_000
        self.began = self.now
        self.servers = {name: Server(name) for name in SERVERS}
        self.witness_up = True
        self.voters = {name: Voter() for name in (*SERVERS, WITNESS)}
        self.record = m.Record(1, 0, ("primary",), ("primary",), "durable")
        self.cut: set[frozenset[str]] = set()
        self.settings = m.Group(
            servers=SERVERS,
            witness=WITNESS,
            public=("192.0.2.10/24",),
            mode="durable",
            lease_ms=LEASE_MS,
            silence_ms=SILENT_MS,
        )
        self.history: dict[int, Position | None] = {}
        self.ends: dict[int, int] = {}
        self.promised: Position | None = None
        """Last position whose durability an application was told of."""
        self.heard: dict[tuple[str, str], int] = {}
        self.claims: dict[str, int] = {}
        """Epoch of the lease that a server claims in its last heartbeat."""
        self.facts: dict[str, bytes] = {}
        self.lines: list[str] = []
        self.sentences: dict[str, str] = {}
        """What each row said last; shown only where a scenario asks for it."""
        self.stream_cut = False
        self.fired: set[str] = set()
        self.performed: set[type[a.Action]] = set()
        self.stop_after: tuple[str, int, str] | None = None
        """(server, number of its turns that did something, command that ends it there)"""
        self.forced = False

    # --- who hears whom

    def is_up(self, name: str) -> bool:
        return self.witness_up if name == WITNESS else self.servers[name].up

    def linked(self, one: str, two: str) -> bool:
        up = self.is_up(one) and self.is_up(two)
        return up and (one == two or frozenset((one, two)) not in self.cut)

    def _beat(self) -> None:
        for one in self.voters:
            for two in self.voters:
                if one != two and self.linked(one, two):
                    self.heard[(one, two)] = self.now
        for name, server in self.servers.items():
            if server.up:
                self.claims[name] = server.page[0] if server.page[1] > self.now else 0
                if server.permitted < self.now:
                    self.facts.pop(name, None)

    # --- the voters

    def _agreeing(self, asker: str, epoch: int, *, new: bool) -> set[str]:
        found = set()
        for name, voter in self.voters.items():
            if not self.linked(asker, name) or voter.deaf_until > self.now:
                continue
            free = voter.holder in ("", asker) or voter.until <= self.now
            fits = (epoch > voter.promised and free) if new else (voter.promised == epoch)
            if fits:
                found.add(name)
        return found

    def _majority(self, voters: tuple[str, ...], agreeing: set[str]) -> bool:
        return 2 * len(agreeing & set(voters)) > len(voters)

    def _stand(self, server: Server, action: a.Stand) -> tuple[bool, str]:
        record = self.record
        epoch = max([v.promised for v in self.voters.values()] + [action.minimum_epoch - 1]) + 1
        may = server.name in record.may_take_over and server.name in record.voters
        agreeing = self._agreeing(server.name, epoch, new=True)
        if may and self._majority(record.voters, agreeing):
            self._grant(server, epoch, agreeing & set(record.voters))
            return True, ""
        if action.force:
            alone = (server.name,)
            self.record = m.Record(record.version + 1, epoch, alone, alone, record.mode)
            self._grant(server, epoch, {server.name})
            self.forced = True
            return True, "forced"
        return False, "no-majority" if may else "not-on-list"

    def _grant(self, server: Server, epoch: int, voters: set[str]) -> None:
        for name in voters:
            self.voters[name] = Voter(epoch, server.name, self.now + LEASE_MS)
        server.page = (epoch, self.now + LEASE_MS - 50)

    def _renew(self) -> None:
        for server in self.servers.values():
            epoch, deadline = server.page
            if not server.up or deadline <= self.now or server.permitted < self.now:
                continue
            agreeing = self._agreeing(server.name, epoch, new=False)
            if self._majority(self.record.voters, agreeing):
                self._grant(server, epoch, agreeing)

    def _propose(self, server: Server, action: a.Propose) -> tuple[bool, str]:
        epoch, deadline = server.page
        if deadline <= self.now:
            return False, "not-the-holder"
        changes = {
            k: v
            for k in ("voters", "may_take_over", "mode")
            if (v := getattr(action, k)) is not None
        }
        new = replace(self.record, version=self.record.version + 1, epoch=epoch, **changes)
        agreeing = {n for n in self.voters if self.linked(server.name, n)}
        both = self._majority(new.voters, agreeing), self._majority(self.record.voters, agreeing)
        if not all(both):
            return False, "no-majority"
        self.record = new
        for name in set(new.voters) & agreeing:
            self.voters[name] = Voter(epoch, server.name, self.now + LEASE_MS)
        return True, ""

    # --- data

    def _on_history(self, position: Position | None, source: Server) -> bool:
        """Whether `position` lies on the way to where `source` writes."""
        epoch, limit = source.opened_epoch, source.end
        while limit is not None:
            if position is not None and position.epoch == epoch:
                return position.sequence <= limit.sequence
            limit = self.history.get(epoch)
            if limit is None:
                return False
            epoch = limit.epoch
        return False

    def _write(self) -> None:
        """The application of the active server writes and syncs once a turn."""
        for server in self.servers.values():
            serving = server.gate == "open" and server.units == "active"
            if not (server.up and serving and server.page[1] > self.now):
                continue
            assert server.end is not None
            server.end = at(server.opened_epoch, server.end.sequence + 1)
            self._ship(server)
            waiting = [n for n in server.waits_for if self._received(n) != server.end]
            if server.mode == "async" or not waiting:
                self.promised = server.end if server.mode == "durable" else self.promised

    def _received(self, name: str) -> Position | None:
        server = self.servers[name]
        return server.received if server.up else None

    def _ship(self, source: Server) -> None:
        for target in self.servers.values():
            if target is source or not self._streams(source, target):
                if target is not source:
                    target.in_sync = False
                continue
            if not target.in_sync and not self._catch_up(source, target):
                continue
            target.in_sync = True
            target.received = source.end
            if not target.apply_trouble:
                target.tree = m.Tree("at", source.end)

    def _streams(self, source: Server, target: Server) -> bool:
        ready = target.up and target.stream == "target" and target.gate == "closed"
        fits = target.sealed <= source.source_epoch == source.opened_epoch
        linked = self.linked(source.name, target.name) and not self.stream_cut
        return source.up and source.stream == "source" and ready and fits and linked

    def _catch_up(self, source: Server, target: Server) -> bool:
        if target.tree.state == "at" and self._on_history(target.tree.position, source):
            return True
        if target.tree.state != "syncing":
            target.tree = m.Tree("syncing")
            target.syncing_until = self.now + SYNC_MS
        return self.now >= target.syncing_until
