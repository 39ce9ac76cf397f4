"""What an agent says of itself in this server's heartbeats, and reads in those of its peers.

What enters: one turn's state and observation, or a peer's JSON. What leaves: a small JSON object
(the keeper carries at most 900 bytes), or `PeerFacts`. Anything unreadable counts as not said.
Called by the agent's loop and by `reading`. Pure.
"""

import json
from typing import Any

from everup.decide.data import consistent, recovery_point_ms
from everup.model.observation import Observation, PeerFacts, Replicator
from everup.model.position import Position
from everup.model.role import Role, State

SENTENCE_CHARACTERS_MAX = 120
FACTS_BYTES_MAX = 900
HANDED_OVER = "handed-over"
"""Row after which a server waits for its partner to stand."""


def own_facts(s: State, o: Observation, *, sentence: str, trouble: str) -> dict[str, Any]:
    """What this server tells the others about itself."""
    guard, data = o.guard, o.replicator
    facts: dict[str, Any] = {
        "role": s.role.value,
        "epoch": s.epoch,
        "gate": guard.gate if guard is not None else "unknown",
        "consistent": consistent(s, o),
        "in_sync": data is not None and data.in_sync,
        "sync": data.sync_state if data is not None else "unknown",
        "sentence": sentence[:SENTENCE_CHARACTERS_MAX],
    }
    put = facts.__setitem__
    _put_position(facts, "position", own_position(o))
    if data is not None:
        _put_position(facts, "applied", data.applied)
        put("receive_queue", [data.receive_bytes, data.receive_operations, data.receive_oldest_ms])
        put("send_queue", _send_queue(data))
        put("recovery_ms", recovery_point_ms(o))
    if s.partner and (s.role is Role.SWITCHING or s.row == HANDED_OVER):
        put("hand_to", s.partner)
        put("cause", s.cause.value)
    if s.partner:
        put("partner", s.partner)
    if trouble:
        put("trouble", trouble)
        put("reason", _reason(o)[:SENTENCE_CHARACTERS_MAX])
    return facts


def _reason(o: Observation) -> str:
    """What the process that is in trouble says itself."""
    replicator = o.replicator.trouble if o.replicator is not None else ""
    return replicator or (o.guard.journal_sentence if o.guard is not None else "")


def fitted(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts, without what is only for people when they would not fit into a heartbeat."""
    for name in ("", "reason", "sentence", "recovery_ms", "send_queue", "receive_queue"):
        facts.pop(name, None)
        if len(json.dumps(facts, separators=(",", ":"))) <= FACTS_BYTES_MAX:
            break
    return facts


def own_position(o: Observation) -> Position | None:
    """End of what this server wrote itself while its gate is open, else of what it received."""
    if o.guard is not None and o.guard.gate == "open":
        return o.guard.position
    if o.replicator is not None and o.replicator.received is not None:
        return o.replicator.received
    return o.guard.position if o.guard is not None else None


def _send_queue(data: Replicator) -> list[int]:
    queues = data.followers
    return [
        max((f.queue_bytes for f in queues), default=0),
        max((f.queue_operations for f in queues), default=0),
        max((f.oldest_ms for f in queues), default=0),
    ]


def _put_position(facts: dict[str, Any], name: str, position: Position | None) -> None:
    if position is not None:
        facts[name] = position.to_json()


def read_facts(value: Any) -> PeerFacts:
    """What a peer said; a peer without an agent says nothing."""
    if not isinstance(value, dict):
        return PeerFacts()
    return PeerFacts(
        role=_text(value, "role"),
        epoch=_count(value, "epoch"),
        gate=_text(value, "gate"),
        position=_position(value, "position"),
        applied=_position(value, "applied"),
        consistent=value.get("consistent") is True,
        hand_to=_text(value, "hand_to"),
        cause=_text(value, "cause"),
        partner=_text(value, "partner"),
        trouble=_text(value, "trouble"),
        send_queue=_queue(value),
    )


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name, "")
    return found if isinstance(found, str) else ""


def _count(value: dict[str, Any], name: str) -> int:
    found = value.get(name, 0)
    return found if type(found) is int and found >= 0 else 0


def _queue(value: dict[str, Any]) -> tuple[int, int, int] | None:
    match value.get("send_queue"):
        case [int(size), int(operations), int(oldest_ms)] if min(size, operations, oldest_ms) >= 0:
            return size, operations, oldest_ms
    return None


def _position(value: dict[str, Any], name: str) -> Position | None:
    found = value.get(name)
    if not isinstance(found, dict):
        return None
    try:
        return Position.from_json(found)
    except (ValueError, KeyError, TypeError, AssertionError):
        return None
