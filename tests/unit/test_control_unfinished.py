"""A passive server in the middle of a resync: it never takes over, and says why not."""

from dataclasses import replace
from typing import Any

import pytest

from everup.decide.decide import decide
from everup.model import action as a
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import Role, State

END = Position(1, 9, bytes(16))
GROUP = m.Group(servers=("a", "b"), witness="w", trees=(1,), units=("db",))
PASSIVE = State(role=Role.PASSIVE, boot_id="boot", since_ms=1, last_holder="a", last_holder_epoch=1)


def _seen(tree: str, *, listed: bool, request: m.Request | None) -> m.Observation:
    """The active server `a` is silent; `b` and the witness would be a majority."""
    names = ("a", "b") if listed else ("a",)
    return m.Observation(
        now_ms=100_000,
        boot_id="boot",
        server="b",
        group=GROUP,
        keeper=m.Keeper(
            record=m.Record(3, 1, ("a", "b", "w"), names, "durable"),
            peers=(m.KeeperPeer("a", False, 9_000), m.KeeperPeer("w", True, 50)),
            quorum_reachable=True,
        ),
        guard=m.Guard("closed", 1, (1,), END, 9),
        replicator=m.Replicator(
            role="target",
            received=END,
            tree=m.Tree(tree, END if tree == "at" else None),  # type: ignore[arg-type]
            consistent=tree == "at",
        ),
        units=(m.Unit("db", "inactive", True),),
        request=request,
    )


_ASKED: list[Any] = [None, m.Request(1, "failover"), m.Request(1, "failover", force=True)]


@pytest.mark.parametrize("role", [Role.PASSIVE, Role.REJOINING])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("request_", _ASKED)
def test_in_the_middle_of_a_resync_nobody_takes_over(
    role: Role, listed: bool, request_: m.Request | None
) -> None:
    """Also when it still stood on the list, which would be a mistake of its own."""
    state = replace(PASSIVE, role=role)
    o = _seen("syncing", listed=listed, request=request_)
    for _ in range(3):
        decision = decide(state, o)
        state = decision.state
        assert state.role in (Role.PASSIVE, Role.REJOINING)
        assert not [act for act in decision.actions if isinstance(act, (a.Stand, a.OpenGate))]
        o = replace(o, now_ms=o.now_ms + 5_000, request=None)


def test_the_same_server_with_a_whole_copy_does() -> None:
    """Control: only the state of the tree is different."""
    assert decide(PASSIVE, _seen("at", listed=True, request=None)).state.role is Role.STANDING
    forced = m.Request(1, "failover", force=True)
    decision = decide(PASSIVE, _seen("at", listed=False, request=forced))
    assert decision.state.role is Role.STANDING and decision.fired == ("stand-forced",)


@pytest.mark.parametrize(
    ("tree", "words"), [("syncing", "in the middle of a resync"), ("empty", "no copy of the data")]
)
def test_force_names_what_is_missing(tree: str, words: str) -> None:
    forced = m.Request(1, "failover", force=True)
    o = _seen(tree, listed=False, request=forced)
    first = decide(PASSIVE, o)
    answer = first.answer or decide(first.state, o).answer
    assert answer is not None and not answer.accepted and answer.code == "data-incomplete"
    assert words in answer.sentence and "--force cannot mend that" in answer.sentence
    assert "on a" in answer.sentence
