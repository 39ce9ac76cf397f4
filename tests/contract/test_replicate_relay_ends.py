"""How a relay ends: late, by a mistake, or beside a newer one; what it says of itself then."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from receiving_alone import SETTINGS
from replicating import Authority, free_port

from everup.config.load import load_group
from everup.errors import NotConnected
from everup.places import Places
from everup.replicate.context import Context
from everup.replicate.receiving import Receiver
from everup.replicate.relay import Relay
from everup.replicate.seal import Seal
from everup.replicate.target import Target
from everup.wire.messages import Relayed, TargetState


class Dialling(Relay):
    """Its dial ends when `let_go` is set, with `problem`."""

    def __init__(self, context: Context, on_change: Callable[[], None], problem: Exception) -> None:
        super().__init__(context, cast(Target, None), "gamma", 1, 1, on_change)
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.problem = problem

    def _converse(self) -> None:
        self._connected, self._state = True, TargetState(consistent=True)
        self.entered.set()
        assert self.let_go.wait(10)
        raise self.problem


@pytest.fixture
def context(tmp_path: Path) -> Context:
    places = Places.below(tmp_path)
    places.make()
    Authority().equip(places, "beta")
    places.group_settings.write_text(SETTINGS)
    return Context(places, "beta", load_group(places.group_settings))


@pytest.fixture
def receiver(context: Context) -> Iterator[Receiver]:
    seal = Seal(context.seal_path)
    yield Receiver(context, "127.0.0.1", free_port(), seal, lambda *_: None)


def test_a_relay_that_ends_late_wakes_nobody(context: Context) -> None:
    """`stop` does not wait for a dial; whoever would be woken is gone by then."""
    told: list[int] = []
    relay = Dialling(context, lambda: told.append(1), NotConnected("nobody answers"))
    relay.start()
    assert relay.entered.wait(10)
    relay.stop()
    relay.let_go.set()
    relay._thread.join(10)
    assert not relay._thread.is_alive() and told == []


def test_waking_a_stopped_receiver_writes_into_no_other_file(receiver: Receiver) -> None:
    number = receiver.wake_descriptor
    receiver.stop()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        os.dup2(other, number)
        receiver.wake()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
    finally:
        os.close(other)
        if number != other:
            os.close(number)


def test_a_mistake_ends_no_relay_and_is_said(context: Context) -> None:
    said: list[Relayed] = []
    told = threading.Event()

    def on_change() -> None:
        said.append(relay.report)
        told.set()

    relay = Dialling(context, on_change, ZeroDivisionError("a mistake of ours"))
    relay.start()
    try:
        assert relay.entered.wait(10) and relay.report.connected
        relay.entered.clear()
        relay.let_go.set()
        assert told.wait(5), "the active server is told"
        assert not said[0].connected and "a mistake of ours" in said[0].reason
        assert relay.entered.wait(5), "and it tries again"
    finally:
        relay.let_go.set()
        relay.stop()
        relay._thread.join(10)


def test_the_end_of_an_older_relay_leaves_the_newer_one_awake(receiver: Receiver) -> None:
    """The stream before ends later than the one that has taken over."""
    older, newer = receiver.relay("gamma", 1), receiver.relay("gamma", 1)
    try:
        receiver.end_relay(older)
        assert receiver.target.on_durable == newer.wake
        receiver.end_relay(newer)
        assert receiver.target.on_durable not in (older.wake, newer.wake)
    finally:
        older.stop()
        newer.stop()
        receiver.stop()
