"""A group in memory: virtual time, voters, guards, replicators and units, and the real `decide`.

What enters: commands of a scenario. What leaves: a transcript of what the servers did. Everything
around `decide` is as simple as its contract allows; promises are checked at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from everup.decide.decide import decide
from everup.model import action as a
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import Role, State
from everup.observe.facts import own_facts, read_facts

TURN_MS = 50
SILENT_MS = 400
LEASE_MS = 1000
SYNC_MS = 1500
DURATION_MS = {"Stand": 60, "OpenGate": 60, "StartUnits": 800, "StopUnits": 400, "CloseGate": 100}
SERVERS = ("primary", "secondary")
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


class Group:
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
        linked = self.linked(source.name, target.name)
        return source.up and source.stream == "source" and ready and fits and linked

    def _catch_up(self, source: Server, target: Server) -> bool:
        if target.tree.state == "at" and self._on_history(target.tree.position, source):
            return True
        if target.tree.state != "syncing":
            target.tree = m.Tree("syncing")
            target.syncing_until = self.now + SYNC_MS
        return self.now >= target.syncing_until

    # --- one server's turn

    def observe(self, server: Server) -> m.Observation:
        group = self.settings
        epoch, deadline = server.page
        return m.Observation(
            now_ms=self.now,
            boot_id=server.boot_id,
            server=server.name,
            started_ms=server.started,
            group=group,
            keeper=self._keeper(server),
            guard=m.Guard(
                gate="open" if server.gate == "open" else "closed",
                epoch=server.opened_epoch,
                armed=server.armed,
                position=server.end,
                sequence=server.end.sequence if server.end else 0,
                mode=server.mode,
                must_acknowledge=server.waits_for,
                journal_state=server.journal_state,
            ),
            replicator=self._replicator(server),
            units=(m.Unit(UNITS[0], server.units, server.held),),
            page_epoch=epoch,
            page_left_ms=max(0, deadline - self.now),
            flag=server.flag,
            under_way=frozenset(w.action.key for ws in server.lanes.values() for w in ws),
            outcomes=tuple(server.outcomes.values()),
            request=server.request or (m.Request(0, "hold") if server.hold else None),
        )

    def _keeper(self, server: Server) -> m.Keeper:
        peers = []
        for name in self.voters:
            if name != server.name:
                ago = self._heard_ago(server, name)
                facts = read_facts(msgspec.json.decode(self.facts.get(name, b"{}")))
                peers.append(m.KeeperPeer(name, ago is not None and ago < SILENT_MS, ago, facts))
        claims = [
            (epoch, name)
            for name, epoch in self.claims.items()
            if name == server.name or self._hears(server, name)
            if epoch
        ]
        epoch, holder = max(claims, default=(0, ""))
        near = {n for n in self.voters if self.linked(server.name, n)}
        return m.Keeper(
            holder=holder,
            holder_epoch=epoch,
            record=self.record,
            peers=tuple(peers),
            quorum_reachable=self._majority(self.record.voters, near),
            present=self.settings.public if server.address else (),
        )

    def _heard_ago(self, server: Server, name: str) -> int | None:
        heard = self.heard.get((server.name, name), -1)
        return None if heard < server.booted else self.now - heard

    def _hears(self, server: Server, name: str) -> bool:
        ago = self._heard_ago(server, name)
        return ago is not None and ago < SILENT_MS

    def _replicator(self, server: Server) -> m.Replicator:
        followers = tuple(
            m.Follower(
                t.name,
                connected=self._streams(server, t),
                in_sync=t.in_sync and self._streams(server, t),
                acknowledged=t.received if t.in_sync else None,
                applied=t.tree.position if t.in_sync else None,
            )
            for t in self.servers.values()
            if t is not server and server.stream == "source"
        )
        return m.Replicator(
            role=server.stream,  # type: ignore[arg-type]
            source_epoch=server.source_epoch,
            sealed_epoch=server.sealed,
            received=server.received,
            applied=server.tree.position,
            tree=server.tree,
            consistent=server.stream == "source"
            or (server.stream == "target" and server.tree.state == "at"),
            in_sync=server.in_sync,
            followers=followers,
            trouble=server.apply_trouble,
        )

    def turn(self, server: Server) -> None:
        """One turn of a server's agent, until nothing changes its role."""
        server.permitted = self.now + 30_000
        for _ in range(4):
            o = self.observe(server)
            decision = decide(server.state, o)
            before, server.state = server.state, decision.state
            self.fired.update(decision.fired)
            for said in decision.said:
                self._log(server, before.role, decision.state.role, said)
            if decision.answer is not None:
                server.request = None
                word = "accepted" if decision.answer.accepted else "refused"
                self.lines.append(f"{self._time()} {server.name}: {word} {decision.answer.code}")
            facts = own_facts(decision.state, o, sentence="", trouble="")
            busy = bool(decision.actions) or decision.state != before
            if busy and self._ends_here(server):
                return
            self._begin(server, decision.actions)
            self.facts[server.name] = msgspec.json.encode(facts)
            if decision.state.role == before.role:
                return

    def _ends_here(self, server: Server) -> bool:
        """A prefix test ends a server or its agent after a number of turns that did something."""
        server.busy_turns += 1
        if self.stop_after is None or self.stop_after[:2] != (server.name, server.busy_turns):
            return False
        self.command(f"{self.stop_after[2]} {server.name}")
        return True

    def _log(self, server: Server, before: Role, after: Role, said: a.Said) -> None:
        last = f"{server.name}: {said.row}"
        if before == after and any(line.endswith(last) for line in self.lines[-3:]):
            return
        self.lines.append(f"{self._time()} {last}")

    def _time(self) -> str:
        return f"{(self.now - self.began) / 1000:7.2f}s"

    # --- actions

    def _begin(self, server: Server, actions: tuple[a.Action, ...]) -> None:
        lanes: dict[a.Lane, list[a.Action]] = {}
        for action in actions:
            self.performed.add(type(action))
            lanes.setdefault(action.lane, []).append(action)
        for lane, wanted in lanes.items():
            running = server.lanes.get(lane, [])
            if {w.action.key for w in running} & {x.key for x in wanted}:
                continue
            due = [x for x in wanted if self._due(server, x)]
            ends, works = self.now, []
            for action in due:
                ends += DURATION_MS.get(type(action).__name__, 10)
                works.append(Work(action, ends))
            server.lanes[lane] = works

    def _due(self, server: Server, action: a.Action) -> bool:
        outcome = server.outcomes.get(action.key)
        if outcome is None or isinstance(action, a.Stand):
            return True
        pause = 200 if outcome.done else 1000
        return self.now - outcome.at_ms >= pause

    def _finish(self, server: Server) -> None:
        for lane, works in list(server.lanes.items()):
            while works and works[0].ends <= self.now:
                action = works.pop(0).action
                ok, sentence, position = self._perform(server, action)
                server.outcomes[action.key] = m.Outcome(
                    action.key, ok, self.now, sentence=sentence, position=position
                )
                if not ok:
                    works.clear()
            if not works:
                server.lanes.pop(lane)

    def _perform(self, server: Server, action: a.Action) -> tuple[bool, str, Position | None]:
        do: Callable[..., tuple[bool, str] | None] = getattr(self, f"_do_{type(action).__name__}")
        result = do(server, action) or (True, "")
        position = server.received if isinstance(action, a.Drain) else None
        return result[0], result[1], position

    def _do_Stand(self, server: Server, action: a.Stand) -> tuple[bool, str]:
        return self._stand(server, action)

    def _do_Release(self, server: Server, action: a.Release) -> None:
        for voter in self.voters.values():
            if voter.holder == server.name:
                voter.holder, voter.until = "", 0
        server.page = (server.page[0], 0)

    def _do_Propose(self, server: Server, action: a.Propose) -> tuple[bool, str]:
        return self._propose(server, action)

    def _do_Seal(self, server: Server, action: a.Seal) -> None:
        server.sealed = max(server.sealed, action.epoch)

    def _do_Drain(self, server: Server, action: a.Drain) -> tuple[bool, str]:
        if server.apply_trouble:
            return False, server.apply_trouble
        if server.received is not None and server.tree.state == "at":
            server.tree = m.Tree("at", server.received)
        return True, ""

    def _do_BecomeSource(self, server: Server, action: a.BecomeSource) -> None:
        server.stream, server.source_epoch = "source", action.epoch

    def _do_BecomeTarget(self, server: Server, action: a.BecomeTarget) -> None:
        server.stream = "target"

    def _do_Arm(self, server: Server, action: a.Arm) -> None:
        server.armed = action.trees
        if not action.trees:
            server.tree = m.Tree()

    def _do_OpenGate(self, server: Server, action: a.OpenGate) -> tuple[bool, str]:
        epoch, deadline = server.page
        if epoch != action.epoch or deadline <= self.now:
            return False, "the lease does not carry this epoch"
        self._check_durable(action.parent)
        self.history[action.epoch] = action.parent
        start = action.parent.sequence if action.parent else 0
        server.end = at(action.epoch, start + 1)
        server.gate, server.opened_epoch = "open", action.epoch
        server.mode, server.waits_for = action.mode, action.must_acknowledge
        server.tree = m.Tree("open", None, action.epoch, server.name)
        return True, ""

    def _check_durable(self, parent: Position | None) -> None:
        """Promise `durable`: what was acknowledged is on whoever opens next."""
        if self.promised is None or self.forced:
            return
        assert parent is not None and parent.sequence >= self.promised.sequence, (
            f"lost: acknowledged up to {self.promised}, opened after {parent}"
        )

    def _do_CloseGate(self, server: Server, action: a.CloseGate) -> None:
        if server.gate == "open":
            server.gate = "closed"
            server.received = server.end
            server.tree = m.Tree("at", server.end)

    def _do_SetPolicy(self, server: Server, action: a.SetPolicy) -> None:
        server.mode, server.waits_for = action.mode, action.must_acknowledge

    def _do_RaiseFlag(self, server: Server, action: a.RaiseFlag) -> None:
        server.flag = True

    def _do_LowerFlag(self, server: Server, action: a.LowerFlag) -> None:
        server.flag = False

    def _do_AddressUp(self, server: Server, action: a.AddressUp) -> None:
        server.address = True

    def _do_AddressDown(self, server: Server, action: a.AddressDown) -> None:
        server.address = False

    def _do_StartUnits(self, server: Server, action: a.StartUnits) -> tuple[bool, str]:
        server.units = "failed" if server.units_broken else "active"
        return not server.units_broken, "the unit failed" if server.units_broken else ""

    def _do_StopUnits(self, server: Server, action: a.StopUnits) -> None:
        server.units = "inactive"

    def _do_HoldUnits(self, server: Server, action: a.HoldUnits) -> None:
        server.held = bool(action.units)

    # --- time

    def run(self, duration_ms: int) -> None:
        end = self.now + duration_ms
        while self.now < end:
            self.now += TURN_MS
            self._beat()
            self._renew()
            for server in self.servers.values():
                if server.up and server.agent:
                    self._finish(server)
                    self.turn(server)
            self._write()
            for server in self.servers.values():
                if server.stream == "source":
                    self._ship(server)
            self.check()

    def check(self) -> None:
        """Promise `single-active`."""
        serving = [
            s.name
            for s in self.servers.values()
            if s.up and s.gate == "open" and s.page[1] > self.now
        ]
        assert len(serving) <= 1, f"two servers acknowledge: {serving}"

    # --- commands

    def command(self, line: str) -> None:
        verb, *words = line.split()
        getattr(self, "_cmd_" + verb.replace("-", "_"))(*words)

    def _cmd_run(self, duration_ms: str) -> None:
        self.run(int(duration_ms))

    def _cmd_protect(self, name: str) -> None:
        server = self.servers[name]
        server.hold = True
        server.units = "inactive"
        self.settings = replace(self.settings, trees=TREES, units=UNITS)
        self.run(1500)
        server.request = m.Request(1, "found")
        server.hold = False
        self.run(100)

    def _cmd_unprotect(self, name: str) -> None:
        self.servers[name].hold = True
        self.run(2000)
        self.settings = replace(self.settings, trees=(), units=())
        self.run(1000)
        self.servers[name].hold = False

    def _cmd_forget_paths(self) -> None:
        self.settings = replace(self.settings, trees=(), units=())

    def _cmd_mode(self, mode: str) -> None:
        self.settings = replace(self.settings, mode=mode)  # type: ignore[arg-type]

    def _cmd_ask(self, name: str, kind: str, *words: str) -> None:
        to = next((w for w in words if w != "force"), "")
        force = "force" in words
        self.servers[name].request = m.Request(2, kind, to, force)  # type: ignore[arg-type]

    def _cmd_power_cut(self, name: str) -> None:
        if name == WITNESS:
            self.witness_up = False
            return
        server = self.servers[name]
        server.up = False
        server.page = (0, 0)
        server.lanes.clear()

    def _cmd_power_on(self, name: str) -> None:
        voter = self.voters[name]
        voter.until, voter.deaf_until = 0, self.now + LEASE_MS
        if name == WITNESS:
            self.witness_up = True
            return
        server = self.servers[name]
        server.up = server.agent = True
        server.boots += 1
        server.started = server.booted = self.now
        server.flag = server.address = False
        server.gate, server.stream, server.in_sync = "closed", "idle", False
        server.units = "inactive" if server.held else "active"
        server.outcomes = {}

    def _cmd_cut(self, one: str, two: str) -> None:
        self.cut.add(frozenset((one, two)))

    def _cmd_heal(self, one: str, two: str) -> None:
        self.cut.discard(frozenset((one, two)))

    def _cmd_kill_agent(self, name: str) -> None:
        server = self.servers[name]
        server.agent = False
        server.lanes.clear()

    def _cmd_start_agent(self, name: str) -> None:
        server = self.servers[name]
        server.agent, server.started, server.outcomes = True, self.now, {}

    def _cmd_break_units(self, name: str) -> None:
        self.servers[name].units_broken = True

    def _cmd_mend_units(self, name: str) -> None:
        self.servers[name].units_broken = False

    def _cmd_unit_dies(self, name: str) -> None:
        self.servers[name].units = "failed"

    def _cmd_guard_dies(self, name: str) -> None:
        self.servers[name].gate = "closed"

    def _cmd_stop_apply(self, name: str) -> None:
        self.servers[name].apply_trouble = "no space left on device"

    def _cmd_go_on_applying(self, name: str) -> None:
        self.servers[name].apply_trouble = ""

    def _cmd_replicator_restarts(self, name: str) -> None:
        self.servers[name].stream = "idle"

    def _cmd_journal(self, name: str, state: str) -> None:
        self.servers[name].journal_state = state

    def _cmd_show(self) -> None:
        for s in self.servers.values():
            if not s.up:
                self.lines.append(f"          {s.name}: off")
                continue
            words = [s.state.role.value, f"epoch {s.state.epoch}", f"gate {s.gate}"]
            words += ["address"] * s.address + [f"units {s.units}", f"tree {s.tree.state}"]
            words += ["waits for " + ",".join(s.waits_for)] * bool(s.waits_for)
            self.lines.append(f"          {s.name}: {', '.join(words)}")
        r = self.record
        self.lines.append(
            f"          record: voters {','.join(r.voters)}; "
            f"may take over {','.join(r.may_take_over)}; {r.mode}"
        )


def play(text: str) -> tuple[str, Group]:
    """Run the commands of a scenario ("> command"); comments stay, output is made anew."""
    group = Group()
    out: list[str] = []
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            out.append(line)
        elif line.startswith("> "):
            out.append(line)
            group.lines = []
            group.command(line[2:])
            out += group.lines
    return "\n".join(out) + "\n", group
