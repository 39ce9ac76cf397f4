"""Status answers and heartbeat facts: read cautiously, small enough, the same on both sides."""

import json
from dataclasses import replace
from typing import Any

import pytest

from everup.errors import ProtocolError
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import Cause, Role, State
from everup.observe.facts import FACTS_BYTES_MAX, fitted, own_facts, read_facts
from everup.observe.reading import read_guard, read_keeper, read_replicator

END = Position(9, 1 << 40, bytes(range(16)))

KEEPER: dict[str, Any] = {
    "server": "a",
    "promised_epoch": 3,
    "holder": "b",
    "holder_epoch": 3,
    "lease": {"held": False, "epoch": 0, "expires_in_ms": 0},
    "record": {
        "version": 2,
        "epoch": 1,
        "voters": ["a", "b"],
        "may_take_over": ["a"],
        "mode": "durable",
    },
    "peers": [{"server": "b", "reachable": True, "heard_ms_ago": 5, "facts": {"role": "active"}}],
    "quorum_reachable": True,
    "address": {"present": ["192.0.2.10/24"]},
}


def _observation() -> m.Observation:
    follower = m.Follower("b", True, True, END, END, 1 << 30, 1 << 20, 60_000)
    return m.Observation(
        now_ms=1,
        boot_id="x",
        server="a",
        keeper=m.Keeper(),
        guard=m.Guard("open", 9, (1,), END),
        replicator=m.Replicator(role="source", applied=END, consistent=True, followers=(follower,)),
    )


def test_facts_come_back_as_they_were_said() -> None:
    state = State(role=Role.SWITCHING, epoch=9, partner="b", cause=Cause.SWITCHOVER)
    said = own_facts(state, _observation(), sentence="hands over", trouble="journal-trouble")
    heard = read_facts(json.loads(json.dumps(said)))
    assert heard == m.PeerFacts(
        role="switching",
        epoch=9,
        gate="open",
        position=END,
        applied=END,
        consistent=True,
        hand_to="b",
        cause="switchover",
        partner="b",
        trouble="journal-trouble",
        send_queue=(1 << 30, 1 << 20, 60_000),
    )


def test_facts_always_fit_into_a_heartbeat() -> None:
    state = State(role=Role.ACTIVE, epoch=1 << 60, partner="b" * 63)
    said = own_facts(state, _observation(), sentence="\N{SNOWMAN}" * 300, trouble="x" * 40)
    assert len(json.dumps(said)) > FACTS_BYTES_MAX
    assert len(json.dumps(fitted(said), separators=(",", ":"))) <= FACTS_BYTES_MAX
    assert said["role"] == "active" and "position" in said


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        {
            "role": 3,
            "epoch": -1,
            "position": {"epoch": 1},
            "consistent": "yes",
            "send_queue": [1, -1, 0],
        },
    ],
)
def test_facts_that_cannot_be_read_count_as_not_said(value: Any) -> None:
    assert read_facts(value) == m.PeerFacts()


def test_keeper_status_is_read() -> None:
    keeper = read_keeper(KEEPER)
    assert (keeper.holder, keeper.holder_epoch) == ("b", 3)
    assert keeper.record.may_take_over == ("a",) and keeper.present == ("192.0.2.10/24",)
    assert keeper.peer("b") == m.KeeperPeer("b", True, 5, m.PeerFacts(role="active"))
    held = read_keeper({**KEEPER, "lease": {"held": True, "epoch": 4, "expires_in_ms": 9}})
    assert (held.holder, held.holder_epoch) == ("a", 4)


def test_what_is_missing_is_read_cautiously() -> None:
    assert read_keeper({"server": "a"}) == m.Keeper()
    assert read_guard({"gate": "closed"}) == m.Guard()
    data = read_replicator({})
    assert not data.consistent and not data.in_sync and data.tree.state == "empty"


def test_a_source_acts_under_the_epoch_that_it_sealed() -> None:
    data = read_replicator({"role": "source", "sealed_epoch": 7})
    assert data.source_epoch == 7
    assert replace(data, role="target").source_epoch == 7
    assert read_replicator({"role": "target", "sealed_epoch": 7}).source_epoch == 0


@pytest.mark.parametrize("read", [read_keeper, read_guard, read_replicator])
def test_nonsense_is_an_error_of_the_protocol(read: Any) -> None:
    with pytest.raises(ProtocolError):
        read({"gate": 1, "trees": 7, "peers": 7, "server": "a", "position": 3})
