"""Named predicates over (state, observation); the table is written in these words.

What enters: one turn's state and observation. What leaves: True only when the fact is known; a
part that did not answer makes a predicate False, never True by absence. Called by the table.
"""

from collections.abc import Callable

from everup.model.observation import Follower, KeeperPeer, Observation, Outcome, Record, Request
from everup.model.position import Position
from everup.model.role import Cause, State

Condition = Callable[[State, Observation], bool]

START_WAIT_MS = 10_000
"""A server that has just begun to observe waits this long for the one that was active last."""
HANDOVER_WAIT_MS = 8_000
"""After giving the lease to its partner a server does not stand for this long."""
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


# --- data --------------------------------------------------------------------------------------


def consistent(s: State, o: Observation) -> bool:
    """The tree, with what was received, is one position of the group's history."""
    data = o.replicator
    return data is not None and (data.consistent or own_history(s, o))


def own_history(s: State, o: Observation) -> bool:
    """The tree is where this server's own unclean end left it, and nobody went on since."""
    data = o.replicator
    if data is None or o.keeper is None or data.tree.state != "open":
        return False
    name, epoch = last_holder(s, o)
    gone_on = epoch > data.tree.epoch and name != o.server
    return data.tree.server == o.server and not gone_on


def inconsistent(s: State, o: Observation) -> bool:
    return o.replicator is not None and o.keeper is not None and not consistent(s, o)


def tree_empty(s: State, o: Observation) -> bool:
    """No history is known of what lies here: it may be the beginning of one."""
    return o.replicator is not None and o.replicator.tree.state == "empty"


def founded(s: State, o: Observation) -> bool:
    """The group has a history: some epoch was opened, as far as this server can tell."""
    tree = o.replicator.tree.state if o.replicator is not None else "empty"
    return record(o).epoch > 0 or tree != "empty"


def journal_bad(o: Observation) -> bool:
    """What is written now does not reach the journal, and so reaches nobody."""
    return o.guard is not None and o.guard.journal_state != "ok"


def gate_open(s: State, o: Observation) -> bool:
    return o.guard is not None and o.guard.gate == "open" and o.guard.epoch == s.epoch


def gate_lost(s: State, o: Observation) -> bool:
    return o.guard is not None and not gate_open(s, o)


def gate_closed(s: State, o: Observation) -> bool:
    return o.guard is not None and o.guard.gate == "closed"


def gate_not_closed(s: State, o: Observation) -> bool:
    return o.guard is not None and o.guard.gate != "closed"


def armed(s: State, o: Observation) -> bool:
    return o.guard is not None and set(o.guard.armed) == set(o.group.trees)


def sealed(s: State, o: Observation) -> bool:
    return o.replicator is not None and o.replicator.sealed_epoch >= s.epoch > 0


def drained(s: State, o: Observation) -> bool:
    return done(s, o, f"Drain {s.epoch}")


def at_end(s: State, o: Observation) -> bool:
    """The tree holds everything that this server ever received or wrote."""
    begins = s.cause is Cause.FOUNDING and tree_empty(s, o)
    return drained(s, o) or own_history(s, o) or begins


def is_source(s: State, o: Observation) -> bool:
    data = o.replicator
    return data is not None and data.role == "source" and data.source_epoch == s.epoch


def is_target(s: State, o: Observation) -> bool:
    return o.replicator is not None and o.replicator.role == "target"


def final_position(o: Observation) -> Position | None:
    """Where the closed gate left the history."""
    return o.guard.position if o.guard is not None and o.guard.gate == "closed" else None


def follower(o: Observation, server: str) -> Follower | None:
    return o.replicator.follower(server) if o.replicator is not None else None


def partner_at_end(s: State, o: Observation) -> bool:
    """The partner has applied exactly what this server wrote last."""
    end, found = final_position(o), follower(o, s.partner)
    return not journal_bad(o) and end is not None and found is not None and found.applied == end


def recovery_point_ms(o: Observation) -> int:
    """Age of the oldest change that no other server has; 0 when there is none."""
    others = o.replicator.followers if o.replicator is not None else ()
    return min((other.oldest_ms for other in others), default=0)


