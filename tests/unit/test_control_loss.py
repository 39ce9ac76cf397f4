"""What a failover says about the loss: figures when they are known, never more than is known."""

from dataclasses import replace

import pytest

from everup.decide.loss import loss
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import Cause, Role, State

STANDS = State(role=Role.STANDING, cause=Cause.FAILOVER, last_holder="a", last_holder_epoch=3)


def at(epoch: int, sequence: int) -> Position:
    return Position(epoch, sequence, bytes(16))


TOLD = m.PeerFacts(role="active", epoch=3, position=at(3, 50), send_queue=(4096, 8, 120))


def _seen(
    facts: m.PeerFacts = TOLD, *, received: Position | None, mode: m.Mode = "async"
) -> m.Observation:
    keeper = m.Keeper(
        record=m.Record(1, 3, ("a", "b", "w"), ("a", "b"), mode),
        peers=(m.KeeperPeer("a", False, 900, facts), m.KeeperPeer("w", True, 10)),
    )
    data = m.Replicator(role="target", received=received)
    return m.Observation(now_ms=1, boot_id="x", server="b", keeper=keeper, replicator=data)


def test_what_is_missing_is_said_with_its_size_and_age() -> None:
    sentence = loss(STANDS, _seen(received=at(3, 42)))
    assert "At most 8 operations (4096 bytes, written in its last 120 ms) that a had" in sentence
    assert "what it wrote after that is not known" in sentence


def test_without_a_queue_only_the_operations_are_said() -> None:
    told = replace(TOLD, send_queue=None)
    assert "At most 8 operations that a had" in loss(STANDS, _seen(told, received=at(3, 42)))


@pytest.mark.parametrize("received", [at(3, 50), at(3, 51), at(4, 7)])
def test_everything_that_was_told_of_is_here(received: Position) -> None:
    assert "No loss is known" in loss(STANDS, _seen(received=received))


def test_an_epoch_of_which_nothing_arrived_counts_from_where_it_began() -> None:
    assert "At most 20 operations" in loss(STANDS, _seen(received=at(2, 30)))


@pytest.mark.parametrize(
    "seen", [_seen(m.PeerFacts(), received=at(3, 42)), _seen(received=None)], ids=["told", "here"]
)
def test_what_is_not_known_is_not_called_nothing(seen: m.Observation) -> None:
    assert "missing here is not known" in loss(STANDS, seen)


def test_only_a_failover_in_async_mode_or_a_forced_one_speaks_of_loss() -> None:
    assert loss(STANDS, _seen(received=at(3, 42), mode="durable")) == ""
    assert loss(replace(STANDS, cause=Cause.SWITCHOVER), _seen(received=at(3, 42))) == ""
    forced = replace(STANDS, cause=Cause.FORCED)
    assert "At most 8" in loss(forced, _seen(received=at(3, 42), mode="durable"))
    nobody = replace(forced, last_holder="", last_holder_epoch=0)
    assert loss(nobody, _seen(m.PeerFacts(), received=at(3, 42))) == ""
