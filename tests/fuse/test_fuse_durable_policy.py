"""Both durable policies with the real guard, real replicators and the real decisions of an active
server: what an application's fsync waits for when its peer is gone, and when it has returned."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "contract"))

from replicating import differences, wait_for
from test_fuse_replication import Protected

from everup.decide.decide import decide
from everup.model import action as a
from everup.model import observation as m
from everup.model.role import Role, State
from everup.observe.reading import read_guard, read_replicator

pytestmark = pytest.mark.fuse

TIMEOUT_MS = 600
TURN_S = 0.05


class ActiveTurns:
    """The control turns of alpha; its keeper agrees to every change of the record."""

    def __init__(self, protected: Protected, *, may_degrade: bool) -> None:
        self._protected = protected
        self.group = m.Group(
            servers=("alpha", "beta"), trees=(1,), mode="durable", may_degrade=may_degrade,
            degrade_ms=TIMEOUT_MS,
        )  # fmt: skip
        self.record = m.Record(2, 1, ("alpha",), ("alpha", "beta"), "durable")
        self.beta_heard = True
        self.said: list[tuple[float, str]] = []
        self._state = State(
            role=Role.ACTIVE, epoch=1, boot_id="boot", since_ms=1, listed=("alpha", "beta"),
            voters=("alpha",), last_holder="alpha", last_holder_epoch=1,
        )  # fmt: skip
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(TURN_S):
            decision = decide(self._state, self._observe())
            self._state = decision.state
            self.said += [(time.monotonic(), said.row) for said in decision.said]
            for action in decision.actions:
                self._perform(action)

    def _observe(self) -> m.Observation:
        beta = m.KeeperPeer("beta", self.beta_heard, 50 if self.beta_heard else 9_000)
        return m.Observation(
            now_ms=time.monotonic_ns() // 1_000_000,
            boot_id="boot",
            server="alpha",
            group=self.group,
            keeper=m.Keeper(holder="alpha", holder_epoch=1, record=self.record, peers=(beta,)),
            guard=read_guard(self._protected.guard.call("status")),
            replicator=read_replicator(self._protected.alpha.call("status")),
            units=(),
            page_epoch=1,
            page_left_ms=800,
            flag=True,
        )

    def _perform(self, action: a.Action) -> None:
        if isinstance(action, a.Propose) and action.may_take_over is not None:
            version = self.record.version + 1
            self.record = replace(self.record, version=version, may_take_over=action.may_take_over)
        elif isinstance(action, a.SetPolicy):
            self._protected.guard.call(
                "policy", mode=action.mode, must_acknowledge=list(action.must_acknowledge)
            )

    def moment(self, row: str) -> float:
        return next((at for at, said in self.said if said == row), 0.0)


class Application:
    """Appends and syncs one line after the other; `answered` says when each was promised."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self.answered: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(0.005):
            os.write(self._descriptor, b"%d\n" % len(self.answered))
            os.fsync(self._descriptor)
            self.answered.append(time.monotonic())

    def since(self, moment: float) -> int:
        return sum(at > moment for at in self.answered)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        os.close(self._descriptor)


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[Protected]:
    made = Protected(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("policy", ["degrade", "block"])
def test_a_peer_goes_and_returns(protected: Protected, policy: str) -> None:
    protected.start()
    wait_for(protected.in_sync, 30, "in sync")
    protected.guard.call("policy", mode="durable", must_acknowledge=["beta"])
    turns = ActiveTurns(protected, may_degrade=policy == "degrade")
    application = Application(protected.tree / "lines")
    turns.start()
    try:
        wait_for(lambda: len(application.answered) > 20, 10, "lines are promised")
        protected.beta.kill()
        turns.beta_heard = False
        lost = time.monotonic()
        if policy == "block":
            time.sleep(4 * TIMEOUT_MS / 1000)
            # One may have been acknowledged while the peer was dying.
            assert application.since(lost) <= 1, "an fsync was answered without the peer"
            assert turns.record.may_take_over == ("alpha", "beta") and not turns.said
            # Changed live by a person: those who wait are let go.
            turns.group = replace(turns.group, may_degrade=True)
        wait_for(lambda: application.since(lost) > 20, 10, "lines are promised without it")
        degraded = turns.moment("list-shrunk")
        assert turns.record.may_take_over == ("alpha",)
        assert degraded - lost >= (TIMEOUT_MS - 100) / 1000, "not before the timeout"
        assert application.since(lost) - application.since(degraded) <= 1
        protected.beta.start()
        protected.beta.call("target")
        turns.beta_heard = True
        wait_for(lambda: turns.record.may_take_over == ("alpha", "beta"), 20, "durable again")
        wait_for(lambda: turns.moment("list-grew") > degraded, 5, "said")
        waited_for = protected.guard.call("status")["must_acknowledge"]
        assert waited_for == ["beta"], "what may take over is waited for"
        wait_for(lambda: application.since(turns.moment("list-grew")) > 20, 10, "and goes on")
    finally:
        application.stop()
        turns.stop()
    protected.settle()
    assert differences(protected.alpha.lower(), protected.beta.lower()) == []
