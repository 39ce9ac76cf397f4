"""The table: every step of a role that is permitted. Anything that is not here is refused.

What leaves: `TRANSITIONS` (rows that change the role; the first that holds is taken), `REMARKS`
(rows that remember or say something) and all rows together. The duties of each role stand in
`duties`. The sentence of a row is the log line, the event and the explanation. Called by `decide`.
"""

from dataclasses import replace

from everup.decide import conditions as c
from everup.decide import standing
from everup.decide.duties import FOLLOWING
from everup.decide.loss import loss
from everup.decide.row import Row
from everup.model.observation import Observation
from everup.model.role import Cause, Role, State

_HOLDS_NOTHING = (Role.UNPROTECTED, *FOLLOWING)
_IN_OFFICE = (Role.STANDING, Role.PROMOTING, Role.ACTIVE, Role.SWITCHING, Role.DEMOTING)
_COMES_BACK = c.cause_is(Cause.SWITCHBACK)


def _may_stand(s: State, o: Observation) -> bool:
    return c.protects(s, o) and standing.why_not(s, o) == ""


def _may_found(s: State, o: Observation) -> bool:
    ready = o.guard is not None and o.replicator is not None and c.armed(s, o)
    alone = c.lease_free(s, o) or c.any_lease(s, o)
    return ready and alone and (c.tree_empty(s, o) or c.consistent(s, o))


def _may_force(s: State, o: Observation) -> bool:
    ready = o.guard is not None and o.replicator is not None and c.armed(s, o)
    return ready and c.lease_free(s, o) and c.consistent(s, o)


def _granted(s: State, o: Observation) -> bool:
    """A lease of an epoch that was never opened here; an older one does not count."""
    opened = o.guard.epoch if o.guard is not None else c.held_epoch(o)
    return c.held_epoch(o) > max(opened, s.epoch)


def _refused(s: State, o: Observation) -> bool:
    return c.failed(s, o, "Stand") and not _granted(s, o)


def _in_service(s: State, o: Observation) -> bool:
    shown = c.all_of(c.lease_held, c.gate_open, c.flag_up, c.address_up, c.units_running)
    return shown(s, o)


def _limping(s: State, o: Observation) -> bool:
    shown = c.all_of(c.lease_held, c.gate_open, c.flag_up, c.start_failed)
    return shown(s, o)


def _released(s: State, o: Observation) -> bool:
    """Nothing here acts and no lease is left: the partner may stand, however it came about."""
    return s.role is Role.SWITCHING and not c.any_lease(s, o) and c.out_of_service(s, o)


def _cannot_hand_over(s: State, o: Observation) -> bool:
    late = c.switching_too_long(s, o) or c.partner_silent(s, o)
    return late and c.gate_closed(s, o) and "Release" not in o.under_way and not _released(s, o)


def _partner_words(s: State, o: Observation) -> dict[str, str]:
    return {"partner": c.target_of(s, o) or c.giver(o) or s.partner}


def _to_target(s: State, o: Observation) -> State:
    return replace(s, partner=c.target_of(s, o))


def _from_giver(s: State, o: Observation) -> State:
    return replace(s, partner=c.giver(o))


def _with_lease(s: State, o: Observation) -> State:
    return replace(s, epoch=c.held_epoch(o))


def _given_back(s: State, o: Observation) -> bool:
    """The giver had it from here a moment ago and could not go into service."""
    found = c.peer(o, c.giver(o))
    return found is not None and found.facts.cause == Cause.SWITCHBACK.value


def _stand_words(s: State, o: Observation) -> dict[str, str]:
    refusal = o.outcome("Stand")
    return {
        "reason": refusal.sentence if refusal is not None else "",
        "holder": c.other_holder(s, o) or "nobody",
        "stopped": _start_sentence(o),
    }


def _start_sentence(o: Observation) -> str:
    outcome = o.outcome("StartUnits")
    return outcome.sentence.rstrip(".") if outcome is not None else ""


def _granted_words(s: State, o: Observation) -> dict[str, str]:
    return {"loss": loss(s, o)}


def _start_words(s: State, o: Observation) -> dict[str, str]:
    return {"reason": _start_sentence(o)}


_BOOT = (
    Row(
        "booted-in-office",
        _IN_OFFICE,
        c.booted_anew,
        "{server} was started anew while it was {role}; it follows until the voters say otherwise.",
        target=Role.PASSIVE,
        cause=Cause.NONE,
        remember=lambda s, o: replace(s, epoch=0, partner="", joining=(), doubts=()),
        severity="warning",
        said=True,
    ),
)

