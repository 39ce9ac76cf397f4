"""A group in one process: virtual time, a bad network, and everything that befalls servers.

What enters: a seed. What leaves: a `Result` with violations and what was covered. The same seed
gives the same run, event by event.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from simchecker import Checker
from simnode import AGENT_TURN_NS, SECOND, Node

from everup.keeper.desk import Output, Timing
from everup.keeper.messages import decode, encode
from everup.keeper.record import Known, Record
from everup.keeper.voter import VoteState

MS = 1_000_000
GROUPS = (("a", "b", "witness"), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "witness"))
FAULTS = ("partition", "one_way", "pause", "crash", "restart", "disk", "loss", "slow")
CALM_NS = 14 * SECOND


@dataclass
class Result:
    seed: int
    violations: list[tuple[str, str]]
    available_again: bool
    virtual_ns: int
    covered: Counter[str] = field(default_factory=Counter)


class World:
    """`tamper` sees every message on its way in (receiver, its clock, message) -> message."""

    def __init__(self, seed: int, chaos_ns: int, trace: Callable[[str], None] | None = None):
        self.random = Random(seed)
        self.seed, self.chaos_ns, self.trace = seed, chaos_ns, trace
        self.now = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self.covered: Counter[str] = Counter()
        members = GROUPS[self.random.randrange(4)]
        self.timing = Timing()
        if self.random.random() < 0.3:
            self.timing = Timing(50 * MS, 500 * MS, 125 * MS)
        self.nodes = {m: Node(m, set(members), self.timing, self.random) for m in members}
        self.blocked: set[tuple[str, str]] = set()
        self.late_ns: dict[tuple[str, str], int] = {}
        self.loss = 0.01
        self.delay_ns = (int(0.2 * MS), self.random.choice((1, 1, 5, 30)) * MS)
        self.through_codec = seed % 10 == 0
        first = Record(1, 0, ("a",), ("a",), "durable")
        self.nodes["a"].disk.state = VoteState(known=Known(first))
        self.checker = Checker(first)
        self.calm = False

    # running

    def run(self) -> Result:
        for node in self.nodes.values():
            self._boot(node)
        self.at(self._soon(2 * SECOND), self._fault)
        self._run_until(self.chaos_ns)
        self._make_calm()
        self._run_until(self.chaos_ns + CALM_NS)
        held = any(n.keeper is not None and n.keeper.lease for n in self.nodes.values())
        self.covered["failovers"] = self.checker.failovers
        self.covered["switchovers"] = self.checker.switchovers
        # A voter that lost its memory may have been needed: then a person has to force.
        back = held or self.covered["wiped"] > 0
        return Result(self.seed, self.checker.violations, back, self.now, self.covered)

    def at(self, true_ns: int, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (true_ns, self._order, what))

    def _run_until(self, end: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, what = heapq.heappop(heap)
            what()
        self.now = end

    def _soon(self, most_ns: int) -> int:
        return self.now + self.random.randrange(MS, most_ns)

    def say(self, text: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.now / MS:10.1f} {text}")

    # a node's life

    def _boot(self, node: Node) -> None:
        self.checker.loses_power(node.name)
        node.boot(self.now)
        self._started(node)

    def _started(self, node: Node) -> None:
        self.say(f"{node.name} starts as {node.run:#x} with {node.disk.state.promised}")
        node.timer_at = 0
        life = node.life
        self._tick(node)
        self.at(self._soon(AGENT_TURN_NS), lambda: self._turn(node, life))

    def _alive(self, node: Node, life: int) -> bool:
        return node.keeper is not None and node.life == life

    def _turn(self, node: Node, life: int) -> None:
        if not self._alive(node, life):
            return
        if not node.paused and node.name != "witness":
            had = node.keeper is not None and node.keeper.lease is not None
            for output in node.turn(node.local(self.now)):
                self._carry_out(node, output)
            if had and node.keeper is not None and node.keeper.lease is None:
                self.checker.released = True
        self.at(self.now + AGENT_TURN_NS, lambda: self._turn(node, life))

    def _tick(self, node: Node) -> None:
        if node.keeper is None or node.paused:
            return
        self._carry_out(node, node.keeper.tick(node.local(self.now)))

    def _arm(self, node: Node) -> None:
        """Wake the node when its keeper wants it; an earlier timer that is due finds nothing."""
        assert node.keeper is not None
        at = max(self.now + 1000, node.true(node.keeper.wake_at_ns()) + 1000)
        if node.timer_at and self.now < node.timer_at <= at:
            return
        node.timer_at = at
        self.at(at, lambda: self._timer(node, at))

    def _timer(self, node: Node, at: int) -> None:
        if node.timer_at == at:
            node.timer_at = 0
            self._tick(node)

    # outputs

    def _carry_out(self, node: Node, output: Output) -> None:
        keeper = node.keeper
        assert keeper is not None
        if output.lease is not None:
            self._publish(node, *output.lease)
        for event in output.events:
            self._event(node, event.kind, event.details)
        for to, message in output.sends:
            self._send(node, to, message)
        if output.store is not None:
            self._store(node, *output.store)
        self._arm(node)

    def _publish(self, node: Node, epoch: int, deadline: int) -> None:
        node.page = (epoch, deadline)
        end = node.true(deadline) if deadline else 0
        self.checker.publishes(self.now, node.name, epoch, end)

    def _event(self, node: Node, kind: str, details: dict) -> None:
        self.say(f"{node.name} {kind} {details}")
        if kind == "lease-won":
            assert node.keeper is not None
            self.checker.wins(self.now, node.name, details["epoch"], node.keeper.known)
        elif kind == "record-changed":
            self.covered["records"] += 1
            self.checker.commits(node.name, Record.from_json(details["record"]))
            self._memory_fault(node)
        elif kind == "newer-epoch":
            node.newer_epoch = details["epoch"]

    def _store(self, node: Node, number: int, state: VoteState) -> None:
        random, life = self.random, node.life
        self._aimed_fault(node)
        delay = random.choice((MS // 3, MS, 2 * MS, 5 * MS, 20 * MS))
        if random.random() < 0.02:
            delay = random.randrange(100, 700) * MS
        # One write after the other, as the process does it.
        done_at = max(self.now, node.disk.busy_until, node.disk.broken_until) + delay
        node.disk.busy_until = done_at

        def durable() -> None:
            # A write that was under way at the cut may or may not have reached the disk.
            if not self._alive(node, life):
                return
            node.disk.state = state
            if node.paused:
                node.inbox.append((0, number, "", None))
            elif node.keeper is not None:
                self._carry_out(node, node.keeper.stored(node.local(self.now), number))

        self.at(done_at, durable)

    # network

    def _send(self, node: Node, to: str, message: object) -> None:
        random = self.random
        node.counter += 1
        target = self.nodes.get(to)
        if target is None or (node.name, to) in self.blocked or random.random() < self.loss:
            return
        if self.through_codec:
            message = decode(encode(message))
        item = (node.run, node.counter, node.name, message)
        copies = 2 if random.random() < 0.05 else 1
        for _ in range(copies):
            delay = random.randrange(*self.delay_ns) + self.late_ns.get((node.name, to), 0)
            if random.random() < 0.01:
                delay += random.randrange(0, 2 * SECOND)
            self.at(self.now + delay, lambda: self._arrive(target, item))

    def _arrive(self, node: Node, item: tuple) -> None:
        if node.keeper is None:
            return
        if node.paused:
            if len(node.inbox) < 200:
                node.inbox.append(item)
            return
        run, counter, sender, message = item
        if not sender:
            output = node.keeper.stored(node.local(self.now), counter)
        elif not node.fresh.accept(sender, run, counter):
            return
        else:
            output = node.keeper.receive(node.local(self.now), sender, message)
        self._carry_out(node, output)

    # faults

    def _fault(self) -> None:
        if self.calm:
            return
        kind = self.random.choice(FAULTS)
        node = self.nodes[self.random.choice(list(self.nodes))]
        getattr(self, f"_fault_{kind}")(node)
        self.at(self._soon(3 * SECOND), self._fault)

    def _later(self, most_ns: int, what: Callable[[], None]) -> None:
        self.at(self._soon(most_ns), what)

    def _fault_slow(self, node: Node) -> None:
        """One direction is late, in order: what arrives is valid, and old."""
        self.covered["slow"] += 1
        others = [o for o in self.nodes if o != node.name and self.random.random() < 0.7]
        outward = self.random.random() < 0.5
        pairs = {(node.name, o) if outward else (o, node.name) for o in others}
        late_ns = self.random.randrange(50, 700) * MS
        self.say(f"{late_ns / MS:.0f} ms late: {sorted(pairs)}")
        self.late_ns.update(dict.fromkeys(pairs, late_ns))

        def over() -> None:
            for pair in pairs:
                self.late_ns.pop(pair, None)

        self._later(5 * SECOND, over)

    def _aimed_fault(self, node: Node) -> None:
        """A fault at the very moment at which something is being agreed."""
        if self.calm or self.random.random() > 0.05:
            return
        kind = self.random.choice(("partition", "one_way", "crash", "restart", "pause", "disk"))
        life = node.life

        def strike() -> None:
            if self._alive(node, life) and not self.calm:
                getattr(self, f"_fault_{kind}")(node)

        self._later(40 * MS, strike)

    def _fault_loss(self, node: Node) -> None:
        del node
        self.covered["loss"] += 1
        self.loss = self.random.choice((0.01, 0.1, 0.3))

    def _fault_partition(self, node: Node) -> None:
        self.covered["partitions"] += 1
        others = [o for o in self.nodes if o != node.name]
        cut = others if self.random.random() < 0.5 else [self.random.choice(others)]
        pairs = {(node.name, o) for o in cut} | {(o, node.name) for o in cut}
        self._block(pairs)

    def _fault_one_way(self, node: Node) -> None:
        self.covered["one_way"] += 1
        others = [o for o in self.nodes if o != node.name and self.random.random() < 0.6]
        outward = self.random.random() < 0.5
        self._block({(node.name, o) if outward else (o, node.name) for o in others})

    def _block(self, pairs: set[tuple[str, str]]) -> None:
        self.say(f"blocked {sorted(pairs)}")
        self.blocked |= pairs
        self._later(6 * SECOND, lambda: self.blocked.difference_update(pairs))

    def _fault_pause(self, node: Node) -> None:
        if node.keeper is None or node.paused:
            return
        self.covered["pauses"] += 1
        self.say(f"{node.name} is paused")
        node.paused = True
        life = node.life
        self._later(3 * SECOND, lambda: self._resume(node, life))

    def _resume(self, node: Node, life: int) -> None:
        if not self._alive(node, life) or not node.paused:
            return
        self.say(f"{node.name} goes on")
        node.paused = False
        waiting, node.inbox = node.inbox, []
        for item in waiting:
            self._arrive(node, item)
        self._tick(node)

    def _fault_crash(self, node: Node) -> None:
        self._end(node, power=True)
        self._later(5 * SECOND, lambda: self._boot(node) if node.keeper is None else None)

    def _fault_restart(self, node: Node) -> None:
        self._end(node, power=False)
        booted = node.booted_at

        def again() -> None:
            if node.keeper is None and node.booted_at == booted:
                node.start(self.now)
                self._started(node)

        self._later(300 * MS, again)

    def _end(self, node: Node, *, power: bool) -> None:
        if node.keeper is None:
            return
        self.covered["crashes" if power else "restarts"] += 1
        self.say(f"{node.name} {'loses power' if power else 'is killed'}")
        node.stop(power=power)
        if power:
            self.checker.loses_power(node.name)

    def _memory_fault(self, proposer: Node) -> None:
        """Of those who know a new record, one is cut off and one loses its vote.json."""
        voters = self.checker.committed.voters
        if self.calm or self.covered["wiped"] or len(voters) < 3 or self.random.random() > 0.1:
            return
        victim = self.nodes[self.random.choice([v for v in voters if v != proposer.name])]
        self.covered["wiped"] += 1
        self._end(victim, power=True)
        self.say(f"{victim.name} loses its vote.json")
        victim.disk.state = VoteState()
        others = [o for o in self.nodes if o != proposer.name]
        self._block({(proposer.name, o) for o in others} | {(o, proposer.name) for o in others})
        self._later(500 * MS, lambda: self._boot(victim) if victim.keeper is None else None)

    def _fault_disk(self, node: Node) -> None:
        self.covered["disk_faults"] += 1
        node.disk.broken_until = self._soon(2 * SECOND)

    def _make_calm(self) -> None:
        self.say("calm")
        self.calm, self.loss = True, 0.0
        self.blocked.clear()
        self.late_ns.clear()
        for node in self.nodes.values():
            node.calm = True
            if node.keeper is None:
                self._boot(node)
            elif node.paused:
                self._resume(node, node.life)
