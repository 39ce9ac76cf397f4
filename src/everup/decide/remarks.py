"""Rows that remember what was seen, and say it to people when it matters.

What leaves: `REMARKS`. They perform nothing. A remark that compares with what is remembered fires
once; a trouble holds on while it lasts, and the agent tells it once. Called by `decide`.
"""

from dataclasses import replace

from everup.decide import conditions as c
from everup.decide import data as d
from everup.decide import upkeep
from everup.decide import work as w
from everup.decide.duties import FOLLOWING
from everup.decide.row import Row
from everup.model.observation import Observation
from everup.model.role import Role, State

EXPOSED_MS = 30_000
"""So old a change that only the active server has is worth a word."""
_EVERY = tuple(Role)
_OFFICE = (Role.PROMOTING, Role.ACTIVE, Role.SWITCHING)


def _list(s: State, o: Observation) -> tuple[str, ...]:
    return c.record(o).may_take_over


def _voters(s: State, o: Observation) -> tuple[str, ...]:
    return c.record(o).voters


def _list_differs(s: State, o: Observation) -> bool:
    return o.keeper is not None and s.listed != _list(s, o)


def _voters_differ(s: State, o: Observation) -> bool:
    return o.keeper is not None and s.voters != _voters(s, o)


def _note_list(s: State, o: Observation) -> State:
    return replace(s, listed=_list(s, o))


def _note_voters(s: State, o: Observation) -> State:
    return replace(s, voters=_voters(s, o))


def _holder_differs(s: State, o: Observation) -> bool:
    return c.last_holder(s, o) != (s.last_holder, s.last_holder_epoch)


def _note_holder(s: State, o: Observation) -> State:
    name, epoch = c.last_holder(s, o)
    return replace(s, last_holder=name, last_holder_epoch=epoch)


def _list_words(s: State, o: Observation) -> dict[str, str]:
    end = o.guard.position if o.guard is not None else None
    return {
        "since": f"{end.epoch}/{end.sequence}" if end is not None else "now",
        "gone": " and ".join(sorted(set(s.listed) - set(_list(s, o)))),
        "come": " and ".join(sorted(set(_list(s, o)) - set(s.listed))),
    }


def _voter_words(s: State, o: Observation) -> dict[str, str]:
    missing = sorted(v for v in upkeep.full_voters(o) if v != o.server and c.silent(o, v))
    return {"missing": " and ".join(missing), "names": ", ".join(_voters(s, o))}


def _someone_left(s: State, o: Observation) -> bool:
    return _list_differs(s, o) and bool(set(s.listed) - set(_list(s, o)))


def _voters_fewer(s: State, o: Observation) -> bool:
    return _voters_differ(s, o) and len(_voters(s, o)) < len(s.voters)


def _trouble_words(s: State, o: Observation) -> dict[str, str]:
    start = o.outcome("StartUnits")
    drain = o.outcome(f"Drain {s.epoch}")
    opened = o.outcome("OpenGate")
    reasons = [x.sentence for x in (drain, opened) if x is not None and not x.done]
    found = {
        "apply": o.replicator.trouble if o.replicator is not None else "",
        "journal": o.guard.journal_sentence if o.guard is not None else "",
        "units": start.sentence if start is not None else "",
        "promotion": reasons[0] if reasons else "",
    }
    # The row's sentence brings its own full stop; systemd's often has one too.
    return {name: sentence.rstrip(".") for name, sentence in found.items()}


def _exposed(s: State, o: Observation) -> bool:
    return not s.exposed and d.recovery_point_ms(o) >= EXPOSED_MS


def _exposed_no_more(s: State, o: Observation) -> bool:
    known = o.replicator is not None and o.replicator.role == "source"
    return s.exposed and known and d.recovery_point_ms(o) < EXPOSED_MS // 2


