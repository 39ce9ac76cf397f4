"""The turns of the servers in the control scenarios: the real `decide`, and actions in the model.

What enters: the world. What leaves: a changed world and a transcript. The promise `durable` is
checked whenever a gate opens. Called by `control_model`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from control_world import DURATION_MS, SILENT_MS, TURN_MS, UNITS, Server, Work, World, at

from everup.decide.decide import decide
from everup.decide.remarks import TROUBLES
from everup.model import action as a
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import Role
from everup.observe.facts import own_facts, read_facts

BYTES_A_WRITE = 100


class Turns(World):
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
            stopping=server.stopping,
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
                queue_bytes=BYTES_A_WRITE * self._missing(server, t),
                queue_operations=self._missing(server, t),
                oldest_ms=TURN_MS * self._missing(server, t),
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

    def _missing(self, source: Server, target: Server) -> int:
        """Operations that a follower which was in sync has not received; one a turn is written."""
        if source.end is None or target.received is None:
            return 0
        return max(0, source.end.sequence - target.received.sequence)

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
            trouble = next((row for row in decision.fired if row in TROUBLES), "")
            facts = own_facts(decision.state, o, sentence="", trouble=trouble)
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
        self.sentences[said.row] = said.sentence
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
        if server.stopping:
            return False, "Transaction for postgresql.service/start is destructive."
        server.units = "failed" if server.units_broken else "active"
        return not server.units_broken, "the unit failed" if server.units_broken else ""

    def _do_StopUnits(self, server: Server, action: a.StopUnits) -> None:
        server.units = "inactive"

    def _do_HoldUnits(self, server: Server, action: a.HoldUnits) -> None:
        server.held = bool(action.units)
