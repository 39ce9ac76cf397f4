"""Rows from the lease into service, and out of it again.

What leaves: `PROMOTE` (with a lease, not yet in service) and `SERVE` (in service, and handing it
over). Called by `table`.
"""

from dataclasses import replace

from everup.decide import conditions as c
from everup.decide import data as d
from everup.decide import work as w
from everup.decide.row import Row
from everup.decide.words import partner_words, start_sentence
from everup.model.observation import Observation
from everup.model.role import Cause, Role, State

_COMES_BACK = w.cause_is(Cause.SWITCHBACK)


def _in_service(s: State, o: Observation) -> bool:
    shown = c.all_of(c.lease_held, d.gate_open, w.flag_up, w.address_up, w.units_running)
    return shown(s, o)


def _limping(s: State, o: Observation) -> bool:
    shown = c.all_of(c.lease_held, d.gate_open, w.flag_up, w.start_failed)
    return shown(s, o)


def _released(s: State, o: Observation) -> bool:
    """Nothing here acts and no lease is left: the partner may stand, however it came about."""
    return s.role is Role.SWITCHING and not c.any_lease(s, o) and w.out_of_service(s, o)


def _cannot_hand_over(s: State, o: Observation) -> bool:
    late = w.switching_too_long(s, o) or w.partner_silent(s, o)
    return late and d.gate_closed(s, o) and "Release" not in o.under_way and not _released(s, o)


def _to_target(s: State, o: Observation) -> State:
    return replace(s, partner=w.target_of(s, o))


def _start_words(s: State, o: Observation) -> dict[str, str]:
    return {"reason": start_sentence(o)}


PROMOTE: tuple[Row, ...] = (
    Row(
        "promotion-lost",
        (Role.PROMOTING,),
        c.lease_lost,
        "{server} lost the lease of epoch {epoch} before it was in service.",
        target=Role.DEMOTING,
        severity="warning",
        said=True,
    ),
    Row(
        "active-after-failover",
        (Role.PROMOTING,),
        c.all_of(w.cause_is(Cause.FAILOVER), _in_service),
        "Failover: {server} is active under epoch {epoch}.",
        target=Role.ACTIVE,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "active-after-force",
        (Role.PROMOTING,),
        c.all_of(w.cause_is(Cause.FORCED), _in_service),
        "Forced failover: {server} is active under epoch {epoch}.",
        target=Role.ACTIVE,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "active-after-switchover",
        (Role.PROMOTING,),
        c.all_of(w.cause_is(Cause.SWITCHOVER), _in_service),
        "Switchover: {server} is active under epoch {epoch}, {partner} follows.",
        target=Role.ACTIVE,
        said=True,
        told=True,
    ),
    Row(
        "active-after-switchback",
        (Role.PROMOTING,),
        c.all_of(_COMES_BACK, _in_service),
        "The switchover was taken back: {server} is active again under epoch {epoch}.",
        target=Role.ACTIVE,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "active-first",
        (Role.PROMOTING,),
        c.all_of(w.cause_is(Cause.FOUNDING), _in_service),
        "{server} is active under epoch {epoch}.",
        target=Role.ACTIVE,
        said=True,
    ),
    Row(
        "active-again",
        (Role.PROMOTING,),
        c.all_of(w.cause_is(Cause.START, Cause.NONE), _in_service),
        "{server} is active again under epoch {epoch}.",
        target=Role.ACTIVE,
        severity="warning",
        said=True,
        told=True,
    ),
    Row(
        "switch-back",
        (Role.PROMOTING,),
        c.all_of(w.cause_is(Cause.SWITCHOVER), _limping, c.negated(w.partner_silent), d.is_source),
        "The applications did not start on {server}, so the active role goes back to {partner}: "
        "{reason}.",
        target=Role.SWITCHING,
        cause=Cause.SWITCHBACK,
        words=_start_words,
        severity="warning",
        said=True,
    ),
    Row(
        "active-limping",
        (Role.PROMOTING,),
        _limping,
        "{server} is active under epoch {epoch}, but its applications did not start: {reason}.",
        target=Role.ACTIVE,
        words=_start_words,
        severity="critical",
        said=True,
        told=True,
    ),
)

SERVE: tuple[Row, ...] = (
    Row(
        "lease-lost",
        (Role.ACTIVE, Role.SWITCHING),
        c.all_of(c.lease_lost, c.negated(_released)),
        "{server} lost the lease of epoch {epoch} and goes out of service.",
        target=Role.DEMOTING,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "gate-lost",
        (Role.ACTIVE,),
        d.gate_lost,
        "The gate of {server} is not open under epoch {epoch} any more; it goes out of service.",
        target=Role.DEMOTING,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "held",
        (Role.ACTIVE,),
        c.asked_hold,
        "{server} goes out of service for a change and keeps the lease.",
        target=Role.DEMOTING,
        cause=Cause.NONE,
        said=True,
    ),
    Row(
        "unprotecting",
        (Role.ACTIVE,),
        c.negated(c.protects),
        "{server} goes out of service: nothing is protected any more.",
        target=Role.DEMOTING,
        cause=Cause.NONE,
        said=True,
    ),
    Row(
        "switch-over",
        (Role.ACTIVE,),
        c.all_of(c.asked_switchover, w.switchover_possible),
        "Switchover: {server} hands the active role to {partner}.",
        target=Role.SWITCHING,
        cause=Cause.SWITCHOVER,
        remember=_to_target,
        words=partner_words,
        said=True,
        answers=True,
    ),
    Row(
        "handed-over",
        (Role.SWITCHING,),
        _released,
        "{server} is out of service; {partner} may take the active role.",
        target=Role.PASSIVE,
        said=True,
    ),
    Row(
        "switch-abandoned",
        (Role.SWITCHING,),
        _cannot_hand_over,
        "The switchover to {partner} is given up: it did not get everything in time.",
        target=Role.STANDING,
        cause=Cause.SWITCHBACK,
        severity="warning",
        said=True,
        told=True,
    ),
    Row(
        "demoted",
        (Role.DEMOTING,),
        w.out_of_service,
        "{server} is out of service and follows.",
        target=Role.PASSIVE,
        remember=lambda s, o: replace(s, epoch=0, partner="", joining=(), doubts=()),
        said=True,
    ),
)
