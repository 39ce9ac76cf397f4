"""`everup events`: what happened, on all servers of the group."""

import json as json_module
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from everup.cli.client import Client, wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import print_json, say

app = verb_app()
Json = dict[str, Any]

POLL_S = 1.0
FOLLOWED_MAX = 500
_MARKS = {"info": " ", "warning": "!", "critical": "‼"}


@app.command(epilog="Examples:  everup events --last 20  |  everup events --follow")
def events(
    context: typer.Context,
    after: Annotated[
        int | None,
        typer.Option(
            metavar="ID",
            min=0,
            help="Only events of this server, and only those after this one: each server counts "
            "its own.",
        ),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only events of this server.")] = False,
    last: Annotated[int, typer.Option(metavar="N", min=1, max=500, help="At most this many.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what happens, until interrupted.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show what happened, oldest first: failovers, switchovers, syncs and troubles.

    The events of all servers are put together in the order of their times; a server that cannot be
    reached is named.
    """
    client = Client.of(context)
    looks = _own(client, after, last) if here or after is not None else _of_all(client, last)
    as_json = wants_json(context)
    missing: list[str] = []
    for found in looks:
        if as_json and not follow:
            print_json(found)
            return
        for event in found["events"]:
            typer.echo(json_module.dumps(event) if as_json else line(event))
        missing = _name_missing(found.get("unreachable", []), missing)
        if not follow:
            return
        time.sleep(POLL_S)


def _own(client: Client, after: int | None, last: int) -> Iterator[Json]:
    """One look after another at this server's events."""
    # Nothing is "after 0" for the agent: it answers with the newest ones then.
    seen, limit = after or 0, last
    while True:
        found = client.get(f"/v1/events?after={seen}&limit={limit}")
        seen = max([seen, *(event["id"] for event in found["events"])])
        limit = FOLLOWED_MAX
        yield found


def _of_all(client: Client, last: int) -> Iterator[Json]:
    """One look after another at the events of all servers."""
    after = ""
    while True:
        found = client.get(f"/v1/group/events?after={after}&limit={last}")
        after = ",".join(f"{name}:{number}" for name, number in found.pop("cursors").items())
        yield found


def _name_missing(now: list[str], before: list[str]) -> list[str]:
    if now and now != before:
        verb = "does" if len(now) == 1 else "do"
        say(f"({' and '.join(now)} {verb} not answer: those events are missing here)")
    return now


def line(event: Json) -> str:
    """One event as a line."""
    moment = str(event["at"])[:19].replace("T", " ")
    mark = _MARKS.get(event["severity"], " ")
    return f"{moment}  {event['server']:<10} {mark} {event['sentence']}"
