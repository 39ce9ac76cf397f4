"""The decisions of whole groups under random faults: the real `decide`, in the scenarios' model.

What enters: a seed. What leaves: broken promises, whether the group got well again by itself, and
which rows of the table have fired. Three kinds of group: a pair with a witness, a pair without,
three servers. What the keepers themselves may do is simulated apart (`simworld`).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scenarios"))

from control_model import Group

from everup.decide.decide import ALL_ROWS
from everup.model.role import Role

KINDS = ("witness", "pair", "three")
FAULTS_MAX = 14
WELL_MS = 90_000
ANEW = 0.05
"""Share of the groups in which everything is unprotected and protected again at the end."""


@dataclass
class ControlResult:
    """`violations`: (promise or "well", sentence)."""

    seed: int
    kind: str
    violations: list[tuple[str, str]] = field(default_factory=list)
    available_again: bool = False
    virtual_ms: int = 0
    fired: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)


Step = tuple[list[str], list[str], int]
"""Commands, those that undo them, and how long it lasts at most (ms)."""


class Story:
    """Random faults, each undone some time later; then everything is undone."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.chooser = random.Random(seed)
        self.kind = KINDS[seed % len(KINDS)]
        self.group = Group()
        self.result = ControlResult(seed, self.kind)
        self._undone: list[tuple[int, list[str]]] = []
        self._trace = trace

    def run(self) -> ControlResult:
        result, group = self.result, self.group
        try:
            self._begin()
            for _ in range(self.chooser.randint(4, FAULTS_MAX)):
                self._fault()
            self._heal()
            result.available_again = self._gets_well()
            if result.available_again and self.chooser.random() < ANEW:
                result.available_again = self._protects_anew()
        except AssertionError as broken:
            result.violations.append(("control", str(broken).splitlines()[0]))
        result.virtual_ms = group.now - group.began
        result.fired = group.fired
        return result

    def _do(self, line: str) -> None:
        self.result.told.append(line)
        if self._trace is not None:
            self._trace(f"> {line}")
        self.group.lines = []
        self.group.command(line)
        if self._trace is not None:
            for said in self.group.lines:
                self._trace(said)

    def _begin(self) -> None:
        for word in {"pair": ["pair"], "three": ["three"]}.get(self.kind, []):
            self._do(word)
        if self.chooser.random() < 0.3:
            self._do("mode async")
        for line in ("run 500", "protect primary", "run 7000"):
            self._do(line)

    # faults

    def _fault(self) -> None:
        chooser = self.chooser
        commands, undo, longest_ms = chooser.choice(_STEPS)(self)
        for line in commands:
            self._do(line)
        if undo:
            self._undone.append((self.group.now + chooser.randint(100, longest_ms), undo))
        self._do(f"run {chooser.choice((100, 400, 1200, 3000, 6000))}")
        for at, lines in list(self._undone):
            if at <= self.group.now:
                self._undone.remove((at, lines))
                self._undo(lines)

    def _undo(self, lines: list[str]) -> None:
        for line in lines:
            self._do(line)

    def server(self) -> str:
        return self.chooser.choice(list(self.group.servers))

    def up(self) -> str:
        """One that has power, the active one more often than another."""
        up = [s for s in self.group.servers.values() if s.up and s.agent and not s.stopping]
        active = [s.name for s in up if s.state.role is Role.ACTIVE]
        names = [s.name for s in up] + 2 * active
        return self.chooser.choice(names) if names else ""

    def two(self) -> tuple[str, str]:
        one, other = self.chooser.sample(list(self.group.voters), 2)
        return one, other

    # the end

    def _heal(self) -> None:
        for _, lines in self._undone:
            self._undo(lines)
        self._undone.clear()
        for server in self.group.servers.values():
            if not server.up:
                self._do(f"power-on {server.name}")
            elif not server.agent:
                self._do(f"start-agent {server.name}")

    def _gets_well(self) -> bool:
        for _ in range(WELL_MS // 1000):
            self._do("run 1000")
            if self.is_well():
                return True
        return False

    def _protects_anew(self) -> bool:
        active = next(s for s in self.group.servers.values() if s.state.role is Role.ACTIVE)
        self._do(f"unprotect {active.name}")
        self._do("run 5000")
        roles = {server.state.role for server in self.group.servers.values()}
        assert roles == {Role.UNPROTECTED}, f"nothing is protected, and the roles are {roles}"
        self._do(f"protect {active.name}")
        return self._gets_well()

    def is_well(self) -> bool:
        """One serves, all the others follow, everybody may take over and votes that should."""
        group = self.group
        roles = sorted(server.state.role for server in group.servers.values())
        others = [Role.PASSIVE] * (len(group.servers) - 1)
        voters = {"pair": 1, "witness": 3, "three": 3}[self.kind]
        record = group.record
        whole = len(record.may_take_over) == len(group.servers) and len(record.voters) == voters
        return roles == sorted([Role.ACTIVE, *others]) and whole


def _power(story: Story) -> Step:
    name = story.up()
    return ([f"power-cut {name}"], [f"power-on {name}"], 20_000) if name else _nothing(story)


def _witness(story: Story) -> Step:
    if story.kind == "pair":
        return _nothing(story)
    return ["power-cut witness"], ["power-on witness"], 20_000


def _cut(story: Story) -> Step:
    one, other = story.two()
    return [f"cut {one} {other}"], [f"heal {one} {other}"], 15_000


def _isolate(story: Story) -> Step:
    name = story.server()
    others = [other for other in story.group.voters if other != name]
    return [f"cut {name} {o}" for o in others], [f"heal {name} {o}" for o in others], 8_000


def _agent(story: Story) -> Step:
    name = story.up()
    return ([f"kill-agent {name}"], [f"start-agent {name}"], 35_000) if name else _nothing(story)


def _stream(story: Story) -> Step:
    return ["stream off"], ["stream on"], 40_000


def _apply(story: Story) -> Step:
    name = story.server()
    return [f"stop-apply {name}"], [f"go-on-applying {name}"], 12_000


def _journal(story: Story) -> Step:
    name = story.server()
    return [f"journal {name} full"], [f"journal {name} ok"], 8_000


def _units(story: Story) -> Step:
    name = story.server()
    return [f"break-units {name}"], [f"mend-units {name}"], 20_000


def _moment(verb: str) -> Callable[[Story], Step]:
    def step(story: Story) -> Step:
        name = story.up()
        return ([f"{verb} {name}"], [], 0) if name else _nothing(story)

    return step


def _switchover(story: Story) -> Step:
    name = story.up()
    to = story.server()
    return ([f"ask {name} switchover {to}"], [], 0) if name else _nothing(story)


def _failover(story: Story) -> Step:
    name = story.up()
    word = "force" if story.chooser.random() < 0.2 else ""
    return ([f"ask {name} failover {word}".strip()], [], 0) if name else _nothing(story)


def _mode(story: Story) -> Step:
    return [f"mode {story.chooser.choice(('async', 'durable'))}"], ["mode durable"], 20_000


def _shut_down(story: Story) -> Step:
    name = story.up()
    lines = [f"shut-down {name}", "run 1500", f"power-cut {name}"]
    return (lines, [f"power-on {name}"], 20_000) if name else _nothing(story)


def _pair(story: Story) -> tuple[str, str]:
    """The active server and another one that runs; empty when there is none."""
    up = [s for s in story.group.servers.values() if s.up and s.agent]
    active = next((s.name for s in up if s.state.role is Role.ACTIVE), "")
    others = [s.name for s in up if s.name != active]
    return (active, story.chooser.choice(others)) if active and others else ("", "")


def _while_switching(story: Story) -> Step:
    """Something goes wrong on one of the two sides in the middle of a switchover."""
    active, to = _pair(story)
    if not active:
        return _nothing(story)
    chooser = story.chooser
    wrong, undo = chooser.choice((
        ([f"kill-agent {to}"], [f"start-agent {to}"]),
        ([f"power-cut {to}"], [f"power-on {to}"]),
        ([f"power-cut {active}"], [f"power-on {active}"]),
        (["stream off"], ["stream on"]),
        ([f"replicator-restarts {to}"], []),
    ))  # fmt: skip
    wait = f"run {chooser.choice((50, 200, 500, 700, 900, 1500))}"
    return [f"ask {active} switchover {to}", wait, *wrong], undo, 25_000


def _switchback(story: Story) -> Step:
    active, to = _pair(story)
    lines = [f"break-units {to}", f"ask {active} switchover {to}"]
    return (lines, [f"mend-units {to}"], 20_000) if active else _nothing(story)


def _while_promoting(story: Story) -> Step:
    """The next one is disturbed while it takes over."""
    active, to = _pair(story)
    if not active:
        return _nothing(story)
    chooser = story.chooser
    others = [name for name in story.group.voters if name != to]
    wrong, undo = chooser.choice((
        ([f"replicator-restarts {to}"], []),
        ([f"stop-apply {to}"], [f"go-on-applying {to}"]),
        ([f"break-units {to}"], [f"mend-units {to}"]),
        ([f"cut {to} {o}" for o in others], [f"heal {to} {o}" for o in others]),
    ))  # fmt: skip
    wait = f"run {chooser.choice((50, 600, 1200, 1300, 1500))}"
    first, then = chooser.choice((([wait], wrong), (wrong, [wait])))
    return [f"power-cut {active}", *first, *then], [f"power-on {active}", *undo], 20_000


def _failing_units(story: Story) -> Step:
    name = story.up()
    lines = [f"break-units {name}", f"unit-dies {name}"]
    return (lines, [f"mend-units {name}"], 8_000) if name else _nothing(story)


def _long_behind(story: Story) -> Step:
    return ["mode async", "stream off", "run 33000"], ["stream on", "mode durable"], 2_000


def _nothing(story: Story) -> Step:
    return [], [], 0


_STEPS: tuple[Callable[[Story], Step], ...] = (
    _power, _power, _power, _witness, _cut, _cut, _isolate, _agent, _stream, _apply, _journal,
    _units, _moment("unit-dies"), _moment("guard-dies"), _moment("replicator-restarts"),
    _switchover, _switchover, _switchover, _failover, _mode, _shut_down, _while_switching,
    _while_switching, _while_promoting, _while_promoting, _switchback, _failing_units,
    _long_behind,
)  # fmt: skip


@cache
def all_rows() -> frozenset[str]:
    return frozenset(row.id for row in ALL_ROWS)


def control(seed: int) -> ControlResult:
    """One seed; a pure function of it."""
    return Story(seed).run()
