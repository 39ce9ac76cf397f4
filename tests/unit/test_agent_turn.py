"""The loop and the executor: state durable before anything is done, lanes, pauses, requests."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from everup.act.executor import Executor
from everup.act.tools import Tools
from everup.agent.event_log import EventLog
from everup.agent.loop import ControlLoop
from everup.agent.recorder import Recorder
from everup.agent.state_store import StateStore
from everup.decide.decide import decide
from everup.errors import EverupError, Refused
from everup.model import action as a
from everup.model import observation as m
from everup.model.role import Role, State
from everup.observe.world import Hand
from everup.system.files import Door

GROUP = m.Group(servers=("a", "b"), witness="w", trees=(1,), units=("db",), public=())
RECORD = m.Record(1, 1, ("a", "b", "w"), ("a", "b"), "durable")


class FakeWorld:
    """Shows what the test puts into `o`."""

    def __init__(self, o: m.Observation) -> None:
        self.o = o

    async def gather(self, hand: Hand) -> m.Observation:
        return replace(
            self.o,
            under_way=hand.under_way,
            outcomes=hand.outcomes,
            request=hand.request,
        )


class FakeExecutor:
    def __init__(self, store_path: Path) -> None:
        self.under_way: frozenset[str] = frozenset()
        self.outcomes: tuple[m.Outcome, ...] = ()
        self.performed: list[a.Action] = []
        self.stored: list[State] = []
        self._path = store_path

    def perform(self, actions: tuple[a.Action, ...]) -> None:
        self.performed += actions
        self.stored.append(StateStore(self._path).load())


class FakeKeeper:
    name = "keeper"

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    async def ask(self, verb: str, *, wait_ms: int, **arguments: Any) -> dict[str, Any]:
        assert verb == "permit"
        self.facts = arguments["facts"]
        return {}


def _loop(
    tmp_path: Path, o: m.Observation, decides: Any = decide
) -> tuple[ControlLoop, FakeWorld, FakeExecutor]:
    path = tmp_path / "agent.json"
    world, executor = FakeWorld(o), FakeExecutor(path)
    loop = ControlLoop(
        world,
        executor,
        StateStore(path),
        EventLog(tmp_path / "events.jsonl", "a"),
        Recorder(tmp_path / "recorder"),
        FakeKeeper(),
        {"version": "1"},
        decides,
    )
    return loop, world, executor


def _observation(**changes: Any) -> m.Observation:
    keeper = m.Keeper(record=RECORD, quorum_reachable=True)
    data = m.Replicator(role="target", consistent=True)
    first = m.Observation(
        now_ms=100_000,
        boot_id="boot",
        server="a",
        group=GROUP,
        keeper=keeper,
        guard=m.Guard(armed=(1,)),
        replicator=data,
        units=(m.Unit("db", "inactive", True),),
    )
    return replace(first, **changes)


async def test_a_role_is_durable_before_its_actions_are_performed(tmp_path: Path) -> None:
    loop, _, executor = _loop(tmp_path, _observation())
    for _ in range(6):
        await loop.turn()
    assert loop.state.role is Role.STANDING
    assert any(isinstance(action, a.Stand) for action in executor.performed)
    assert all(state.role is not Role.ACTIVE for state in executor.stored)
    assert executor.stored[-1].role is Role.STANDING


async def test_a_turn_that_breaks_a_promise_performs_nothing(tmp_path: Path) -> None:
    def broken(s: State, o: m.Observation) -> a.Decision:
        raise AssertionError("two servers")

    loop, _, executor = _loop(tmp_path, _observation(), broken)
    for _ in range(3):
        await loop.turn()
    assert executor.performed == []
    events = loop._events.after(0, 10)
    assert [(e.kind, e.severity, e.told) for e in events] == [("invariant", "critical", True)]


class FullDisk(Door):
    full = True

    def write(self, operation: str, descriptor: int, data: bytes | memoryview) -> int:
        if self.full and operation == "save-state":
            raise OSError(28, "No space left on device")
        return super().write(operation, descriptor, data)


async def test_a_full_disk_keeps_a_server_from_taking_office_only(tmp_path: Path) -> None:
    loop, world, executor = _loop(tmp_path, _observation())
    while loop.state.role is not Role.PASSIVE:
        await loop.turn()
    disk = FullDisk()
    loop._store = StateStore(tmp_path / "agent.json", disk)
    for _ in range(5):
        await loop.turn()
    assert loop.state.role is Role.PASSIVE
    assert not any(isinstance(action, a.Stand) for action in executor.performed)
    assert [e.kind for e in loop._events.after(0, 99)].count("state-not-stored") == 1
    world.o = _observation(group=replace(GROUP, trees=()))
    await loop.turn()
    assert loop.state.role is Role.UNPROTECTED
    world.o, disk.full = _observation(), False
    for _ in range(3):
        await loop.turn()
    assert loop.state.role is Role.STANDING


async def test_a_request_is_answered_by_the_next_turn(tmp_path: Path) -> None:
    loop, _, _ = _loop(tmp_path, _observation(group=replace(GROUP, trees=())))
    asked = asyncio.create_task(loop.requests.ask("switchover", to="b"))
    await asyncio.sleep(0)
    await loop.turn()
    answer = await asked
    assert not answer.accepted and answer.code == "not-active"
    assert loop.requests.shown is None


async def test_facts_reach_the_keeper(tmp_path: Path) -> None:
    loop, _, _ = _loop(tmp_path, _observation())
    await loop.turn()
    await asyncio.sleep(0)
    facts = loop._keeper.facts  # type: ignore[attr-defined]
    assert facts["role"] == "passive" and facts["version"] == "1" and facts["consistent"] is True


# --- executor ----------------------------------------------------------------------------------


class FakeGuard:
    """Each call waits for the test; the answer may be an error."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.go = asyncio.Event()
        self.error: EverupError | None = None

    async def call(self, verb: str, *, wait_ms: int, **arguments: Any) -> dict[str, Any]:
        self.calls.append(verb)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return {"gate": "closed", "trees": []}