def ahead_of(o: Observation) -> tuple[str, ...]:
    """Passive servers that say they have received more than this one, of whatever line."""
    mine = o.replicator.received if o.replicator is not None else None
    found = []
    for known in o.keeper.peers if o.keeper is not None else ():
        theirs = known.facts.position
        follows = known.facts.role in ("passive", "rejoining") and not silent(o, known.server)
        if mine is None or theirs is None or not follows or known.server not in o.group.servers:
            continue
        if (theirs.epoch, theirs.sequence) > (mine.epoch, mine.sequence):
            found.append(known.server)
    return tuple(found)


# --- applications and address ------------------------------------------------------------------


def flag_up(s: State, o: Observation) -> bool:
    return o.flag


def address_up(s: State, o: Observation) -> bool:
    return o.keeper is not None and set(o.group.public) <= set(o.keeper.present)


def address_missing(s: State, o: Observation) -> bool:
    return o.keeper is not None and not address_up(s, o)


def address_down(s: State, o: Observation) -> bool:
    return o.keeper is not None and not o.keeper.present


def address_not_down(s: State, o: Observation) -> bool:
    return o.keeper is not None and bool(o.keeper.present)


def units_held(s: State, o: Observation) -> bool:
    units = o.units
    return units is not None and {u.name for u in units if u.held} == set(o.group.units)


def units_running(s: State, o: Observation) -> bool:
    return o.units is not None and all(
        unit.state in ("active", "reloading") for unit in o.units if unit.name in o.group.units
    )


def units_stopped(s: State, o: Observation) -> bool:
    return o.units is not None and all(
        unit.state in ("inactive", "failed") for unit in o.units if unit.name in o.group.units
    )


def units_not_held(s: State, o: Observation) -> bool:
    return o.units is not None and not units_held(s, o)


def units_not_running(s: State, o: Observation) -> bool:
    return o.units is not None and not units_running(s, o)


def units_not_stopped(s: State, o: Observation) -> bool:
    return o.units is not None and not units_stopped(s, o)


def start_failed(s: State, o: Observation) -> bool:
    """While the server is shut down systemd refuses every start: that is no failure."""
    return failed(s, o, "StartUnits") and not units_running(s, o) and not o.stopping


def stopping(s: State, o: Observation) -> bool:
    """This server is being shut down; its own processes are stopped after the units."""
    return o.stopping


def out_of_service(s: State, o: Observation) -> bool:
    """Nothing of this server reaches a client any more."""
    return not o.flag and address_down(s, o) and gate_closed(s, o) and units_stopped(s, o)


# --- switchover --------------------------------------------------------------------------------


def target_of(s: State, o: Observation) -> str:
    """Server that a requested switchover goes to: the one named, else the best that is ready."""
    request = _asked(o, "switchover")
    if request is None:
        return ""
    wanted = (request.to,) if request.to else o.group.servers
    return next((name for name in wanted if ready_for_switchover(o, name)), "")


def ready_for_switchover(o: Observation, server: str) -> bool:
    found = follower(o, server)
    return (
        server != o.server
        and not journal_bad(o)
        and server in record(o).may_take_over
        and not silent(o, server)
        and found is not None
        and found.connected
        and found.in_sync
    )


def switchover_possible(s: State, o: Observation) -> bool:
    return bool(target_of(s, o))


def handed_to_me(s: State, o: Observation) -> bool:
    return bool(giver(o))


def giver(o: Observation) -> str:
    """Peer that gave its lease up for this server and waits for it to stand."""
    for found in o.keeper.peers if o.keeper is not None else ():
        released = o.keeper is not None and o.keeper.holder != found.server
        if found.facts.hand_to == o.server and released and not silent(o, found.server):
            return found.server
    return ""


def handing_over(s: State, o: Observation) -> bool:
    """This server gave its lease to its partner a moment ago."""
    return s.row == "handed-over" and age_ms(s, o) < HANDOVER_WAIT_MS


def handed_in_vain(s: State, o: Observation) -> bool:
    return s.row == "handed-over" and age_ms(s, o) >= HANDOVER_WAIT_MS


def switching_too_long(s: State, o: Observation) -> bool:
    return age_ms(s, o) > o.group.stop_deadline_ms * max(1, len(o.group.units)) + 20_000


def partner_silent(s: State, o: Observation) -> bool:
    return silent(o, s.partner)


def cause_is(*causes: Cause) -> Condition:
    return lambda s, o: s.cause in causes
