"""`everup status --json`: the group as one JSON document, on every server the same shape.

What enters: settings, the last observation, what peers say in their heartbeats. What leaves: the
JSON of the contract; people's texts are made by the callers from it. Called by the service. Pure.
"""

from typing import Any

from everup.agent.data_warnings import data_warnings
from everup.agent.group_view import BUSY, GroupView, ServerView, see_group
from everup.agent.queues import throughput
from everup.config.schema import GroupSettings
from everup.decide.conditions import record, silent
from everup.decide.upkeep import full_voters
from everup.keeper.record import majority
from everup.model.action import Decision
from everup.model.observation import Observation
from everup.model.role import State

Json = dict[str, Any]

_WARNINGS = {
    "units-failed": "look at the units' own logs: journalctl -u UNIT",
    "journal-trouble": "make room where /var/lib/everup lies, or raise journal_quota_bytes",
    "apply-stopped": "the server tries again by itself; look at its replicator's log",
    "promotion-stuck": "look at the logs of guard and replicator on this server",
}


def status_json(
    settings: GroupSettings,
    s: State,
    o: Observation,
    decision: Decision,
    answers: dict[str, Json],
    extra: Json,
) -> Json:
    """`answers`: the raw status of the other processes; `extra`: what every fact carries."""
    keeper = answers.get("keeper", {})
    view = see_group(settings, s, o, keeper, extra, decision.sentence)
    servers = [_server(v, view, o, extra) for v in view.servers]
    if not settings.protect:
        # There is nothing that could be out of sync, and no lease that anybody should hold.
        servers = [x if x["sync"] == "unknown" else {**x, "sync": "unchecked"} for x in servers]
    state, sentence = _state(settings, view, servers, decision)
    guard, replicator = answers.get("guard", {}), answers.get("replicator", {})
    own = data_warnings(o.server, guard, replicator, settings.journal_quota_bytes)
    public = [{"address": p.address, "holder": _holder(view)} for p in settings.public]
    return {
        "group": settings.group,
        "epoch": int(view.active.facts.get("epoch", 0)) if view.active else record(o).epoch,
        "mode": settings.mode,
        "state": state,
        "sentence": sentence,
        "arbiter": _arbiter(settings, o, view),
        "public_addresses": public,
        "servers": servers,
        "witness": _witness(settings, view),
        "replication": {
            **_replication(view, servers),
            "links": [{"to": p["server"], **throughput(p)} for p in replicator.get("peers", ())],
        },
        "protected": [tree.path for tree in settings.protect],
        "units": list(settings.application.units),
        "warnings": [*_warnings(decision, view, servers), *own],
        "sync": replicator.get("sync"),
    }


# --- servers -----------------------------------------------------------------------------------


def _server(v: ServerView, view: GroupView, o: Observation, extra: Json) -> Json:
    position = v.facts.get("position")
    applied = position if v.acts else v.facts.get("applied")
    return {
        "name": v.name,
        "identity": v.identity,
        "role": _role(v),
        "reachable": v.reachable,
        # What a server that is not heard said last is over: its lease has ended.
        "gate": "open" if v.reachable and v.facts.get("gate") == "open" else "closed",
        "position": position,
        "applied": _short(applied),
        "sync": _sync(v, view, o),
        "proven": None if v.acts else v.facts.get("proven"),
        "version": str(v.facts.get("version") or ""),
        "sentence": str(v.facts.get("sentence") or ""),
    }


def _role(v: ServerView) -> str:
    """active or passive; what it is doing on the way stands in its sentence."""
    if not v.facts:
        return "unknown"
    return "active" if v.acts else "passive"


def _short(position: Any) -> Json | None:
    if not isinstance(position, dict):
        return None
    return {"epoch": position.get("epoch"), "sequence": position.get("sequence")}


def _sync(v: ServerView, view: GroupView, o: Observation) -> str:
    if not v.reachable or not v.facts:
        return "unknown"
    if v.acts:
        return "synchronized"
    if v.facts.get("sync") in ("walking", "copying", "replaying"):
        return "syncing"
    if view.active is None:
        return "unchecked" if v.facts.get("consistent") else "out-of-sync"
    listed = v.name in record(o).may_take_over
    if view.active.name == o.server and o.replicator is not None:
        follower = o.replicator.follower(v.name)
        in_sync = follower is not None and follower.connected and follower.in_sync
    else:
        in_sync = v.facts.get("in_sync") is True
    if in_sync and listed:
        return "synchronized"
    return "syncing" if in_sync else "out-of-sync"


def _witness(settings: GroupSettings, view: GroupView) -> Json | None:
    if settings.witness is None:
        return None
    return {"name": settings.witness.name, "reachable": view.witness_reachable}


def _holder(view: GroupView) -> str | None:
    return view.active.name if view.active is not None else None


