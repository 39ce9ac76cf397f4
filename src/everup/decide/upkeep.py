"""What the active server keeps in order in the record and in the guard's policy.

What enters: state and observation. What leaves: the next proposal, the wanted policy, and what to
remember (who is doubted since when, who is on its way back). Called by the table. Pure.

Order that keeps `durable`: fsync waits for a server *before* it is put on the may-take-over list,
and until *after* it was taken off. The list is therefore always a part of those waited for.
"""

from dataclasses import replace

from everup.decide import conditions as c
from everup.decide import data as d
from everup.model.action import Propose, SetPolicy
from everup.model.observation import Mode, Observation
from everup.model.role import Doubt, Joining, State

NOT_YET = -1
"""A joining server's sequence before the guard was seen to wait for it."""
VOTER = "voter "
"""Prefix that tells a doubt about a vote from a doubt about data."""


# --- policy ------------------------------------------------------------------------------------


def wanted_policy(s: State, o: Observation) -> SetPolicy:
    """What an fsync has to wait for, given the record and who is being added."""
    promised, durable = c.promised(o)
    names = {*promised, *(j.server for j in s.joining)} - {o.server}
    mode: Mode = "durable" if durable or o.group.mode == "durable" else "async"
    return SetPolicy(mode, tuple(sorted(names)))


def policy_differs(s: State, o: Observation) -> bool:
    guard, wanted = o.guard, wanted_policy(s, o)
    return (
        guard is not None
        and o.keeper is not None
        and guard.gate == "open"
        and (guard.mode != wanted.mode or set(guard.must_acknowledge) != {*wanted.must_acknowledge})
    )


# --- proposals ---------------------------------------------------------------------------------


def next_proposal(s: State, o: Observation) -> Propose | None:
    """The most urgent change of the record, or None. Shrinking comes before growing."""
    if o.keeper is None or o.guard is None:
        return None
    return (
        removal(s, o)
        or _mode_down(o)
        or _fewer_voters(s, o)
        or _addition(s, o)
        or _mode_up(o)
        or _more_voters(s, o)
    )


def removal(s: State, o: Observation) -> Propose | None:
    """Take everybody off the list who no longer holds, or may soon not hold, what was promised."""
    names = c.record(o).may_take_over
    kept = tuple(n for n in names if n == o.server or not _must_leave(s, o, n))
    return Propose(may_take_over=kept) if kept != names else None


def removal_when_promoting(s: State, o: Observation) -> Propose | None:
    """A new active server goes on without those it does not hear: nobody would acknowledge.

    Once its gate is open the applications are starting and may wait for an fsync: then the same
    doubts count as later, or a peer that is heard and does not acknowledge would hold them up.
    """
    names = c.record(o).may_take_over
    waits = o.group.mode == "durable" and not o.group.may_degrade
    leaving = {n for n in names if c.silent(o, n) or (d.gate_open(s, o) and _must_leave(s, o, n))}
    kept = tuple(n for n in names if n == o.server or waits or n not in leaving)
    return Propose(may_take_over=kept) if kept != names and o.keeper is not None else None


def _must_leave(s: State, o: Observation, server: str) -> bool:
    if server not in o.group.servers:
        return True
    doubted = _doubted_for_ms(s, o, server) >= o.group.degrade_ms
    if c.record(o).mode == "durable":
        return doubted and o.group.may_degrade
    # Async: a peer that is only away may still take over, as long as what it lacks is bounded.
    found = d.follower(o, server)
    if found is None:
        return False
    if doubted and d.journal_bad(o):
        return True
    resynced = doubted and found.connected and not found.in_sync
    return resynced or found.queue_bytes > o.group.max_loss_bytes


def _addition(s: State, o: Observation) -> Propose | None:
    names = c.record(o).may_take_over
    added = [j.server for j in s.joining if j.server not in names and _holds_all(o, j)]
    if o.server not in names:
        added.insert(0, o.server)
    # One server at a time: each change is then its own majority decision.
    return Propose(may_take_over=(*names, added[0])) if added else None


def _holds_all(o: Observation, joining: Joining) -> bool:
    found = d.follower(o, joining.server)
    waited_for = o.guard is not None and joining.server in o.guard.must_acknowledge
    return (
        waited_for
        and joining.sequence != NOT_YET
        and found is not None
        and found.acknowledged is not None
        and found.acknowledged.sequence >= joining.sequence
    )


def _mode_down(o: Observation) -> Propose | None:
    lower = o.group.mode == "async" and c.record(o).mode == "durable"
    return Propose(mode="async") if lower else None


