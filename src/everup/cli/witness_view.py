"""What `everup status` says on the witness: there is no agent, but its keeper hears everybody.

What enters: the settings and the keeper's own status. What leaves: JSON in the shape of `status`,
as far as a vote knows it, and a few lines for people. Called by `status_command`.
"""

from typing import Any

import typer

from everup.config.load import load_group, load_server
from everup.config.schema import GroupSettings
from everup.errors import EverupError
from everup.places import Places
from everup.wire.local import call

Json = dict[str, Any]

OPEN = "open"


def is_witness(places: Places) -> bool:
    """Whether this host is the witness of a group."""
    try:
        return load_server(places.server_settings).identity == "witness"
    except (EverupError, OSError):
        return False


def witness_status(places: Places) -> Json:
    """The group as the witness hears it. Raises NotConnected when its keeper does not run."""
    server, group = load_server(places.server_settings), load_group(places.group_settings)
    return status_of(server.name, group, call(places.keeper_socket, "status"))


def status_of(name: str, group: GroupSettings, keeper: Json) -> Json:
    """In the shape of the agents' status; what only they know is empty. Pure."""
    record = keeper.get("record") or {}
    peers = {peer["server"]: peer for peer in keeper.get("peers", ())}
    holder = str(keeper.get("holder") or "")
    votes = name in record.get("voters", ())
    sentence = f"{name} is the witness of {group.group}: it votes and holds no data; "
    if not votes:
        sentence = f"{name} is the witness of {group.group}, whose voters do not count it now; "
    sentence += f"it hears that {holder} is active" if holder else "it hears of no active server"
    return {
        "group": group.group,
        "server": name,
        "identity": "witness",
        "epoch": int(keeper.get("holder_epoch") or 0),
        "mode": group.mode,
        "state": "witness",
        "sentence": sentence,
        "arbiter": {
            "kind": "voters",
            "holder": holder or None,
            "voters": list(record.get("voters", ())),
            "may_take_over": list(record.get("may_take_over", ())),
            "granted": str((keeper.get("granted") or {}).get("holder") or "") or None,
        },
        "servers": [_server(m.name, m.identity, peers.get(m.name, {})) for m in group.servers],
        "management": {m.name: m.management for m in group.servers},
    }


def _server(name: str, identity: str, peer: Json) -> Json:
    facts, reachable = peer.get("facts") or {}, bool(peer.get("reachable"))
    is_open = reachable and facts.get("gate") == OPEN
    return {
        "name": name,
        "identity": identity,
        "role": ("active" if is_open else "passive") if facts else "unknown",
        "reachable": reachable,
        "gate": OPEN if is_open else "closed",
        "position": facts.get("position"),
        "version": str(facts.get("version") or ""),
        "sentence": str(facts.get("sentence") or ""),
    }


def show(value: Json) -> None:
    """For people."""
    arbiter = value["arbiter"]
    typer.echo(f"{value['sentence']}.\n")
    for server in value["servers"]:
        heard = server["role"] if server["reachable"] else "not heard"
        typer.echo(f"  {server['name']:<12} {heard:<10} {server['sentence']}".rstrip())
    typer.echo(f"\nvoters           {', '.join(arbiter['voters']) or 'none'}")
    typer.echo(f"may take over    {', '.join(arbiter['may_take_over']) or 'nobody'}")
    typer.echo(f"its vote is with {arbiter['granted'] or 'nobody'}")
    named = " or ".join(f"{name} ({at})" for name, at in value["management"].items())
    typer.echo(f"\nEverything else: everup status on {named}.")
