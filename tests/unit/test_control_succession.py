"""Who leaves the active role to whom when there are three servers."""

from dataclasses import replace
from typing import Any

import pytest

from everup.decide.decide import decide
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import Role, State

END = Position(1, 9, bytes(16))
NAMES = ("a", "b", "t")
PASSIVE = State(
    role=Role.PASSIVE, boot_id="boot", since_ms=1, last_holder="a", last_holder_epoch=1,
    listed=NAMES, voters=NAMES,
)  # fmt: skip
FOLLOWS = m.PeerFacts(role="passive", position=END, applied=END, consistent=True)


def _seen(server: str, a: m.KeeperPeer, *others: m.KeeperPeer, **data: Any) -> m.Observation:
    """What `server` sees when nobody holds the lease; `a` was active last."""
    return m.Observation(
        now_ms=100_000,
        boot_id="boot",
        server=server,
        group=m.Group(servers=NAMES, trees=(1,), units=("db",)),
        keeper=m.Keeper(
            record=m.Record(3, 1, NAMES, NAMES, "durable"),
            peers=(a, *others),
            quorum_reachable=True,
        ),
        guard=m.Guard("closed", 1, (1,), END, 9),
        replicator=m.Replicator(
            role="target",
            received=END,
            applied=END,
            tree=m.Tree("at", END),
            consistent=True,
            **data,
        ),
        units=(m.Unit("db", "inactive", True),),
    )


def _stands(o: m.Observation) -> bool:
    return decide(PASSIVE, o).state.role is Role.STANDING


@pytest.mark.parametrize("role", ["switching", "passive"])
def test_at_a_switchover_the_third_waits_for_the_one_that_was_named(role: str) -> None:
    """The giver has released the lease; its role may not have changed yet."""
    gives = m.PeerFacts(role=role, epoch=1, position=END, consistent=True, hand_to="t")
    third = m.KeeperPeer("t", True, 50, FOLLOWS)
    assert not _stands(_seen("b", m.KeeperPeer("a", True, 50, gives), third))
    # The one that was named does not wait, and nobody waits for one that is gone.
    assert _stands(
        _seen("t", m.KeeperPeer("a", True, 50, gives), m.KeeperPeer("b", True, 50, FOLLOWS))
    )
    gone = m.KeeperPeer("t", False, 9_000, FOLLOWS)
    busy = replace(gives, role="switching")
    assert _stands(_seen("b", m.KeeperPeer("a", True, 50, busy), gone))


def test_the_third_leaves_it_to_the_second_for_a_while() -> None:
    b = m.KeeperPeer("b", True, 50, FOLLOWS)
    assert not _stands(_seen("t", m.KeeperPeer("a", False, 1_200), b))
    assert _stands(_seen("t", m.KeeperPeer("a", False, 3_100), b)), "not for ever"
    assert _stands(
        _seen("b", m.KeeperPeer("a", False, 1_200), m.KeeperPeer("t", True, 50, FOLLOWS))
    )


@pytest.mark.parametrize("change", [{"trouble": "apply-stopped"}, {"consistent": False}])
def test_the_third_does_not_wait_for_one_that_cannot(change: dict[str, Any]) -> None:
    b = m.KeeperPeer("b", True, 50, replace(FOLLOWS, **change))
    assert _stands(_seen("t", m.KeeperPeer("a", False, 1_200), b))


def test_one_in_trouble_leaves_it_to_any_other() -> None:
    third = m.KeeperPeer("t", True, 50, FOLLOWS)
    o = _seen("b", m.KeeperPeer("a", False, 1_200), third, trouble="no space left on device")
    assert not _stands(o)
