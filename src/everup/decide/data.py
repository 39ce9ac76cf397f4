"""Named predicates about data: the trees, the journal, who has what.

What enters: one turn's state and observation. What leaves: as in `conditions`, True only when the
fact is known. Called by the table.
"""

from everup.decide import conditions as c
from everup.model.observation import Follower, Observation
from everup.model.position import Position
from everup.model.role import Cause, State


def consistent(s: State, o: Observation) -> bool:
    """The tree, with what was received, is one position of the group's history."""
    data = o.replicator
    return data is not None and (data.consistent or own_history(s, o))


def own_history(s: State, o: Observation) -> bool:
    """The tree is where this server's own unclean end left it, and nobody went on since."""
    data = o.replicator
    if data is None or o.keeper is None or data.tree.state != "open":
        return False
    name, epoch = c.last_holder(s, o)
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
    return c.record(o).epoch > 0 or tree != "empty"


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
    return c.done(s, o, f"Drain {s.epoch}")


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
        follows = known.facts.role in ("passive", "rejoining") and not c.silent(o, known.server)
        if mine is None or theirs is None or not follows or known.server not in o.group.servers:
            continue
        if (theirs.epoch, theirs.sequence) > (mine.epoch, mine.sequence):
            found.append(known.server)
    return tuple(found)