def _executor(tmp_path: Path) -> tuple[Executor, FakeGuard]:
    guard = FakeGuard()
    nothing: Any = None
    tools = Tools(
        "a",
        "boot",
        nothing,
        guard,
        nothing,
        nothing,
        tmp_path / "active",
        tmp_path / "tree.json",
        lambda: None,
    )
    return Executor(tools, lambda: None), guard


async def _settle(executor: Executor) -> None:
    async with asyncio.timeout(5):
        while executor.under_way:
            await asyncio.sleep(0)


async def test_an_action_under_way_is_not_begun_again(tmp_path: Path) -> None:
    executor, guard = _executor(tmp_path)
    policy = a.SetPolicy("async", ())
    for _ in range(3):
        executor.perform((policy, a.RaiseFlag()))
        await asyncio.sleep(0)
    assert guard.calls == ["policy"] and executor.under_way == {"SetPolicy"}
    assert (tmp_path / "active").exists()
    guard.go.set()
    await _settle(executor)
    assert {(o.key, o.done) for o in executor.outcomes} == {
        ("SetPolicy", True),
        ("RaiseFlag", True),
    }


async def test_a_hurried_action_replaces_what_its_lane_is_doing(tmp_path: Path) -> None:
    executor, guard = _executor(tmp_path)
    executor.perform((a.SetPolicy("async", ()),))
    await asyncio.sleep(0)
    executor.perform((a.CloseGate(0),))
    guard.go.set()
    await _settle(executor)
    assert guard.calls[:2] == ["policy", "close"]
    assert [o.key for o in executor.outcomes] == ["CloseGate 0"]


async def test_what_failed_is_tried_again_after_a_pause_and_says_why(tmp_path: Path) -> None:
    executor, guard = _executor(tmp_path)
    guard.go.set()
    guard.error = Refused("the gate is stuck", code="stuck")
    for _ in range(20):
        executor.perform((a.SetPolicy("async", ()),))
        await _settle(executor)
    assert guard.calls == ["policy"]
    (outcome,) = executor.outcomes
    assert (outcome.done, outcome.code, outcome.sentence) == (False, "stuck", "the gate is stuck")
    guard.error = None
    async with asyncio.timeout(5):
        while not executor.outcomes[0].done:
            executor.perform((a.SetPolicy("async", ()),))
            await asyncio.sleep(0.02)
    assert executor.outcomes[0].tries == 2
