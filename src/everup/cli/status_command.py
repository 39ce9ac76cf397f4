"""`everup status`: who is active, who has what, and what is wrong."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everup.cli.client import Client, wants_json
from everup.cli.jobs import Display, progress_display, progress_text
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import bytes_text, duration_text, link_text, print_json
from everup.errors import DeadlinePassed, NotConnected
from everup.model.words import count_text
from everup.places import Places

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = verb_app()
Json = dict[str, Any]

POLL_S = 0.25
FINAL_CODES = ("no-settings", "not-permitted", "witness")
"""Waiting does not help against these."""
NOTHING_YET = "unprotected"
STATES = (
    "synchronized", "active", "syncing", "degraded", "changing", "alone", "no-active",
    "unprotected",
)  # fmt: skip
"""What one may wait for: `active`, and the ids of the group's states."""
SYNCHRONIZING = ("walking", "copying", "replaying", "proving")
COLUMNS = ("server", "role", "gate", "data", "position", "applied", "version")
PIPE_WIDTH = 10_000
_COLOURS = {
    "synchronized": "green",
    "syncing": "yellow",
    "unchecked": "yellow",
    "out-of-sync": "red",
    "unknown": "dim",
}


def known_state(wait: str | None) -> str | None:
    """Raises BadParameter for a word that no group will ever be."""
    if wait is not None and wait not in STATES:
        raise typer.BadParameter(f"{wait!r} is no state; choose from {', '.join(STATES)}")
    return wait


@app.command(
    epilog="Examples:  everup status  |  everup status --json  |  "
    "everup status --wait synchronized --deadline 600"
)
def status(
    context: typer.Context,
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            callback=known_state,
            help="Wait until this is so: synchronized (every server has everything), "
            "active (a server is active), or the id of a state.",
        ),
    ] = None,
    deadline: Annotated[
        int, typer.Option(metavar="S", min=1, help="With --wait: give up after S seconds.")
    ] = 600,
    json: JsonFlag = False,
) -> None:
    """Show the group: servers, roles, data, addresses, queues and warnings."""
    client = Client.of(context)
    if wait is None and _on_witness(context):
        return
    if wait is None:
        value = client.get("/v1/status")
    else:
        value = _wait_for(client, wait, deadline, progress_display(wants_json(context)))
    if wants_json(context):
        print_json(value)
    else:
        _show(value)


def _on_witness(context: typer.Context) -> bool:
    """On the witness there is no agent to ask: its keeper says what it hears."""
    from everup.cli import witness_view

    params, places = context.find_root().params, Places.real()
    if params.get("server") or params.get("socket") or not witness_view.is_witness(places):
        return False
    value = witness_view.witness_status(places)
    if wants_json(context):
        print_json(value)
    else:
        witness_view.show(value)
    return True


def reached(value: Json, state: str) -> bool:
    """Whether the group is in the state that somebody waits for."""
    holder = (value.get("arbiter") or {}).get("holder")
    if state == "synchronized":
        others = [s for s in value["servers"] if s["name"] != holder]
        ready = all(s["reachable"] and s["sync"] == "synchronized" for s in others)
        return bool(holder and others and ready)
    if state == "active":
        return any(s["role"] == "active" and s["gate"] == "open" for s in value["servers"])
    return bool(value["state"] == state)


def _wait_for(client: Client, state: str, deadline_s: int, display: Display) -> Json:
    with display:
        return _poll(client, state, deadline_s, display)


def _poll(client: Client, state: str, deadline_s: int, display: Display) -> Json:
    end = time.monotonic() + deadline_s
    last = "the agent has not answered yet"
    while True:
        try:
            value = client.get("/v1/status", deadline_ms=5_000)
            if reached(value, state):
                return value
            last = value["sentence"]
            display.update(as_job(value))
        except (NotConnected, DeadlinePassed) as error:
            # The agent may be starting; only the deadline ends the waiting.
            if isinstance(error, NotConnected) and error.code in FINAL_CODES:
                raise
            last = error.sentence
        if time.monotonic() > end:
            raise DeadlinePassed(
                f"the group is not {state} after {deadline_s} s: {last}",
                remedy="everup status shows what is missing",
            )
        time.sleep(POLL_S)


def as_job(value: Json) -> Json:
    """The group's synchronization as if it were a job, so that it is shown like one."""
    sync = value.get("sync") or {}
    if sync.get("state") not in SYNCHRONIZING:
        return {"sentence": value["sentence"], "progress": {}}
    progress = {
        "done": sync.get("done_bytes") or 0,
        "total": sync.get("total_bytes") or 0,
        "unit": "bytes",
        "rate": sync.get("rate_bytes_per_s") or 0,
        "left_ms": sync.get("left_ms"),
    }
    return {"sentence": sync.get("sentence") or value["sentence"], "progress": progress}


