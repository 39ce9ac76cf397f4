"""What a failover may have lost: the old active's last word against what was received here.

What enters: state and observation of the turn in which the lease is granted. What leaves: one
sentence for people, "" when there is nothing to say. Called by the table. Pure.
"""

from everup.decide import conditions as c
from everup.model.observation import KeeperPeer, Observation, PeerFacts
from everup.model.position import Position
from everup.model.role import Cause, State

_IN_OFFICE = ("active", "switching", "promoting", "demoting")


def loss(s: State, o: Observation) -> str:
    """What of the old active is known to be missing here, with a blank in front.

    Counted up to its last heartbeat, since nobody here can know what it wrote after that. In
    durable mode nothing that was acknowledged can be missing, unless a person insisted.
    """
    forced = s.cause is Cause.FORCED
    if not forced and (s.cause is not Cause.FAILOVER or c.record(o).mode == "durable"):
        return ""
    known = _was_active(o)
    name = known.server if known is not None else s.last_holder
    if name in ("", o.server):
        return ""
    mine = _received(o)
    if known is None or known.facts.position is None or mine is None:
        return f" How much of {name} is missing here is not known: it was not heard before."
    behind = _behind(known.facts.position, mine)
    if behind <= 0:
        return (
            f" No loss is known: everything that {name} had told of up to its last heartbeat "
            "was received."
        )
    return (
        f" At most {behind} operations{_queue(known.facts)} that {name} had told of up to its last "
        "heartbeat were not received; what it wrote after that is not known here."
    )


def _was_active(o: Observation) -> KeeperPeer | None:
    """Of those that were in office when they were heard last, the one of the latest epoch."""
    peers = o.keeper.peers if o.keeper is not None else ()
    found = [p for p in peers if p.facts.role in _IN_OFFICE and p.facts.epoch > 0]
    return max(found, key=lambda p: p.facts.epoch, default=None)


def _received(o: Observation) -> Position | None:
    if o.replicator is not None and o.replicator.received is not None:
        return o.replicator.received
    return o.guard.position if o.guard is not None else None


def _behind(told: Position, mine: Position) -> int:
    """Sequences go on from epoch to epoch; who has a later epoch has everything of the earlier."""
    return told.sequence - mine.sequence if told.epoch >= mine.epoch else 0


def _queue(facts: PeerFacts) -> str:
    if facts.send_queue is None or not facts.send_queue[0]:
        return ""
    size, _, oldest_ms = facts.send_queue
    return f" ({size} bytes, written in its last {oldest_ms} ms)"