_FOLLOW = (
    Row(
        "protected",
        (Role.UNPROTECTED,),
        c.protects,
        "{server} guards the protected paths.",
        target=Role.PASSIVE,
        cause=Cause.NONE,
        said=True,
    ),
    Row(
        "unprotected",
        FOLLOWING,
        c.negated(c.protects),
        "Nothing is protected any more on {server}.",
        target=Role.UNPROTECTED,
        cause=Cause.NONE,
        remember=lambda s, o: replace(s, epoch=0, partner="", joining=(), doubts=()),
        said=True,
    ),
    Row(
        "stand-to-found",
        FOLLOWING,
        c.all_of(c.asked_found, c.protects, _may_found),
        "{server} begins a new epoch with the data it has.",
        target=Role.STANDING,
        cause=Cause.FOUNDING,
        said=True,
        answers=True,
    ),
    Row(
        "stand-forced",
        FOLLOWING,
        c.all_of(c.asked_forced, c.protects, _may_force),
        "{server} stands for the active role because a person insists.",
        target=Role.STANDING,
        cause=Cause.FORCED,
        severity="warning",
        said=True,
        answers=True,
    ),
    Row(
        "stand-asked",
        FOLLOWING,
        c.all_of(c.asked_failover, _may_stand),
        "{server} stands for the active role on request.",
        target=Role.STANDING,
        cause=Cause.FAILOVER,
        said=True,
        answers=True,
    ),
    Row(
        "stand-given-back",
        FOLLOWING,
        c.all_of(c.protects, _given_back, c.armed),
        "{partner} could not go on and gives the active role back to {server}.",
        target=Role.STANDING,
        cause=Cause.SWITCHBACK,
        remember=_from_giver,
        words=_partner_words,
        severity="warning",
        said=True,
    ),
    Row(
        "stand-handed",
        FOLLOWING,
        c.all_of(c.protects, c.handed_to_me, c.consistent, c.armed),
        "{partner} hands the active role to {server}.",
        target=Role.STANDING,
        cause=Cause.SWITCHOVER,
        remember=_from_giver,
        words=_partner_words,
        said=True,
    ),
    Row(
        "take-back",
        FOLLOWING,
        c.all_of(c.handed_in_vain, _may_stand),
        "{partner} did not take the active role; {server} takes it back.",
        target=Role.STANDING,
        cause=Cause.SWITCHBACK,
        words=_partner_words,
        severity="warning",
        said=True,
    ),
    Row(
        "stand-failover",
        FOLLOWING,
        c.all_of(c.holder_silent, _may_stand),
        "{holder} is silent; {server} stands for the active role.",
        target=Role.STANDING,
        cause=Cause.FAILOVER,
        words=_stand_words,
        severity="warning",
        said=True,
    ),
    Row(
        "stand-start",
        FOLLOWING,
        c.all_of(c.negated(c.holder_silent), _may_stand),
        "Nobody is active; {server} stands for the active role.",
        target=Role.STANDING,
        cause=Cause.START,
        said=True,
    ),
    Row(
        "data-incomplete",
        (Role.PASSIVE,),
        c.all_of(c.armed, c.is_target, c.inconsistent, c.founded, c.settled_in),
        "{server} rejoins: its data are brought up to the active server's.",
        target=Role.REJOINING,
        said=True,
    ),
    Row(
        "data-complete",
        (Role.REJOINING,),
        c.consistent,
        "{server} holds a consistent copy and follows.",
        target=Role.PASSIVE,
        said=True,
    ),
)

_STAND = (
    # People are told now, not when the applications serve: a database may recover for a while.
    Row(
        "granted-failover",
        (Role.STANDING,),
        c.all_of(c.cause_is(Cause.FAILOVER), _granted),
        "{server} takes over: the voters gave it the lease of epoch {held}.{loss}",
        target=Role.PROMOTING,
        remember=_with_lease,
        words=_granted_words,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "granted",
        (Role.STANDING,),
        _granted,
        "The voters gave {server} the lease of epoch {held}.{loss}",
        target=Role.PROMOTING,
        remember=_with_lease,
        words=_granted_words,
        said=True,
    ),
    Row(
        "withdrawn",
        (Role.STANDING,),
        c.all_of(c.negated(c.cause_is(Cause.FOUNDING, Cause.FORCED)), c.inconsistent),
        "{server} does not stand any more: its data are not at any one position.",
        target=Role.PASSIVE,
        severity="warning",
        said=True,
    ),
    Row(
        "refused",
        (Role.STANDING,),
        _refused,
        "The voters did not give {server} the lease: {reason}.",
        target=Role.PASSIVE,
        words=_stand_words,
    ),
)

_PROMOTE = (
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
        c.all_of(c.cause_is(Cause.FAILOVER), _in_service),
        "Failover: {server} is active under epoch {epoch}.",
        target=Role.ACTIVE,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "active-after-force",
        (Role.PROMOTING,),
        c.all_of(c.cause_is(Cause.FORCED), _in_service),
        "Forced failover: {server} is active under epoch {epoch}.",
        target=Role.ACTIVE,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "active-after-switchover",
        (Role.PROMOTING,),
        c.all_of(c.cause_is(Cause.SWITCHOVER), _in_service),
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
        c.all_of(c.cause_is(Cause.FOUNDING), _in_service),
        "{server} is active under epoch {epoch}.",
        target=Role.ACTIVE,
        said=True,
    ),
    Row(
        "active-again",
        (Role.PROMOTING,),
        c.all_of(c.cause_is(Cause.START, Cause.NONE), _in_service),
        "{server} is active again under epoch {epoch}.",
        target=Role.ACTIVE,
        severity="warning",
        said=True,
        told=True,
    ),
    Row(
        "switch-back",
        (Role.PROMOTING,),
        c.all_of(c.cause_is(Cause.SWITCHOVER), _limping, c.negated(c.partner_silent), c.is_source),
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

_SERVE = (
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
        c.gate_lost,
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
        c.all_of(c.asked_switchover, c.switchover_possible),
        "Switchover: {server} hands the active role to {partner}.",
        target=Role.SWITCHING,
        cause=Cause.SWITCHOVER,
        remember=_to_target,
        words=_partner_words,
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
        c.out_of_service,
        "{server} is out of service and follows.",
        target=Role.PASSIVE,
        remember=lambda s, o: replace(s, epoch=0, partner="", joining=(), doubts=()),
        said=True,
    ),
)

TRANSITIONS: tuple[Row, ...] = (*_BOOT, *_FOLLOW, *_STAND, *_PROMOTE, *_SERVE)
