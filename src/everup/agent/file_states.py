"""What is known of the objects of the protected trees on the other servers.

What enters: the replicator's status, what peers say of their last proofs, counts of objects. What
leaves: states of paths and of single entries: synchronized, out-of-sync, unchecked. Pure. Called by
`proving`.

An object is out of sync when the last verification named it and the server has not been proven
equal since; it is unchecked when nothing is known of it: its server was never proven, is not in
sync now, or the object was written at every look. Everything else is synchronized: it was proven
equal, and every change since has come in order.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from everup.config.schema import ProtectedTree

Json = dict[str, Any]


@dataclass(frozen=True)
class ServerState:
    """One other server. The names are paths by tree."""

    server: str
    in_sync: bool
    proven: bool
    """It was proven equal at least once, by a sync or by a verification."""
    at: str | None = None
    """When everything was looked at last, and where the stream was then."""
    position: Json | None = None
    counts: Mapping[str, Json] = field(default_factory=dict)
    different: Mapping[int, frozenset[str]] = field(default_factory=dict)
    busy: Mapping[int, frozenset[str]] = field(default_factory=dict)


def server_states(replicator: Json, keeper: Json) -> list[ServerState]:
    """`replicator`, `keeper`: their status on the active server."""
    verify = replicator.get("verify") or {}
    facts = {str(p.get("server")): p.get("facts") or {} for p in keeper.get("peers", ())}
    found = []
    for peer in replicator.get("peers", ()):
        server = str(peer["server"])
        last = (verify.get("results") or {}).get(server) or {}
        whole = (verify.get("whole") or {}).get(server) or {}
        proven = (facts.get(server) or {}).get("proven") or {}
        newest = max(proven.get("at") or "", whole.get("at") or "") or None
        found.append(
            ServerState(
                server,
                in_sync=peer["in_sync"] is True,
                proven=newest is not None,
                at=newest,
                position=whole.get("position") if newest == whole.get("at") else _place(proven),
                counts=whole.get("trees") or {},
                different=_names("paths", last, whole),
                busy=_names("busy", last, whole),
            )
        )
    return found


def _place(proven: Json) -> Json | None:
    return {key: proven[key] for key in ("epoch", "sequence") if key in proven} or None


def _names(kind: str, *results: Json) -> dict[int, frozenset[str]]:
    found: dict[int, frozenset[str]] = {}
    for result in results:
        for tree, count in (result.get("trees") or {}).items():
            names = frozenset(count.get(kind) or ())
            found[int(tree)] = found.get(int(tree), frozenset()) | names
    return found


def path_states(trees: Iterable[ProtectedTree], servers: Sequence[ServerState]) -> list[Json]:
    """One entry for each protected path on each server, with the counts of the last whole look."""
    found = []
    for tree in trees:
        for server in servers:
            counts = server.counts.get(str(tree.id)) or {}
            found.append(
                {
                    "path": tree.path,
                    "server": server.server,
                    "state": _state(server),
                    "at": server.at,
                    "position": server.position,
                    "synchronized": int(counts.get("synchronized") or 0),
                    "out_of_sync": int(counts.get("out_of_sync") or 0),
                    "unchecked": int(counts.get("unchecked") or 0),
                    "different": list(counts.get("paths") or ()),
                }
            )
    return found


def _state(server: ServerState) -> str:
    if not server.in_sync:
        return "out-of-sync"
    return "synchronized" if server.proven else "unchecked"


def tree_view(
    trees: Sequence[ProtectedTree],
    asked: Mapping[str, str],
    counts: Mapping[int, Json],
    servers: Sequence[ServerState],
) -> Json:
    """`asked`: the path below each tree; `counts`: what lies there. Entries carry whole paths."""
    shown = []
    for tree in trees:
        if tree.id not in counts:
            continue
        below, count = asked[str(tree.id)], counts[tree.id]
        shown.append(
            {
                "path": _join(tree.path, below),
                "directory": count["directory"],
                "objects": count["objects"],
                "servers": _on_each(servers, tree.id, below, count["objects"]),
                "more": count["more"],
                "cut": count["cut"],
                "entries": [
                    {
                        "path": _join(tree.path, _join(below, entry["name"])),
                        "directory": entry["directory"],
                        "objects": entry["objects"],
                        "servers": _on_each(
                            servers, tree.id, _join(below, entry["name"]), entry["objects"]
                        ),
                    }
                    for entry in count["entries"]
                ],
            }
        )
    return {"trees": shown}


def _on_each(
    servers: Sequence[ServerState], tree: int, below: str, objects: int
) -> dict[str, Json]:
    return {server.server: _counts(server, tree, below, objects) for server in servers}


def _counts(server: ServerState, tree: int, below: str, objects: int) -> Json:
    """Of `objects` at and below a path, how many are in each state."""
    busy = different = 0
    if server.in_sync:
        # What was named has been repaired and proven since, or the server were not in sync.
        busy = _below(server.busy.get(tree), below)
    else:
        different = min(objects, _below(server.different.get(tree), below))
    unknown = not server.in_sync or not server.proven
    unchecked = objects - different if unknown else min(objects, busy)
    return {
        "synchronized": objects - different - unchecked,
        "out_of_sync": different,
        "unchecked": unchecked,
    }


def _below(names: frozenset[str] | None, below: str) -> int:
    """How many of the names are `below` or lie below it."""
    return sum(
        1 for name in names or () if not below or name == below or name.startswith(below + "/")
    )


def _join(directory: str, name: str) -> str:
    if not directory or not name:
        return directory or name
    return f"{directory.rstrip('/')}/{name}"
