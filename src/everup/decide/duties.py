"""Rows that keep the role: what a server goes on doing, or puts right, while it has that role.

What leaves: `DUTIES`, in the order in which they are looked at. Each asks for the difference
between what is and what should be, so a turn that was interrupted is simply done again.
"""

from everup.decide import conditions as c
from everup.decide import data as d
from everup.decide import upkeep
from everup.decide import work as w
from everup.decide.row import Deeds, Row
from everup.model import action as a
from everup.model.observation import Observation
from everup.model.position import CHECKSUM_BYTES, Position
from everup.model.role import Cause, Role, State

OUTSIDE = (Role.UNPROTECTED, Role.PASSIVE, Role.REJOINING)
FOLLOWING = (Role.PASSIVE, Role.REJOINING)
LEAVING = (Role.DEMOTING,)
ON_PURPOSE = ("held", "unprotecting")
"""Rows that take a healthy server out of service."""
HURRY_STOP_MS = 3_000
"""After a lost lease a unit gets this long: its writes already fail."""
SWITCH_GRACE_MS = 2_000
"""Held operations get this long when the gate is closed on purpose; units have stopped by then."""


def _stand(s: State, o: Observation) -> tuple[a.Action, ...]:
    opened = o.guard.epoch if o.guard is not None else 0
    sealed = o.replicator.sealed_epoch if o.replicator is not None else 0
    # The first lease of a group may go to the server that was asked to protect, listed or not.
    first = s.cause is Cause.FOUNDING and not d.founded(s, o) and not c.listed(s, o)
    force = s.cause is Cause.FORCED or first
    return (a.Stand(force, max(opened, sealed) + 1, 2 * o.group.lease_ms + 1_000),)


def _may_ask(s: State, o: Observation) -> bool:
    """The data may be out of sight since the server stood up: a replicator that restarts."""
    exempt = s.cause in (Cause.FOUNDING, Cause.FORCED)
    return not c.failed(s, o, "Stand") and (exempt or d.consistent(s, o))


def _open(s: State, o: Observation) -> tuple[a.Action, ...]:
    assert o.guard is not None
    parent = _parent(s, o)
    policy = upkeep.wanted_policy(s, o)
    reason = s.cause.value
    return (a.OpenGate(s.epoch, parent, reason, policy.mode, policy.must_acknowledge),)


def _parent(s: State, o: Observation) -> Position | None:
    """Where the new epoch begins; None for the end of this server's own journal."""
    outcome = o.outcome(f"Drain {s.epoch}")
    end = o.guard.position if o.guard is not None else None
    if outcome is not None and d.drained(s, o):
        end = outcome.position
    if s.cause is Cause.FOUNDING and end is not None and end.sequence > 0:
        # What lies here now did not come from the history alone: nobody stands at the point where
        # it begins, so everybody compares. Same numbers, a checksum that no batch has.
        return Position(end.epoch, end.sequence, bytes(CHECKSUM_BYTES))
    return end


def _propose(s: State, o: Observation) -> tuple[a.Action, ...]:
    proposal = upkeep.next_proposal(s, o)
    return (proposal,) if proposal is not None else ()


def _when_promoting(s: State, o: Observation) -> a.Propose | None:
    return upkeep.removal_when_promoting(s, o) or upkeep.pair_ended(o)


def _propose_removal(s: State, o: Observation) -> tuple[a.Action, ...]:
    proposal = _when_promoting(s, o)
    return (proposal,) if proposal is not None else ()


def _propose_partner(s: State, o: Observation) -> tuple[a.Action, ...]:
    proposal = upkeep.vote_for_partner(s, o)
    return (proposal,) if proposal is not None else ()


def _partner_must_vote(s: State, o: Observation) -> bool:
    return upkeep.vote_for_partner(s, o) is not None


def _partner_votes(s: State, o: Observation) -> bool:
    """Agreed by the voters: a change under way would be lost with the lease."""
    settled = o.keeper is not None and o.keeper.previous is None
    return settled and not _partner_must_vote(s, o)


def _start(s: State, o: Observation) -> tuple[a.Action, ...]:
    return (a.StartUnits(o.group.units, o.group.start_deadline_ms),)


