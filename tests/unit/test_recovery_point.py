"""How old the oldest change is that only the active server has, and when people hear of it."""

from dataclasses import replace

from everup.decide import data as d
from everup.decide.decide import decide
from everup.decide.remarks import EXPOSED_MS
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import Role, State
from everup.observe.facts import own_facts

END = Position(1, 9, bytes(16))
ACTIVE = State(
    role=Role.ACTIVE, epoch=1, boot_id="boot", since_ms=1, listed=("a",), voters=("a", "b", "t"),
    last_holder="a", last_holder_epoch=1,
)  # fmt: skip


def _seen(*ages_ms: int) -> m.Observation:
    names = ("b", "t")[: len(ages_ms)]
    followers = tuple(
        m.Follower(name, True, True, END, END, queue_bytes=age, oldest_ms=age)
        for name, age in zip(names, ages_ms, strict=True)
    )
    return m.Observation(
        now_ms=100_000,
        boot_id="boot",
        server="a",
        group=m.Group(servers=("a", "b", "t"), trees=(1,), mode="async", max_loss_bytes=1 << 30),
        keeper=m.Keeper(
            holder="a",
            holder_epoch=1,
            record=m.Record(3, 1, ("a", "b", "t"), ("a",), "async"),
            peers=tuple(m.KeeperPeer(name, True, 50) for name in ("b", "t")),
        ),
        guard=m.Guard("open", 1, (1,), END, 9, "async"),
        replicator=m.Replicator(role="source", source_epoch=1, followers=followers),
        units=(),
        page_epoch=1,
        page_left_ms=800,
        flag=True,
    )


def test_what_one_of_two_has_is_not_at_risk() -> None:
    assert d.recovery_point_ms(_seen(90_000, 20)) == 20
    assert d.recovery_point_ms(_seen(90_000, 50_000)) == 50_000
    assert d.recovery_point_ms(_seen()) == 0
    facts = own_facts(ACTIVE, _seen(90_000, 20), sentence="", trouble="")
    assert facts["recovery_ms"] == 20 and facts["send_queue"][2] == 90_000


def test_it_is_told_once_when_it_is_old_and_once_when_it_is_over() -> None:
    told = []
    state = ACTIVE
    for age in (10, EXPOSED_MS - 1, EXPOSED_MS, EXPOSED_MS * 2, EXPOSED_MS // 2, 10, 10):
        decision = decide(state, _seen(EXPOSED_MS * 3, age))
        state = decision.state
        told += [said.row for said in decision.said if said.row.startswith("recovery-point")]
    assert told == ["recovery-point-old", "recovery-point-good"]


def test_a_source_that_is_not_seen_is_no_end_of_it() -> None:
    state = replace(ACTIVE, exposed=True)
    decision = decide(state, replace(_seen(10), replicator=None))
    assert decision.state.exposed