# --- the group ---------------------------------------------------------------------------------


def _state(
    settings: GroupSettings, view: GroupView, servers: list[Json], decision: Decision
) -> tuple[str, str]:
    if not settings.protect:
        return "unprotected", "nothing is protected yet: everup protect PATH"
    if any(v.reachable and v.role in BUSY for v in view.servers):
        name = next(v for v in view.servers if v.reachable and v.role in BUSY)
        return "changing", f"{name.name} {name.facts.get('sentence') or name.role}"
    if view.active is None:
        return "no-active", f"no server is active: {decision.sentence}"
    active = view.active.name
    if len(servers) == 1:
        return "alone", f"{active} is active; there is no other server"
    behind = [x for x in servers if x["sync"] != "synchronized"]
    if not behind:
        return "synchronized", f"{active} is active; every other server holds everything"
    if any(x["sync"] == "syncing" for x in behind):
        names = " and ".join(x["name"] for x in behind if x["sync"] == "syncing")
        return "syncing", f"{active} is active; {names} is being synchronized"
    names = " and ".join(x["name"] for x in behind)
    return "degraded", f"{active} is active; {names} cannot take over"


def _arbiter(settings: GroupSettings, o: Observation, view: GroupView) -> Json:
    found = record(o)
    holder = view.active.name if view.active is not None else None
    voters_kind = len(settings.servers) >= 3 or settings.witness is not None
    automatic = _automatic(o, holder)
    return {
        "kind": "voters" if voters_kind else "manual",
        "holder": holder,
        "voters": list(found.voters),
        "may_take_over": list(found.may_take_over),
        "expires_in_ms": o.page_left_ms if holder == o.server else None,
        "automatic_failover": automatic,
        "risk": "" if automatic or not settings.protect else _risk(o, holder),
    }


def _automatic(o: Observation, holder: str | None) -> bool:
    """Would the others, as far as they are heard, elect one of themselves without the holder?"""
    found = record(o)
    here = {v for v in found.voters if v == o.server or not silent(o, v)} - {holder}
    able = [n for n in found.may_take_over if n in here]
    return holder is not None and bool(able) and majority(found.voters, here)


def _risk(o: Observation, holder: str | None) -> str:
    if holder is None:
        return "no server is active"
    found = record(o)
    if not [n for n in found.may_take_over if n != holder]:
        return f"no automatic failover: nobody but {holder} holds everything"
    full = full_voters(o)
    missing = [v for v in full if _unheard(o, v)] or [v for v in full if v not in found.voters]
    names = " and ".join(missing) or "an arbiter"
    return f"no automatic failover until {names} {'are' if len(missing) > 1 else 'is'} back"


def _unheard(o: Observation, voter: str) -> bool:
    return voter != o.server and silent(o, voter)


def _replication(view: GroupView, servers: list[Json]) -> Json:
    active = view.active.facts if view.active is not None else {}
    passive = [v.facts for v in view.servers if not v.acts and v.reachable]
    send = _queue(active.get("send_queue"))
    receive = [_queue(facts.get("receive_queue")) for facts in passive]
    worst = max(receive, key=lambda queue: queue["bytes"], default=_queue(None))
    # What one of the others has is not lost, whatever a third one lacks.
    recovery_ms = active.get("recovery_ms")
    if recovery_ms is None:
        recovery_ms = send["oldest_ms"]
    return {"send_queue": send, "receive_queue": worst, "recovery_point_ms": int(recovery_ms)}


def _queue(value: Any) -> Json:
    counts = value if isinstance(value, list) and len(value) == 3 else [0, 0, 0]
    return {"bytes": counts[0], "operations": counts[1], "oldest_ms": counts[2]}


def _warnings(decision: Decision, view: GroupView, servers: list[Json]) -> list[Json]:
    found = [
        {"id": said.row, "sentence": said.sentence, "remedy": _WARNINGS[said.row]}
        for said in decision.said
        if said.row in _WARNINGS
    ]
    for v in view.servers:
        if not v.reachable:
            remedy = f"check that {v.name} runs and that its networks are connected"
            found.append(_warning("server-unreachable", f"{v.name} is not heard", remedy))
        elif v.name != view.server and v.facts.get("trouble"):
            reason = v.facts.get("reason") or v.facts["trouble"]
            sentence = f"{v.name} reports: {reason}"
            found.append(_warning(str(v.facts["trouble"]), sentence, f"everup events on {v.name}"))
    if view.witness_reachable is False:
        remedy = "check that the witness runs and can be reached"
        found.append(_warning("witness-unreachable", "the witness is not heard", remedy))
    return found


def _warning(identifier: str, sentence: str, remedy: str) -> Json:
    return {"id": identifier, "sentence": sentence, "remedy": remedy}