def _stop(s: State, o: Observation) -> tuple[a.Action, ...]:
    return (a.StopUnits(o.group.units, o.group.stop_deadline_ms),)


def _stop_demoted(s: State, o: Observation) -> tuple[a.Action, ...]:
    return _stop(s, o) if s.row in ON_PURPOSE else (a.StopUnits(o.group.units, HURRY_STOP_MS),)


def _simply(*actions: a.Action) -> Deeds:
    return lambda s, o: actions


def _release_wanted(s: State, o: Observation) -> bool:
    # A server that is being changed keeps its lease, so that nobody takes over meanwhile.
    return c.any_lease(s, o) and not c.asked_hold(s, o) and not c.asked_found(s, o)


def _has_proposal(s: State, o: Observation) -> bool:
    return upkeep.next_proposal(s, o) is not None


def _has_removal(s: State, o: Observation) -> bool:
    return _when_promoting(s, o) is not None


def _in_turn(s: State, o: Observation) -> bool:
    """On purpose the units are stopped before their files and their address are taken away.

    A server that lost its lease or its gate has no such time: its writes fail already.
    """
    return s.role is not Role.DEMOTING or s.row not in ON_PURPOSE or w.units_stopped(s, o)


_FOLLOW = (
    Row(
        "flag-off",
        (*OUTSIDE, *LEAVING, Role.SWITCHING),
        w.flag_up,
        "No protected unit may be started here any more.",
        deeds=_simply(a.LowerFlag()),
    ),
    Row(
        "address-off",
        (*OUTSIDE, *LEAVING),
        c.all_of(w.address_not_down, _in_turn),
        "The public address is given up.",
        deeds=_simply(a.AddressDown()),
    ),
    Row(
        "gate-shut",
        (*OUTSIDE, *LEAVING),
        c.all_of(d.gate_not_closed, _in_turn),
        "The gate is closed: nothing may be written here.",
        deeds=_simply(a.CloseGate(0)),
    ),
    Row(
        "units-off",
        FOLLOWING,
        c.all_of(c.protects, w.units_not_stopped),
        "The protected units are stopped: they run on the active server only.",
        deeds=_stop,
    ),
    Row(
        "units-off-demoted",
        LEAVING,
        w.units_not_stopped,
        "The protected units are stopped.",
        deeds=_stop_demoted,
    ),
    Row(
        "units-held",
        (*OUTSIDE, *LEAVING, Role.PROMOTING, Role.ACTIVE),
        w.units_not_held,
        "The protected units may start only while this server is active.",
        deeds=lambda s, o: (a.HoldUnits(o.group.units),),
    ),
    Row(
        "arm",
        FOLLOWING,
        c.all_of(d.gate_closed, w.units_stopped, c.negated(d.armed)),
        "The closed gate is put over every protected path.",
        deeds=lambda s, o: (a.Arm(o.group.trees),),
    ),
    Row(
        "disarm",
        (Role.UNPROTECTED,),
        c.all_of(d.gate_closed, c.negated(c.protects), c.negated(d.armed)),
        "Nothing is protected any more: the directories are plain again.",
        deeds=_simply(a.Arm(())),
    ),
    Row(
        "follow-stream",
        FOLLOWING,
        c.all_of(d.armed, d.gate_closed, c.negated(d.is_target)),
        "This server receives from whoever is active.",
        deeds=_simply(a.BecomeTarget()),
    ),
    Row(
        "release-unused",
        OUTSIDE,
        c.all_of(d.gate_closed, _release_wanted),
        "The lease is given back, since this server does not act on it.",
        deeds=_simply(a.Release()),
    ),
)

