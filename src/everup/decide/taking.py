"""Rows by which a server comes to the active role, or goes on following.

What leaves: `BOOT` (a new start), `FOLLOW` (outside and behind) and `STAND` (asking the voters).
Called by `table`.
"""

from dataclasses import replace

from everup.decide import conditions as c
from everup.decide import data as d
from everup.decide import standing
from everup.decide import work as w
from everup.decide.duties import FOLLOWING
from everup.decide.loss import loss
from everup.decide.row import Row
from everup.decide.words import partner_words, start_sentence
from everup.model.observation import Observation
from everup.model.role import Cause, Role, State

_IN_OFFICE = (Role.STANDING, Role.PROMOTING, Role.ACTIVE, Role.SWITCHING, Role.DEMOTING)


def _may_stand(s: State, o: Observation) -> bool:
    return c.protects(s, o) and standing.why_not(s, o) == ""


def _may_found(s: State, o: Observation) -> bool:
    ready = o.guard is not None and o.replicator is not None and d.armed(s, o)
    alone = c.lease_free(s, o) or c.any_lease(s, o)
    return ready and alone and (d.tree_empty(s, o) or d.consistent(s, o))


def _may_force(s: State, o: Observation) -> bool:
    ready = o.guard is not None and o.replicator is not None and d.armed(s, o)
    return ready and c.lease_free(s, o) and d.consistent(s, o)


def _granted(s: State, o: Observation) -> bool:
    """A lease of an epoch that was never opened here; an older one does not count."""
    opened = o.guard.epoch if o.guard is not None else c.held_epoch(o)
    return c.held_epoch(o) > max(opened, s.epoch)


def _refused(s: State, o: Observation) -> bool:
    return c.failed(s, o, "Stand") and not _granted(s, o)


def _from_giver(s: State, o: Observation) -> State:
    return replace(s, partner=w.giver(o))


def _with_lease(s: State, o: Observation) -> State:
    return replace(s, epoch=c.held_epoch(o))


def _given_back(s: State, o: Observation) -> bool:
    """The giver had it from here a moment ago and could not go into service."""
    found = c.peer(o, w.giver(o))
    return found is not None and found.facts.cause == Cause.SWITCHBACK.value


def _stand_words(s: State, o: Observation) -> dict[str, str]:
    refusal = o.outcome("Stand")
    return {
        "reason": refusal.sentence if refusal is not None else "",
        "holder": c.other_holder(s, o) or "nobody",
        "stopped": start_sentence(o),
    }


def _granted_words(s: State, o: Observation) -> dict[str, str]:
    return {"loss": loss(s, o)}


BOOT: tuple[Row, ...] = (
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

FOLLOW: tuple[Row, ...] = (
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
        c.all_of(c.protects, _given_back, d.armed),
        "{partner} could not go on and gives the active role back to {server}.",
        target=Role.STANDING,
        cause=Cause.SWITCHBACK,
        remember=_from_giver,
        words=partner_words,
        severity="warning",
        said=True,
    ),
    Row(
        "stand-handed",
        FOLLOWING,
        c.all_of(c.protects, w.handed_to_me, d.consistent, d.armed),
        "{partner} hands the active role to {server}.",
        target=Role.STANDING,
        cause=Cause.SWITCHOVER,
        remember=_from_giver,
        words=partner_words,
        said=True,
    ),
    Row(
        "take-back",
        FOLLOWING,
        c.all_of(w.handed_in_vain, _may_stand),
        "{partner} did not take the active role; {server} takes it back.",
        target=Role.STANDING,
        cause=Cause.SWITCHBACK,
        words=partner_words,
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
        c.all_of(d.armed, d.is_target, d.inconsistent, d.founded, c.settled_in),
        "{server} rejoins: its data are brought up to the active server's.",
        target=Role.REJOINING,
        said=True,
    ),
    Row(
        "data-complete",
        (Role.REJOINING,),
        d.consistent,
        "{server} holds a consistent copy and follows.",
        target=Role.PASSIVE,
        said=True,
    ),
)

STAND: tuple[Row, ...] = (
    # People are told now, not when the applications serve: a database may recover for a while.
    Row(
        "granted-failover",
        (Role.STANDING,),
        c.all_of(w.cause_is(Cause.FAILOVER), _granted),
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
        c.all_of(c.negated(w.cause_is(Cause.FOUNDING, Cause.FORCED)), d.inconsistent),
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