def _exposed_words(s: State, o: Observation) -> dict[str, str]:
    others = o.replicator.followers if o.replicator is not None else ()
    best = min(others, key=lambda other: other.oldest_ms, default=None)
    return {
        "seconds": str(d.recovery_point_ms(o) // 1000),
        "bytes": str(best.queue_bytes if best is not None else 0),
    }


def _promotion_stuck(s: State, o: Observation) -> bool:
    return c.failed(s, o, f"Drain {s.epoch}") or c.failed(s, o, "OpenGate")


def _journal_bad(s: State, o: Observation) -> bool:
    return d.journal_bad(o)


def _apply_stopped(s: State, o: Observation) -> bool:
    return o.replicator is not None and bool(o.replicator.trouble)


REMARKS: tuple[Row, ...] = (
    Row(
        "boot-noted",
        (Role.UNPROTECTED, *FOLLOWING),
        c.booted_anew,
        "{server} was started anew.",
        remember=lambda s, o: replace(
            s, boot_id=o.boot_id, since_ms=o.now_ms, row="boot-noted", epoch=0, doubts=()
        ),
    ),
    Row(
        "holder-noted",
        _EVERY,
        _holder_differs,
        "Who holds the lease is remembered.",
        remember=_note_holder,
    ),
    Row(
        "successor-noted",
        FOLLOWING,
        lambda s, o: s.row == "handed-over" and c.newer_epoch(s, o),
        "{holder} has taken the active role over.",
        remember=lambda s, o: replace(s, row="successor-noted", partner=""),
    ),
    Row(
        "doubts-noted",
        _OFFICE,
        lambda s, o: upkeep.doubts_now(s, o) != s.doubts,
        "Who is doubted is remembered.",
        remember=lambda s, o: replace(s, doubts=upkeep.doubts_now(s, o)),
    ),
    Row(
        "joining-noted",
        (Role.ACTIVE,),
        lambda s, o: upkeep.joining_now(s, o) != s.joining,
        "Who is on its way to the may-take-over list is remembered.",
        remember=lambda s, o: replace(s, joining=upkeep.joining_now(s, o)),
    ),
    Row(
        "list-shrunk",
        (Role.ACTIVE,),
        _someone_left,
        "{gone} may no longer take over by itself; from {since} on nothing waits for it any more.",
        remember=_note_list,
        words=_list_words,
        severity="warning",
        said=True,
        told=True,
    ),
    Row(
        "list-grew",
        (Role.ACTIVE,),
        c.all_of(_list_differs, c.negated(_someone_left)),
        "{come} holds everything and may take over.",
        remember=_note_list,
        words=_list_words,
        said=True,
    ),
    Row(
        "list-noted",
        tuple(role for role in _EVERY if role is not Role.ACTIVE),
        _list_differs,
        "The may-take-over list has changed.",
        remember=_note_list,
    ),
    Row(
        "voters-shrunk",
        (Role.ACTIVE,),
        _voters_fewer,
        "Only {names} votes now: there is no automatic failover until {missing} is back.",
        remember=_note_voters,
        words=_voter_words,
        severity="warning",
        said=True,
        told=True,
    ),
    Row(
        "voters-grew",
        (Role.ACTIVE,),
        c.all_of(_voters_differ, c.negated(_voters_fewer)),
        "The voters are {names}.",
        remember=_note_voters,
        words=_voter_words,
        said=True,
    ),
    Row(
        "voters-noted",
        tuple(role for role in _EVERY if role is not Role.ACTIVE),
        _voters_differ,
        "The voters have changed.",
        remember=_note_voters,
    ),
    Row(
        "recovery-point-old",
        (Role.ACTIVE,),
        _exposed,
        "What {server} wrote {seconds} s ago is on no other server yet: {bytes} bytes wait.",
        remember=lambda s, o: replace(s, exposed=True),
        words=_exposed_words,
        said=True,
    ),
    Row(
        "recovery-point-good",
        (Role.ACTIVE,),
        _exposed_no_more,
        "What {server} writes reaches another server again.",
        remember=lambda s, o: replace(s, exposed=False),
        words=_exposed_words,
        said=True,
    ),
    Row(
        "promotion-stuck",
        (Role.PROMOTING,),
        _promotion_stuck,
        "{server} holds the lease but cannot go into service yet: {promotion}.",
        words=_trouble_words,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "units-failed",
        (Role.ACTIVE,),
        w.start_failed,
        "The applications do not run on {server}: {units}.",
        words=_trouble_words,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "journal-trouble",
        (Role.PROMOTING, Role.ACTIVE),
        _journal_bad,
        "The journal of {server} is in trouble: {journal}.",
        words=_trouble_words,
        severity="critical",
        said=True,
        told=True,
    ),
    Row(
        "apply-stopped",
        FOLLOWING,
        _apply_stopped,
        "{server} receives but does not apply: {apply}.",
        words=_trouble_words,
        severity="critical",
        said=True,
        told=True,
    ),
)

TROUBLES = frozenset(row.id for row in REMARKS if row.said and row.remember is None)
"""Remarks that hold on while something is wrong."""

assert all(row.target is None for row in REMARKS)
