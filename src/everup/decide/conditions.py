"""Named predicates over (state, observation); the table is written in these words.

What enters: one turn's state and observation. What leaves: True only when the fact is known; a
part that did not answer makes a predicate False, never True by absence. Called by the table.
"""

from collections.abc import Callable

from everup.model.observation import KeeperPeer, Observation, Outcome, Record, Request
from everup.model.role import State

Condition = Callable[[State, Observation], bool]

START_WAIT_MS = 10_000
"""A server that has just begun to observe waits this long for the one that was active last."""
SETTLE_MS = 1_500
VOTER_ABSENCE_MS = 10_000
"""A voter that is away for this long stops voting until it is back."""


def all_of(*conditions: Condition) -> Condition:
    return lambda s, o: all(condition(s, o) for condition in conditions)


def any_of(*conditions: Condition) -> Condition:
    return lambda s, o: any(condition(s, o) for condition in conditions)


def negated(condition: Condition) -> Condition:
    return lambda s, o: not condition(s, o)


def always(s: State, o: Observation) -> bool:
    return True


# --- this server's life ------------------------------------------------------------------------


def booted_anew(s: State, o: Observation) -> bool:
    """`since_ms` and every role that needs a running process belong to an earlier boot."""
    return s.boot_id != o.boot_id


def age_ms(s: State, o: Observation) -> int:
    return max(0, o.now_ms - s.since_ms)


def settled_in(s: State, o: Observation) -> bool:
    """Long enough in the role for the other processes to have found out where they stand."""
    return age_ms(s, o) >= SETTLE_MS


def protects(s: State, o: Observation) -> bool:
    return bool(o.group.trees)


def ended(s: State, o: Observation, key: str) -> Outcome | None:
    """Outcome of an action that ended while this role lasted."""
    outcome = o.outcome(key)
    return outcome if outcome is not None and outcome.at_ms >= s.since_ms else None


def failed(s: State, o: Observation, key: str) -> bool:
    outcome = ended(s, o, key)
    return outcome is not None and not outcome.done


def done(s: State, o: Observation, key: str) -> bool:
    outcome = ended(s, o, key)
    return outcome is not None and outcome.done


# --- requests ----------------------------------------------------------------------------------


def _asked(o: Observation, kind: str) -> Request | None:
    return o.request if o.request is not None and o.request.kind == kind else None


def asked_found(s: State, o: Observation) -> bool:
    return _asked(o, "found") is not None


def asked_hold(s: State, o: Observation) -> bool:
    return _asked(o, "hold") is not None


def asked_switchover(s: State, o: Observation) -> bool:
    return _asked(o, "switchover") is not None


def asked_failover(s: State, o: Observation) -> bool:
    request = _asked(o, "failover")
    return request is not None and not request.force


def asked_forced(s: State, o: Observation) -> bool:
    request = _asked(o, "failover")
    return request is not None and request.force


# --- lease and record --------------------------------------------------------------------------


def held_epoch(o: Observation) -> int:
    """Epoch of the lease that this server holds at this moment by the page; 0 for none."""
    return o.page_epoch if o.page_left_ms > 0 else 0


def lease_held(s: State, o: Observation) -> bool:
    return s.epoch > 0 and held_epoch(o) == s.epoch


def lease_lost(s: State, o: Observation) -> bool:
    return not lease_held(s, o)


def any_lease(s: State, o: Observation) -> bool:
    return held_epoch(o) > 0


def record(o: Observation) -> Record:
    return o.keeper.record if o.keeper is not None else Record()


def promised(o: Observation) -> tuple[frozenset[str], bool]:
    """Who may have to be waited for, and whether in durable mode.

    While a change of the record is unfinished nobody knows which of the two will count: both do.
    """
    previous = o.keeper.previous if o.keeper is not None else None
    records = (record(o), previous) if previous is not None else (record(o),)
    names = frozenset(name for found in records for name in found.may_take_over)
    return names - {o.server}, any(found.mode == "durable" for found in records)


def listed(s: State, o: Observation) -> bool:
    return o.server in record(o).may_take_over


def peer(o: Observation, server: str) -> KeeperPeer | None:
    return o.keeper.peer(server) if o.keeper is not None else None


def silent(o: Observation, server: str) -> bool:
    """Known to be unheard; a peer that was never heard is silent too."""
    if o.keeper is None:
        return False
    found = o.keeper.peer(server)
    if found is None or found.heard_ms_ago is None:
        return True
    return not found.reachable or found.heard_ms_ago >= o.group.silence_ms


def last_holder(s: State, o: Observation) -> tuple[str, int]:
    """Who holds the lease, or held it last, and its epoch; ("", 0) when nobody ever did."""
    if o.keeper is not None and o.keeper.holder and o.keeper.holder_epoch >= s.last_holder_epoch:
        return o.keeper.holder, o.keeper.holder_epoch
    return s.last_holder, s.last_holder_epoch


def other_holder(s: State, o: Observation) -> str:
    """Another server that holds the lease, or held it last."""
    name = last_holder(s, o)[0]
    return "" if name == o.server else name


def acting_peer(o: Observation) -> str:
    """Another server that says of itself, audibly, that it is in service or on its way."""
    peers = o.keeper.peers if o.keeper is not None else ()
    for found in peers:
        busy = found.facts.role in ("active", "promoting", "switching")
        if busy and not silent(o, found.server):
            return found.server
    return ""


def lease_free(s: State, o: Observation) -> bool:
    """Nobody audible holds the lease: what the voters will say is another matter."""
    if o.keeper is None:
        return False
    holder = other_holder(s, o)
    return not holder or silent(o, holder) or gave_up(o, holder)


def gave_up(o: Observation, server: str) -> bool:
    """An audible former holder that holds no lease any more."""
    return o.keeper is not None and o.keeper.holder != server and not silent(o, server)


def holder_silent(s: State, o: Observation) -> bool:
    holder = other_holder(s, o)
    return bool(holder) and silent(o, holder)


def newer_epoch(s: State, o: Observation) -> bool:
    """Somebody else was granted a later epoch than the one this server acts under."""
    name, epoch = last_holder(s, o)
    return bool(name) and name != o.server and epoch > s.epoch
