"""The table itself: complete, answered for every request, and held to its promises."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everup.act.performers import PERFORMERS
from everup.decide import invariants
from everup.decide.decide import ALL_ROWS, decide
from everup.decide.diagram import page
from everup.decide.table import TRANSITIONS
from everup.model import action as a
from everup.model import observation as m
from everup.model.position import Position
from everup.model.role import Cause, Joining, Role, State

END = Position(1, 9, bytes(16))
RECORD = m.Record(3, 1, ("a", "b", "w"), ("a", "b"), "durable")
GROUP = m.Group(servers=("a", "b"), witness="w", trees=(1,), units=("db",))
ACTIVE = State(role=Role.ACTIVE, epoch=1, boot_id="boot", cause=Cause.START, since_ms=1)


def _serving(**changes: Any) -> m.Observation:
    first = m.Observation(
        now_ms=100_000,
        boot_id="boot",
        server="a",
        group=GROUP,
        keeper=m.Keeper(
            holder="a",
            holder_epoch=1,
            record=RECORD,
            peers=(m.KeeperPeer("b", True, 50), m.KeeperPeer("w", True, 50)),
            quorum_reachable=True,
        ),
        guard=m.Guard("open", 1, (1,), END, 9, "durable", ("b",)),
        replicator=m.Replicator(
            role="source",
            source_epoch=1,
            sealed_epoch=1,
            followers=(m.Follower("b", True, True, END, END),),
        ),
        units=(m.Unit("db", "active", True),),
        page_epoch=1,
        page_left_ms=800,
        flag=True,
    )
    return replace(first, **changes)


def test_ids_are_unique_and_every_action_has_a_performer() -> None:
    ids = [row.id for row in ALL_ROWS]
    assert len(ids) == len(set(ids))
    kinds = {kind for kind in vars(a).values() if isinstance(kind, type)}
    actions = {k for k in kinds if issubclass(k, a.Action) and k is not a.Action}
    assert set(PERFORMERS) == actions


def test_every_role_can_be_reached_and_left() -> None:
    assert {row.target for row in TRANSITIONS} == set(Role)
    assert {role for row in TRANSITIONS for role in row.sources} == set(Role)


def test_every_sentence_can_be_filled() -> None:
    for row in ALL_ROWS:
        for role in row.sources:
            state = replace(ACTIVE, role=role)
            o = _serving()
            words = {"server": "a", "role": "r", "epoch": "1", "held": "1"}
            words |= {"partner": "b", "holder": "a"}
            assert row.sentence.format(**{**words, **row.words(state, o)})


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", ["found", "switchover", "failover"])
@pytest.mark.parametrize("force", [False, True])
def test_every_request_is_taken_up_or_refused_with_a_reason(
    role: Role, kind: Any, force: bool
) -> None:
    state = replace(ACTIVE, role=role)
    o = _serving(request=m.Request(4, kind, "", force))
    for _ in range(4):
        decision = decide(state, o)
        state = decision.state
        if decision.answer is not None:
            break
    assert decision.answer is not None and decision.answer.request == 4
    assert decision.answer.code and decision.answer.sentence


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("missing", ["keeper", "guard", "replicator", "units"])
def test_a_part_that_does_not_answer_starts_nothing(role: Role, missing: str) -> None:
    """Unknown is never taken for a fact: no lease is asked for, no gate opened on it."""
    o = _serving(**{missing: None})
    decision = decide(replace(ACTIVE, role=role), o)
    started = (a.OpenGate, a.AddressUp, a.Propose, a.Release)
    assert not [act for act in decision.actions if isinstance(act, started)]


def test_an_active_server_with_everything_in_order_does_nothing() -> None:
    state = replace(ACTIVE, listed=("a", "b"), voters=("a", "b", "w"))
    state = replace(state, last_holder="a", last_holder_epoch=1)
    decision = decide(state, _serving())
    assert decision.state == state and decision.actions == () and decision.said == ()


def test_a_lost_lease_ends_service_at_once() -> None:
    decision = decide(ACTIVE, _serving(page_left_ms=0))
    assert decision.state.role is Role.DEMOTING and decision.fired == ("lease-lost",)
    decision = decide(decision.state, _serving(page_left_ms=0))
    kinds = {type(act) for act in decision.actions}
    assert {a.CloseGate, a.LowerFlag, a.StopUnits} <= kinds


def test_an_unfinished_change_of_the_record_lowers_nothing() -> None:
    """Until a majority has stored it, the server that it removes may still be elected."""
    seen = _serving()
    assert seen.keeper is not None
    alone = replace(RECORD, may_take_over=("a",), mode="async")
    unfinished = replace(seen, keeper=replace(seen.keeper, record=alone, previous=RECORD))
    assert not [x for x in decide(ACTIVE, unfinished).actions if isinstance(x, a.SetPolicy)]
    group = replace(GROUP, mode="async")
    done = replace(seen, keeper=replace(seen.keeper, record=alone), group=group)
    assert a.SetPolicy("async", ()) in decide(ACTIVE, done).actions


def test_a_server_that_is_being_added_is_waited_for_until_the_proposal_ends() -> None:
    seen = _serving()
    assert seen.keeper is not None
    alone = replace(seen.keeper, record=replace(RECORD, may_take_over=("a",)))
    lost = replace(seen, keeper=alone, replicator=m.Replicator(role="source", source_epoch=1))
    state = replace(ACTIVE, joining=(Joining("b", 5),))
    asking = decide(state, replace(lost, under_way=frozenset({"Propose"})))
    assert asking.state.joining == state.joining
    assert decide(state, lost).state.joining == ()


def test_a_journal_that_cannot_be_written_ends_the_waiting_through_the_record() -> None:
    seen = _serving()
    assert seen.guard is not None
    bad = replace(seen, guard=replace(seen.guard, journal_state="full"))
    state = decide(ACTIVE, bad).state
    assert [doubt.server for doubt in state.doubts] == ["b"]
    late = replace(bad, now_ms=bad.now_ms + 10_000)
    assert a.Propose(may_take_over=("a",)) in decide(state, late).actions
    request = m.Request(4, "switchover", "", False)
    refused = decide(state, replace(bad, request=request)).answer
    assert refused is not None and not refused.accepted and "journal" in refused.sentence


def test_a_server_that_is_promoted_does_not_wait_for_ever_for_one_that_is_heard() -> None:
    """The applications start meanwhile, and their first fsync must come back."""
    o = _serving(
        replicator=m.Replicator(role="source", source_epoch=1, sealed_epoch=1),
        units=(m.Unit("db", "activating", True),),
    )
    first = decide(replace(ACTIVE, role=Role.PROMOTING), o)
    assert not any(isinstance(act, a.Propose) for act in first.actions)
    later = replace(o, now_ms=o.now_ms + GROUP.degrade_ms)
    assert a.Propose(may_take_over=("a",)) in decide(first.state, later).actions


def test_degrading_changes_the_record_before_the_policy() -> None:
    alone = m.Replicator(role="source", source_epoch=1, sealed_epoch=1)
    o = _serving(replicator=alone)
    first = decide(ACTIVE, o)
    assert not any(isinstance(act, a.SetPolicy | a.Propose) for act in first.actions)
    later = replace(o, now_ms=o.now_ms + GROUP.degrade_ms)
    second = decide(first.state, later)
    (proposal,) = [act for act in second.actions if isinstance(act, a.Propose)]
    assert proposal.may_take_over == ("a",)
    assert not any(isinstance(act, a.SetPolicy) for act in second.actions)
    assert o.keeper is not None
    record = replace(RECORD, may_take_over=("a",))
    committed = replace(later, keeper=replace(o.keeper, record=record))
    third = decide(second.state, committed)
    (policy,) = [act for act in third.actions if isinstance(act, a.SetPolicy)]
    assert policy.must_acknowledge == ()


@pytest.mark.parametrize(
    ("follower", "leaves"),
    [
        (m.Follower("b", False, False, END, END), False),
        (m.Follower("b", True, False, END, END), True),
        (m.Follower("b", True, True, END, END, queue_bytes=GROUP.max_loss_bytes + 1), True),
        (m.Follower("b", True, True, END, END, queue_bytes=9, oldest_ms=60_000), False),
    ],
    ids=["away", "resynced", "too far behind", "slow"],
)
def test_async_members_leave_when_more_may_be_lost_than_allowed(
    follower: m.Follower, leaves: bool
) -> None:
    o = _serving()
    assert o.keeper is not None and o.replicator is not None
    o = replace(
        o,
        group=replace(GROUP, mode="async"),
        keeper=replace(o.keeper, record=replace(RECORD, mode="async")),
        replicator=replace(o.replicator, followers=(follower,)),
    )
    first = decide(ACTIVE, o)
    second = decide(first.state, replace(o, now_ms=o.now_ms + GROUP.degrade_ms))
    proposals = [act for act in second.actions if isinstance(act, a.Propose)]
    assert [p.may_take_over for p in proposals] == ([("a",)] if leaves else [])


def test_blocking_policy_never_goes_on_without_a_peer() -> None:
    group = replace(GROUP, may_degrade=False)
    o = _serving(group=group, replicator=m.Replicator(role="source", source_epoch=1))
    first = decide(ACTIVE, o)
    second = decide(first.state, replace(o, now_ms=o.now_ms + 60_000))
    proposals = [act for act in second.actions if isinstance(act, a.Propose)]
    assert not [p for p in proposals if p.may_take_over is not None]


def test_returning_changes_the_policy_before_the_record() -> None:
    o = _serving()
    assert o.keeper is not None and o.guard is not None
    o = replace(o, keeper=replace(o.keeper, record=replace(RECORD, may_take_over=("a",))))
    o = replace(o, guard=replace(o.guard, must_acknowledge=(), sequence=20))
    first = decide(ACTIVE, o)
    assert not any(isinstance(act, a.Propose) for act in first.actions)
    second = decide(first.state, o)
    (policy,) = [act for act in second.actions if isinstance(act, a.SetPolicy)]
    assert policy.must_acknowledge == ("b",)
    assert o.guard is not None
    waiting = replace(o, guard=replace(o.guard, must_acknowledge=("b",)))
    third = decide(second.state, waiting)
    assert [j.sequence for j in third.state.joining] == [20]
    assert not any(isinstance(act, a.Propose) for act in decide(third.state, waiting).actions)
    there = m.Follower("b", True, True, Position(1, 20, bytes(16)), END)
    assert waiting.replicator is not None
    arrived = replace(waiting, replicator=replace(waiting.replicator, followers=(there,)))
    (proposal,) = [
        act for act in decide(third.state, arrived).actions if isinstance(act, a.Propose)
    ]
    assert proposal.may_take_over == ("a", "b")


_BAD = [
    a.SetPolicy("durable", ()),
    a.SetPolicy("async", ("b",)),
    a.Propose(may_take_over=("a", "b", "c")),
    a.OpenGate(1, None, "start", "durable", ()),
    a.OpenGate(2, None, "start", "durable", ("b",)),
    a.Release(),
]


@pytest.mark.parametrize("act", _BAD, ids=lambda act: type(act).__name__)
def test_invariants_refuse_what_breaks_a_promise(act: a.Action) -> None:
    with pytest.raises(AssertionError):
        invariants.check(ACTIVE, _serving(), a.Decision(ACTIVE, (act,)))


@pytest.mark.parametrize("act", [a.AddressUp(), a.StartUnits(("db",), 1), a.RaiseFlag()])
def test_nothing_serves_without_the_lease(act: a.Action) -> None:
    with pytest.raises(AssertionError):
        invariants.check(ACTIVE, _serving(page_left_ms=0), a.Decision(ACTIVE, (act,)))


def test_the_page_about_roles_is_printed_from_the_table() -> None:
    """EVERUP_REWRITE=1 prints it anew."""
    path = Path(__file__).parents[2] / "docs/operating/roles.md"
    if os.environ.get("EVERUP_REWRITE") == "1":
        path.write_text(page())
    assert path.read_text() == page()


def test_the_lease_is_released_for_a_voter_only_and_not_during_a_change_of_the_record() -> None:
    """Without an arbiter the partner gets its vote first; the release would undo a change."""
    switching = replace(
        ACTIVE, role=Role.SWITCHING, cause=Cause.SWITCHOVER, partner="b", since_ms=99_990
    )
    before = m.Record(3, 1, ("a",), ("a", "b"), "durable")
    after = replace(before, version=4, voters=("a", "b"))
    guard = m.Guard("closed", 1, (1,), END, 9, "durable", ("b",))
    units = (m.Unit("db", "inactive", True),)

    def actions(record: m.Record, previous: m.Record | None) -> list[a.Action]:
        first = _serving(guard=guard, units=units, flag=False)
        assert first.keeper is not None
        keeper = replace(first.keeper, record=record, previous=previous)
        found = decide(switching, replace(first, keeper=keeper)).actions
        return [action for action in found if isinstance(action, a.Propose | a.Release)]

    assert actions(before, None) == [a.Propose(voters=("a", "b"))]
    assert actions(after, before) == []
    assert actions(after, None) == [a.Release()]
    assert actions(RECORD, None) == [a.Release()]


def test_a_refused_start_is_told_with_one_full_stop() -> None:
    failed = m.Outcome("StartUnits", False, 99_000, sentence="systemd refused StartUnit: no.")
    stopped = (m.Unit("db", "inactive", True),)
    seen = _serving(units=stopped, outcomes=(failed,))
    said = decide(ACTIVE, seen).said
    assert [x.sentence for x in said if x.row == "units-failed"] == [
        "The applications do not run on a: systemd refused StartUnit: no."
    ]
    ending = decide(ACTIVE, replace(seen, stopping=True))
    assert "units-failed" not in ending.fired and "units-on" not in ending.fired
    assert "shut down" in ending.sentence
