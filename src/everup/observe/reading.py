"""Status answers of keeper, guard and replicator as facts.

What enters: the JSON of their control sockets. What leaves: frozen facts of `model.observation`.
A field that is missing gets the cautious value: no lease, closed, not in sync. Called by `world`.
Pure.
"""

from typing import Any

from everup.config.schema import GroupSettings
from everup.errors import ProtocolError
from everup.model import observation as m
from everup.model.position import Position, position_or_none
from everup.observe.facts import read_facts

Json = dict[str, Any]

SILENT_BEATS = 4
"""So many missed heartbeats make a peer silent; the keeper counts the same."""


def read_group(settings: GroupSettings | None) -> m.Group:
    """The part of the settings that decisions need."""
    if settings is None:
        return m.Group()
    order = {"primary": 0, "secondary": 1, "tertiary": 2}
    servers = sorted(settings.servers, key=lambda member: order.get(member.identity, 9))
    witness = settings.witness
    return m.Group(
        servers=tuple(member.name for member in servers),
        witness=witness.name if witness is not None else "",
        trees=tuple(tree.id for tree in settings.protect),
        units=settings.application.units,
        public=tuple(public.address for public in settings.public),
        mode=settings.mode,
        may_degrade=settings.durable.policy == "degrade",
        degrade_ms=settings.durable.timeout_ms,
        silence_ms=SILENT_BEATS * settings.timing.heartbeat_ms,
        lease_ms=settings.timing.lease_ms,
        max_loss_bytes=settings.max_loss_bytes,
        stop_deadline_ms=settings.application.stop_deadline_ms,
        start_deadline_ms=settings.application.start_deadline_ms,
    )


def read_keeper(answer: Json) -> m.Keeper:
    """Raises ProtocolError when the answer is not a keeper's status."""
    try:
        return _keeper(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"the keeper's status cannot be read: {error!r}") from error


def read_guard(answer: Json) -> m.Guard:
    """Raises ProtocolError when the answer is not a guard's status."""
    try:
        return _guard(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"the guard's status cannot be read: {error!r}") from error


def read_replicator(answer: Json) -> m.Replicator:
    """Raises ProtocolError when the answer is not a replicator's status."""
    try:
        return _replicator(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"the replicator's status cannot be read: {error!r}") from error


def _keeper(answer: Json) -> m.Keeper:
    lease = answer.get("lease") or {}
    holder, epoch = _holder(answer)
    address = answer.get("address") or {}
    return m.Keeper(
        promised_epoch=int(answer.get("promised_epoch", 0)),
        holder=holder,
        holder_epoch=epoch,
        expires_in_ms=int(lease.get("expires_in_ms") or 0),
        record=_record(answer.get("record")),
        previous=_record(answer["previous"]) if answer.get("previous") else None,
        peers=tuple(_peer(peer) for peer in answer.get("peers", ())),
        quorum_reachable=answer.get("quorum_reachable") is True,
        present=tuple(address.get("present", ())),
    )


def _holder(answer: Json) -> tuple[str, int]:
    lease = answer.get("lease") or {}
    if lease.get("held"):
        return str(answer["server"]), int(lease["epoch"])
    return str(answer.get("holder") or ""), int(answer.get("holder_epoch") or 0)


def _record(value: Json | None) -> m.Record:
    if not value:
        return m.Record()
    return m.Record(
        int(value["version"]),
        int(value["epoch"]),
        tuple(value["voters"]),
        tuple(value["may_take_over"]),
        _mode(value["mode"]),
    )


def _mode(value: Any) -> m.Mode:
    if value == "durable":
        return "durable"
    if value == "async":
        return "async"
    raise ValueError(f"unknown mode {value!r}")


def _peer(value: Json) -> m.KeeperPeer:
    heard = value.get("heard_ms_ago")
    return m.KeeperPeer(
        str(value["server"]),
        value.get("reachable") is True,
        None if heard is None else int(heard),
        read_facts(value.get("facts")),
    )


def _guard(answer: Json) -> m.Guard:
    journal = answer.get("journal") or {}
    return m.Guard(
        gate="open" if answer["gate"] == "open" else "closed",
        epoch=int(answer.get("epoch") or 0),
        armed=tuple(int(tree["id"]) for tree in answer.get("trees", ())),
        position=position_or_none(answer.get("position")),
        sequence=int(answer.get("sequence") or 0),
        mode=_mode(answer.get("mode") or "async"),
        must_acknowledge=tuple(answer.get("must_acknowledge", ())),
        waiting_fsyncs=int(answer.get("waiting_fsyncs") or 0),
        journal_state=str(journal.get("state") or "ok"),
        journal_sentence=str(journal.get("sentence") or ""),
    )


def _replicator(answer: Json) -> m.Replicator:
    role = answer.get("role")
    queue = answer.get("receive_queue") or {}
    trouble = answer.get("apply_error") or {}
    sealed = int(answer.get("sealed_epoch") or 0)
    return m.Replicator(
        role=role if role in ("source", "target") else "idle",
        # A source has sealed its own epoch, and ends being one when a later epoch is sealed.
        source_epoch=sealed if role == "source" else 0,
        sealed_epoch=sealed,
        received=position_or_none(answer.get("received")),
        applied=position_or_none(answer.get("applied")),
        tree=_tree(answer.get("tree") or {}),
        consistent=answer.get("consistent") is True,
        in_sync=answer.get("in_sync") is True,
        sync_state=str((answer.get("sync") or {}).get("state") or "none"),
        followers=tuple(_follower(peer) for peer in answer.get("peers", ())),
        receive_bytes=int(queue.get("bytes") or 0),
        receive_operations=int(queue.get("operations") or 0),
        receive_oldest_ms=int(queue.get("oldest_ms") or 0),
        trouble=str(trouble.get("sentence") or ""),
    )


def _tree(value: Json) -> m.Tree:
    state = value.get("state")
    if state == "at":
        return m.Tree("at", position_or_none(value.get("position")))
    if state == "open":
        return m.Tree("open", None, int(value["epoch"]), str(value["server"]))
    if state == "syncing":
        return m.Tree("syncing")
    return m.Tree("empty")


def _follower(value: Json) -> m.Follower:
    queue = value.get("send_queue") or {}
    return m.Follower(
        str(value["server"]),
        value.get("connected") is True,
        value.get("in_sync") is True,
        position_or_none(value.get("acknowledged")),
        _any_position(value.get("applied")),
        int(queue.get("bytes") or 0),
        int(queue.get("operations") or 0),
        int(queue.get("oldest_ms") or 0),
    )


def _any_position(value: Any) -> Position | None:
    return position_or_none(value) if isinstance(value, dict) and "checksum" in value else None