def _mode_up(o: Observation) -> Propose | None:
    higher = o.group.mode == "durable" and c.record(o).mode == "async"
    ready = o.guard is not None and o.guard.mode == "durable"
    return Propose(mode="durable") if higher and ready else None


def full_voters(o: Observation) -> tuple[str, ...]:
    """Who votes when everybody is there. Two without an arbiter: only the active one."""
    servers, witness = o.group.servers, o.group.witness
    if len(servers) >= 3:
        return servers
    if len(servers) == 2 and witness:
        return (*servers, witness)
    return (o.server,)


def _fewer_voters(s: State, o: Observation) -> Propose | None:
    voters, full = c.record(o).voters, full_voters(o)
    absent = [v for v in voters if v != o.server and _absent(s, o, v)]
    strange = [v for v in voters if v not in full]
    if voters != (o.server,) and (absent or strange):
        return Propose(voters=(o.server,))
    return pair_ended(o)


def vote_for_partner(s: State, o: Observation) -> Propose | None:
    """Who is to take the lease has to be a voter; with an arbiter it is one already."""
    voters = c.record(o).voters
    return Propose(voters=(*voters, s.partner)) if s.partner not in voters else None


def pair_ended(o: Observation) -> Propose | None:
    """Two voters are for the moment of handing over only: each would end the other's lease."""
    found = c.record(o).voters
    passing = len(found) == 2 and o.server in found
    return Propose(voters=(o.server,)) if passing else None


def _more_voters(s: State, o: Observation) -> Propose | None:
    full = full_voters(o)
    here = all(v == o.server or not c.silent(o, v) for v in full)
    return Propose(voters=full) if here and set(full) != set(c.record(o).voters) else None


def _absent(s: State, o: Observation, voter: str) -> bool:
    return _doubted_for_ms(s, o, VOTER + voter) >= c.VOTER_ABSENCE_MS


# --- what to remember --------------------------------------------------------------------------


def doubts_now(s: State, o: Observation) -> tuple[Doubt, ...]:
    """Who is doubted at this moment; a doubt keeps its beginning until it ends."""
    if o.keeper is None or o.replicator is None:
        return s.doubts
    others = [n for n in c.record(o).may_take_over if n != o.server and _doubtful(o, n)]
    voters = [VOTER + v for v in c.record(o).voters if v != o.server and c.silent(o, v)]
    known = {doubt.server: doubt for doubt in s.doubts}
    return tuple(known.get(n, Doubt(n, o.now_ms)) for n in (*others, *voters))


def _doubtful(o: Observation, server: str) -> bool:
    found = d.follower(o, server)
    return (
        c.silent(o, server)
        or d.journal_bad(o)
        or found is None
        or not found.connected
        or not found.in_sync
        or found.oldest_ms > o.group.degrade_ms
    )


def _doubted_for_ms(s: State, o: Observation, server: str) -> int:
    since = next((d.since_ms for d in s.doubts if d.server == server), o.now_ms)
    found = d.follower(o, server)
    return max(o.now_ms - since, found.oldest_ms if found is not None else 0)


def joining_now(s: State, o: Observation) -> tuple[Joining, ...]:
    """Who is on its way to the list: in sync, not on it yet; with the sequence to be reached."""
    if o.keeper is None or o.replicator is None or o.guard is None:
        return s.joining
    names = c.record(o).may_take_over
    known = {joining.server: joining for joining in s.joining}
    # A proposal on its way may still succeed: until it ends nobody stops waiting for its server.
    asked = set(known) if "Propose" in o.under_way else set()
    others = [n for n in o.group.servers if n != o.server and n not in names]
    ready = [n for n in others if n in asked or _ready(o, n)]
    return tuple(_counted(known.get(n, Joining(n, NOT_YET)), o) for n in ready)


def _ready(o: Observation, server: str) -> bool:
    found = d.follower(o, server)
    return (
        found is not None
        and found.connected
        and found.in_sync
        and found.acknowledged is not None
        and not c.silent(o, server)
        and not d.journal_bad(o)
        and found.oldest_ms <= o.group.degrade_ms
        and found.queue_bytes <= o.group.max_loss_bytes // 2
    )


def _counted(joining: Joining, o: Observation) -> Joining:
    assert o.guard is not None
    if joining.sequence == NOT_YET and joining.server in o.guard.must_acknowledge:
        return replace(joining, sequence=o.guard.sequence)
    return joining
