"""What keepers tell each other; every message fits into one datagram.

What enters: JSON objects from an opened datagram. What leaves: frozen values, and back.
Called by the protocol and by the process. Pure. Times inside are of the sender's boot-time clock
and come back unchanged, so they are compared with the clock that wrote them only.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from everup.errors import ProtocolError
from everup.keeper.record import Known, count

RequestKind = Literal["ask", "vote", "renew"]
"""`ask` is the vote before the vote: it changes nothing anywhere."""

FACTS_BYTES_MAX = 900
BODY_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Beat:
    """Heartbeat: what its sender is, and what its agent said last."""

    promised: int
    """Highest epoch that the sender's voter has promised."""
    holding: int
    """Epoch whose lease the sender holds now; 0 = none."""
    finished: int
    """The sender does not act under this epoch or an older one, and never will again."""
    run: int
    """Incarnation of the sender."""
    known: Known | None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """A server asks for the lease of `epoch`, or asks whether it would get it."""

    kind: RequestKind
    epoch: int
    lease_ns: int
    sent_ns: int
    """The asker's clock before the request left; its lease is counted from here."""
    run: int
    """Incarnation of the asker: answers to an earlier life are ignored."""
    known: Known
    voter_run: int = 0
    """Incarnation of the asked voter that the holder had heard of when it made the record."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A voter's answer; `reason` is empty when it was granted."""

    kind: RequestKind
    epoch: int
    lease_ns: int
    sent_ns: int
    run: int
    reason: str
    wait_ns: int
    """When the refusal is a matter of time: how long."""
    promised: int
    known: Known | None
    """What the voter has stored; a change counts as accepted when this is that change."""

    @property
    def granted(self) -> bool:
        return not self.reason


Message = Beat | Request | Reply


def encode(message: Message) -> bytes:
    """Compact JSON of a message."""
    known = message.known.to_json() if message.known is not None else None
    value: dict[str, Any] = {"known": known}
    match message:
        case Beat():
            value |= {"type": "beat", "promised": message.promised, "holding": message.holding}
            value |= {"finished": message.finished, "run": message.run}
            value |= {"facts": message.facts}
        case Request():
            value |= {"type": "request", "kind": message.kind, "epoch": message.epoch}
            value |= {"lease": message.lease_ns, "sent": message.sent_ns, "run": message.run}
            value |= {"voter_run": message.voter_run}
        case Reply():
            value |= {"type": "reply", "kind": message.kind, "epoch": message.epoch}
            value |= {"lease": message.lease_ns, "sent": message.sent_ns, "run": message.run}
            value |= {"reason": message.reason, "wait": message.wait_ns}
            value |= {"promised": message.promised}
    return json.dumps(value, separators=(",", ":")).encode()


def decode(data: bytes) -> Message:
    """Raises ProtocolError for anything but a whole, valid message."""
    try:
        return _decode(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"a keeper's datagram cannot be read: {error!r}") from error


def _decode(value: dict[str, Any]) -> Message:
    known = None if value["known"] is None else Known.from_json(value["known"])
    if value["type"] == "beat":
        facts = value["facts"]
        if not isinstance(facts, dict):
            raise ValueError("facts are not an object")
        return Beat(
            count(value["promised"]),
            count(value["holding"]),
            count(value["finished"]),
            count(value["run"]),
            known,
            facts,
        )
    kind = value["kind"]
    if kind not in ("ask", "vote", "renew"):
        raise ValueError(f"unknown kind {kind!r}")
    epoch, lease = count(value["epoch"]), count(value["lease"])
    sent, run = count(value["sent"]), count(value["run"])
    if value["type"] == "request":
        if known is None:
            raise ValueError("a request without a record")
        return Request(kind, epoch, lease, sent, run, known, count(value["voter_run"]))
    if value["type"] != "reply":
        raise ValueError(f"unknown message {value['type']!r}")
    reason, wait = str(value["reason"]), count(value["wait"])
    promised = count(value["promised"])
    return Reply(kind, epoch, lease, sent, run, reason, wait, promised, known)
