"""What the agent keeps on disk: state, events, recorded turns; and its jobs in memory."""

import asyncio
from pathlib import Path

import pytest

from everup.agent.event_log import EventLog
from everup.agent.jobs import Job, Jobs
from everup.agent.recorder import FILES, Recorder, read
from everup.agent.state_store import StateStore
from everup.decide.decide import decide
from everup.errors import Corrupt, Refused
from everup.model import observation as m
from everup.model.role import Cause, Doubt, Joining, Role, State
from everup.system.files import Door

STATE = State(
    role=Role.PROMOTING,
    cause=Cause.FAILOVER,
    epoch=7,
    row="granted",
    since_ms=5,
    boot_id="b",
    listed=("a", "b"),
    joining=(Joining("b", 3),),
    doubts=(Doubt("b", 1),),
)


class FullDisk(Door):
    def write(self, operation: str, descriptor: int, data: bytes | memoryview) -> int:
        if operation == "save-state":
            raise OSError(28, "No space left on device")
        return super().write(operation, descriptor, data)


def test_agent_state_survives_a_restart(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "agent.json")
    assert store.load() == State()
    store.save(STATE)
    assert StateStore(tmp_path / "agent.json").load() == STATE


def test_agent_state_that_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    StateStore(tmp_path / "agent.json").save(STATE)
    with pytest.raises(OSError, match="No space"):
        StateStore(tmp_path / "agent.json", FullDisk()).save(State())
    assert StateStore(tmp_path / "agent.json").load() == STATE


def test_agent_state_is_never_guessed(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text('{"role": "emperor"}')
    with pytest.raises(Corrupt):
        StateStore(tmp_path / "agent.json").load()


def test_events_are_numbered_on_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, "primary")
    heard = []
    log.listeners.append(heard.append)
    log.add("demoted", "info", "one")
    log.add("lease-lost", "critical", "two", told=True)
    with path.open("a") as file:
        file.write('{"id": 3, "at"')
    again = EventLog(path, "primary")
    assert [e.sentence for e in again.after(0, 10)] == ["one", "two"]
    assert again.after(1, 10)[0].told
    assert again.add("demoted", "info", "three").id == 3
    assert [e.kind for e in heard] == ["demoted", "lease-lost"]


def test_events_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, "primary", events_max=10)
    for number in range(50):
        log.add("row", "info", str(number))
    assert len(path.read_text().splitlines()) <= 21
    assert [e.id for e in log.after(0, 3)] == [48, 49, 50]


def test_recorded_turns_replay_to_the_same_decision(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "recorder")
    state = State(boot_id="b")
    for now in range(0, 3_000, 100):
        group = m.Group(servers=("a", "b"), trees=(1,), units=("x",))
        keeper = m.Keeper(record=m.Record(1, 0, ("a",), ("a",), "durable"))
        guard = m.Guard(armed=(1,) if now > 1_000 else ())
        o = m.Observation(now, "b", "a", group=group, keeper=keeper, guard=guard, units=())
        decision = decide(state, o)
        recorder.note(state, o, decision)
        state = decision.state
    turns = list(read(tmp_path / "recorder"))
    assert len(turns) >= 3
    for turn in turns:
        again = decide(turn.state, turn.observation)
        assert again.state == turn.after and again.fired == turn.fired


def test_recorder_keeps_a_ring_of_bounded_size(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "recorder", file_bytes_max=4096)
    for now in range(0, 4_000_000, 10_000):
        o = m.Observation(now, "b", "a")
        recorder.note(State(boot_id="b"), o, decide(State(boot_id="b"), o))
    assert len(list((tmp_path / "recorder").glob("*.jsonl"))) <= FILES


async def test_one_job_at_a_time_and_each_tells_how_it_ended() -> None:
    jobs = Jobs()
    gate = asyncio.Event()

    async def work(job: Job) -> None:
        job.say("working")
        await gate.wait()
        job.result = {"x": 1}

    async def refuse(job: Job) -> None:
        raise Refused("no", remedy="ask again", code="not-ready")

    job = jobs.start("protect", work)
    await asyncio.sleep(0)
    with pytest.raises(Refused, match="working"):
        jobs.start("switchover", work)
    gate.set()
    async with asyncio.timeout(5):
        while job.state == "running":
            await asyncio.sleep(0)
        failed = jobs.start("switchover", refuse)
        while failed.state == "running":
            await asyncio.sleep(0)
    assert jobs.get(job.id).to_json()["result"] == {"x": 1}
    assert failed.to_json()["error"]["code"] == "not-ready"
    with pytest.raises(Refused):
        jobs.get("nothing")
