"""Why this and not something else, in sentences for people.

What enters: state and observation. What leaves: the words that rows are filled with, the sentence
that `status` shows, and the reason why a request is refused. Called by `decide`. Pure.
"""

from everup.decide import conditions as c
from everup.decide import data as d
from everup.decide import standing
from everup.model.observation import Observation
from everup.model.role import Role, State


def words(s: State, o: Observation) -> dict[str, str]:
    """What every row's sentence may name."""
    return {
        "server": o.server,
        "role": s.role.value,
        "epoch": str(s.epoch),
        "held": str(c.held_epoch(o)),
        "partner": s.partner or "the partner",
        "holder": c.other_holder(s, o) or "nobody",
    }


def situation(s: State, o: Observation) -> str:
    """What this server is doing, or what it waits for."""
    if s.role is Role.UNPROTECTED:
        return "nothing is protected"
    if s.role in (Role.PASSIVE, Role.REJOINING):
        return standing.why_not(s, o) or "about to stand for the active role"
    if s.role is Role.ACTIVE:
        ending = ", and is being shut down" if o.stopping else ""
        return f"active under epoch {s.epoch}{ending}"
    sentences = {
        Role.STANDING: "asks the voters for the lease",
        Role.PROMOTING: f"goes into service under epoch {s.epoch}",
        Role.SWITCHING: f"hands the active role to {s.partner}",
        Role.DEMOTING: "goes out of service",
    }
    return sentences[s.role]


def refusal(s: State, o: Observation) -> tuple[str, str]:
    """(code, sentence) of why no row takes up the request."""
    assert o.request is not None
    if o.request.kind == "switchover":
        return _switchover_refusal(s, o)
    if o.request.kind == "failover":
        return _failover_refusal(s, o)
    if s.role is Role.ACTIVE:
        return "already-active", f"{o.server} is active already"
    if not c.protects(s, o):
        return "nothing-protected", "nothing is protected in this group's settings"
    return "not-ready", standing.why_not(s, o) or f"{o.server} {situation(s, o)}"


def _switchover_refusal(s: State, o: Observation) -> tuple[str, str]:
    if s.role is not Role.ACTIVE:
        return "not-active", f"{o.server} is {s.role.value}: only the active server hands over"
    wanted = o.request.to if o.request is not None else ""
    if wanted == o.server:
        return "already-active", f"{wanted} is active already"
    if wanted and wanted not in o.group.servers:
        return "unknown-server", f"{wanted} is not a server of this group that holds data"
    names = (wanted,) if wanted else tuple(n for n in o.group.servers if n != o.server)
    reasons = [not_ready(o, name) for name in names]
    return "not-ready", "; ".join(reasons) or "there is no other server in this group"


def not_ready(o: Observation, server: str) -> str:
    """Why the active role cannot be handed to `server` now; "" when it can."""
    found = d.follower(o, server)
    if d.journal_bad(o):
        return f"what {o.server} writes does not reach its journal"
    if c.silent(o, server):
        return f"{server} is not heard"
    if found is None or not found.connected:
        return f"{server} is not connected to the stream"
    if not found.in_sync:
        return f"{server} is not synchronized yet"
    if server not in c.record(o).may_take_over:
        return f"{server} is not on the may-take-over list yet"
    return ""


def _failover_refusal(s: State, o: Observation) -> tuple[str, str]:
    if s.role in (Role.ACTIVE, Role.PROMOTING, Role.STANDING):
        return "already-active", f"{o.server} {situation(s, o)}"
    if not c.protects(s, o):
        return "nothing-protected", "nothing is protected in this group's settings"
    acting = c.acting_peer(o)
    if acting:
        return "other-active", f"{acting} is active; use a switchover"
    if o.request is not None and o.request.force and d.inconsistent(s, o):
        return "data-incomplete", _incomplete(s, o)
    return "not-ready", standing.why_not(s, o) or f"{o.server} {situation(s, o)}"


def _incomplete(s: State, o: Observation) -> str:
    """Why not even a person can make this server active with the data that it has."""
    state = o.replicator.tree.state if o.replicator is not None else "empty"
    what = {
        "empty": "has no copy of the data yet",
        "syncing": "is in the middle of a resync: some of its files are old and some new, and "
        "together they fit to no moment",
        "open": "was active and did not stop cleanly, and another server has gone on since",
        "at": "cannot use what it received",
    }[state]
    other = c.other_holder(s, o) or "the server that was active last"
    return f"{o.server} {what}; --force cannot mend that. What is whole is on {other}: start it"