def _show(value: Json) -> None:
    from rich.console import Console
    from rich.markup import escape

    # Into a pipe or a file nothing is folded: whoever reads there counts on whole lines.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    warnings = value.get("warnings") or []
    colour = "yellow" if warnings else "green"
    about = f"epoch {value['epoch']}, {value['mode']} mode"
    if value["state"] == NOTHING_YET:
        about = f"{value['mode']} mode"
    console.print(f"[bold]{escape(value['group'])}[/]  [dim]{about}[/]")
    console.print(f"[{colour}]{escape(value['sentence'])}[/]\n")
    console.print(_fitting(console, value))
    console.print()
    for label, text in _facts(value):
        console.print(f"[dim]{label:<17}[/]{escape(text)}")
    for warning in warnings:
        console.print(f"\n[bold yellow]![/] {escape(warning['sentence'])}")
        if warning.get("remedy"):
            console.print(f"  [dim]what to do:[/] {escape(warning['remedy'])}")


def _fitting(console: "Console", value: Json) -> "Table":
    """The table with as many columns as the terminal is wide; the least important go first."""
    columns = [*COLUMNS]
    if value["state"] == NOTHING_YET:
        columns = ["server", "role", "version"]
    unbounded = console.options.update(max_width=PIPE_WIDTH)
    for less in ("version", "applied", "gate", "position"):
        if console.measure(_servers(value, columns), options=unbounded).maximum <= console.width:
            break
        columns = [column for column in columns if column != less]
    return _servers(value, columns)


def _servers(value: Json, columns: list[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for server in value["servers"]:
        dot = "[green]●[/]" if server["reachable"] else "[red]○[/]"
        role = "[bold green]active[/]" if server["role"] == "active" else str(server["role"])
        sync = str(server["sync"])
        colour = _COLOURS.get(sync, "default")
        cells = {
            "server": f"{dot} {server['name']}",
            "role": role if server["reachable"] else "[red]not reachable[/]",
            "gate": str(server.get("gate") or ""),
            "data": f"[{colour}]{sync}[/]",
            "position": _position(server.get("position")),
            "applied": _position(server.get("applied")),
            "version": str(server.get("version") or ""),
        }
        table.add_row(*(cells[column] for column in columns))
    return table


def _position(position: Json | None) -> str:
    return f"{position['epoch']}/{position['sequence']}" if position else ""


def _facts(value: Json) -> list[tuple[str, str]]:
    arbiter, replication = value.get("arbiter") or {}, value.get("replication") or {}
    voters = ("voters", ", ".join(arbiter.get("voters") or []) or "none")
    if value["state"] == NOTHING_YET:
        waiting = ", ".join(a["address"] for a in value["public_addresses"])
        return [("public address", f"{waiting or 'none'}, held by nobody yet"), voters]
    addresses = [f"{a['address']} at {a['holder'] or 'nobody'}" for a in value["public_addresses"]]
    automatic = "automatic failover " + ("on" if arbiter.get("automatic_failover") else "OFF")
    takers = ", ".join(arbiter.get("may_take_over") or []) or "nobody"
    facts = [
        ("public address", ", ".join(addresses) or "none"),
        ("may take over", f"{takers}; {automatic}"),
        voters,
    ]
    if arbiter.get("risk"):
        facts.append(("accepted risk", str(arbiter["risk"])))
    sync = progress_text(as_job(value)["progress"])
    if sync:
        facts.append(("synchronizing", sync))
    facts += [
        ("not yet sent", _queue(replication.get("send_queue"))),
        ("not yet applied", _queue(replication.get("receive_queue"))),
        ("proven whole", _proven(value["servers"])),
    ]
    for link in replication.get("links") or ():
        if link["sent_bytes_per_s"] or link["cap_bytes_per_s"]:
            facts.append((f"to {link['to']}", link_text(link)))
    point = replication.get("recovery_point_ms")
    if point is not None:
        facts.append(("at risk", duration_text(point) if point else "nothing"))
    return facts


def _proven(servers: list[Json]) -> str:
    """Up to where, and when, each passive server was proven equal as a whole."""
    passive = [server for server in servers if server["role"] != "active"]
    told = []
    for server in passive:
        proven = server.get("proven")
        place = f"at {_position(proven)}, {proven['at']}" if proven else "never"
        told.append(f"{server['name']} {place}")
    return "; ".join(told) or "there is no other server"


def _queue(queue: Json | None) -> str:
    if not queue or not queue.get("operations"):
        return "nothing"
    oldest = duration_text(queue.get("oldest_ms") or 0)
    operations = count_text(queue["operations"], "operation")
    return f"{operations}, {bytes_text(queue['bytes'])}, oldest {oldest}"
