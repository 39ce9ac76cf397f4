"""May this server ask for the lease by itself, and if not, for what or whom does it wait?

What enters: state and observation. What leaves: "" when it may stand, else the reason as a
sentence; the same text is what `status` shows. Called by the table and by `decide`. Pure.
"""

from everup.decide import conditions as c
from everup.decide import data as d
from everup.decide import work as w
from everup.model.observation import Observation
from everup.model.role import State

SUCCESSION_WAIT_MS = 1_500
"""Behind the end of the lease: so long a server leaves it to those before it in the succession."""
REFUSED_PAUSE_MS = 200
"""After a refusal a server asks again no sooner; servers later in the list wait longer."""
RANK_PAUSE_MS = 300


def why_not(s: State, o: Observation) -> str:
    """Reason why this server does not stand by itself; "" when it may."""
    return _blind(o) or _not_allowed(s, o) or _taken(s, o) or _later(s, o)


def _blind(o: Observation) -> str:
    if o.keeper is None:
        return "waiting for this server's keeper, which does not answer"
    if o.guard is None:
        return "waiting for this server's guard, which does not answer"
    if o.replicator is None:
        return "waiting for this server's replicator, which does not answer"
    return ""


def _not_allowed(s: State, o: Observation) -> str:
    if c.asked_hold(s, o):
        return "held back while a change is being made"
    if o.stopping:
        return f"{o.server} is being shut down"
    if not d.founded(s, o):
        return "waiting for the first protect of this group to finish"
    if not c.listed(s, o):
        names = ", ".join(c.record(o).may_take_over) or "nobody"
        return f"waiting: this server is not on the list of those that may take over ({names})"
    if not d.consistent(s, o):
        return "waiting for the missing data: what is here is not yet at any one position"
    if not d.armed(s, o):
        return "waiting until the closed gate stands over every protected path"
    return ""


def _taken(s: State, o: Observation) -> str:
    holder = c.other_holder(s, o)
    if holder and not c.silent(o, holder) and not c.gave_up(o, holder):
        return f"following {holder}, which holds the lease"
    return ""


def _later(s: State, o: Observation) -> str:
    """Passing reasons: somebody better is expected, or the voters said no a moment ago."""
    if w.handing_over(s, o):
        return f"waiting for {s.partner} to take the active role"
    giver, taker = w.handed_to_another(o)
    if giver:
        return f"waiting for {taker}, to which {giver} hands the active role"
    wanted = preferred(s, o)
    if wanted and not c.asked_failover(s, o):
        return f"waiting for {wanted}, which was active last and is the better choice"
    assert o.keeper is not None
    if not o.keeper.quorum_reachable:
        missing = [v for v in c.record(o).voters if v != o.server and c.silent(o, v)]
        return f"waiting for a majority of the voters; not heard: {', '.join(missing) or 'none'}"
    refusal = o.outcome("Stand")
    if refusal is not None and not refusal.done and o.now_ms - refusal.at_ms < _pause_ms(o):
        return f"the voters refused: {refusal.sentence}"
    return ""


def preferred(s: State, o: Observation) -> str:
    """A server that should stand instead of this one, as long as waiting for it makes sense."""
    holder = c.other_holder(s, o)
    if holder:
        found = c.peer(o, holder)
        if found is None or found.heard_ms_ago is None:
            return holder if _just_started(o) else ""
        if _fit(o, holder):
            return holder
        patient = found.heard_ms_ago < o.group.silence_ms + o.group.lease_ms + SUCCESSION_WAIT_MS
        return _better(o) if patient and c.silent(o, holder) else ""
    return _better(o) if _just_started(o) else ""


def _better(o: Observation) -> str:
    """The first in the succession that can stand, when that is not this server; one that is in
    trouble leaves it to any other."""
    names = succession(o)
    data = o.replicator
    sound = data is not None and not data.trouble and not d.journal_bad(o)
    names = names[: _rank(o)] if sound else tuple(n for n in names if n != o.server)
    return next((n for n in names if _fit(o, n)), "")


def succession(o: Observation) -> tuple[str, ...]:
    """Those that may take over, in the order of their identities."""
    listed = c.record(o).may_take_over
    return tuple(name for name in o.group.servers if name in listed)


def _just_started(o: Observation) -> bool:
    return o.now_ms - o.started_ms < c.START_WAIT_MS


def _fit(o: Observation, server: str) -> bool:
    found = c.peer(o, server)
    return (
        found is not None
        and not c.silent(o, server)
        and server in c.record(o).may_take_over
        and found.facts.role in ("passive", "standing", "promoting")
        and found.facts.consistent
        and not found.facts.trouble
    )


def _rank(o: Observation) -> int:
    names = succession(o)
    return names.index(o.server) if o.server in names else len(names)


def _pause_ms(o: Observation) -> int:
    # No random numbers in a decision: servers that collide are told apart by their place.
    return REFUSED_PAUSE_MS + RANK_PAUSE_MS * _rank(o)