_PROMOTE = (
    Row(
        "ask-voters",
        (Role.STANDING,),
        _may_ask,
        "The voters are asked for the lease.",
        deeds=_stand,
    ),
    Row(
        "stay-target",
        (Role.PROMOTING,),
        c.all_of(c.lease_held, c.negated(d.gate_open), c.negated(d.at_end), c.negated(d.is_target)),
        "What was received is looked up.",
        deeds=_simply(a.BecomeTarget()),
    ),
    Row(
        "seal",
        (Role.PROMOTING,),
        c.all_of(c.lease_held, c.negated(d.sealed)),
        "Nothing of an older epoch is taken any more.",
        deeds=lambda s, o: (a.Seal(s.epoch),),
    ),
    Row(
        "go-on-without",
        (Role.PROMOTING,),
        c.all_of(c.lease_held, _has_removal),
        "The record is brought to what this server can go on with alone.",
        deeds=_propose_removal,
    ),
    Row(
        "drain",
        (Role.PROMOTING,),
        # In one lane with the seal, so it comes after it without another turn between them.
        c.all_of(c.lease_held, c.negated(d.gate_open), c.negated(d.at_end)),
        "Everything received is applied, and what others have received beyond it.",
        deeds=lambda s, o: (a.Drain(s.epoch, d.ahead_of(o)),),
    ),
    Row(
        "open",
        (Role.PROMOTING,),
        c.all_of(c.lease_held, d.sealed, d.at_end, c.negated(d.gate_open)),
        "The gate is opened under epoch {epoch}.",
        deeds=_open,
    ),
)

_SERVE = (
    Row(
        "flag-on",
        (Role.PROMOTING, Role.ACTIVE),
        c.all_of(c.lease_held, d.gate_open, c.negated(w.flag_up)),
        "Protected units may be started here.",
        deeds=_simply(a.RaiseFlag()),
    ),
    Row(
        "address-on",
        (Role.PROMOTING, Role.ACTIVE),
        c.all_of(c.lease_held, d.gate_open, w.address_missing),
        "The public address is taken.",
        deeds=_simply(a.AddressUp()),
    ),
    Row(
        "ship",
        (Role.PROMOTING, Role.ACTIVE),
        c.all_of(c.lease_held, d.gate_open, c.negated(d.is_source)),
        "The journal is shipped to the other servers.",
        deeds=lambda s, o: (a.BecomeSource(s.epoch),),
    ),
    Row(
        "units-on",
        (Role.PROMOTING, Role.ACTIVE),
        c.all_of(c.lease_held, d.gate_open, w.flag_up, w.units_not_running, c.negated(w.stopping)),
        "The protected units are started.",
        deeds=_start,
    ),
    Row(
        "policy",
        (Role.PROMOTING, Role.ACTIVE),
        c.all_of(c.lease_held, d.gate_open, upkeep.policy_differs),
        "What an fsync waits for follows the record.",
        deeds=lambda s, o: (upkeep.wanted_policy(s, o),),
    ),
    Row(
        "keep-record",
        (Role.ACTIVE,),
        c.all_of(c.lease_held, d.gate_open, _has_proposal),
        "A change of the record is proposed to the voters.",
        deeds=_propose,
    ),
)

_HAND_OVER = (
    Row(
        "switch-stop",
        (Role.SWITCHING,),
        w.units_not_stopped,
        "The protected units are stopped for the switchover.",
        deeds=_stop,
    ),
    Row(
        "switch-address",
        (Role.SWITCHING,),
        c.all_of(w.units_stopped, w.address_not_down),
        "The public address is given up for the switchover.",
        deeds=_simply(a.AddressDown()),
    ),
    Row(
        "switch-shut",
        (Role.SWITCHING,),
        c.all_of(w.units_stopped, d.gate_not_closed),
        "The gate is closed; what was written last is on its way to {partner}.",
        deeds=_simply(a.CloseGate(SWITCH_GRACE_MS)),
    ),
    Row(
        "switch-vote",
        (Role.SWITCHING,),
        c.all_of(c.lease_held, w.out_of_service, d.partner_at_end, _partner_must_vote),
        "{partner} becomes a voter, so that it can take the lease.",
        deeds=_propose_partner,
    ),
    Row(
        "switch-release",
        (Role.SWITCHING,),
        c.all_of(c.lease_held, w.out_of_service, d.partner_at_end, _partner_votes),
        "{partner} holds everything; the lease is released for it.",
        deeds=_simply(a.Release()),
    ),
)

DUTIES: tuple[Row, ...] = (*_FOLLOW, *_PROMOTE, *_SERVE, *_HAND_OVER)
