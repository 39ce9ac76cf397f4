"""`everup events`: what happened."""

import json as json_module
import time
from typing import Annotated, Any

import typer

from everup.cli.client import Client, wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import print_json

app = verb_app()

POLL_S = 0.5
_MARKS = {"info": " ", "warning": "!", "critical": "‼"}


@app.command(epilog="Examples:  everup events --last 20  |  everup events --follow")
def events(
    context: typer.Context,
    after: Annotated[
        int | None, typer.Option(metavar="ID", min=0, help="Only events after this one.")
    ] = None,
    last: Annotated[int, typer.Option(metavar="N", min=1, max=500, help="At most this many.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what happens, until interrupted.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show what happened, oldest first: failovers, switchovers, syncs and troubles."""
    client = Client.of(context)
    # Nothing is "after 0" for the agent: it answers with the newest ones then.
    found = client.get(f"/v1/events?after={after or 0}&limit={last}")["events"]
    if wants_json(context) and not follow:
        print_json({"events": found})
        return
    seen = after or 0
    while True:
        for event in found:
            typer.echo(json_module.dumps(event) if wants_json(context) else line(event))
            seen = max(seen, event["id"])
        if not follow:
            return
        time.sleep(POLL_S)
        found = client.get(f"/v1/events?after={seen}&limit=500")["events"]


def line(event: dict[str, Any]) -> str:
    """One event as a line."""
    moment = str(event["at"])[:19].replace("T", " ")
    mark = _MARKS.get(event["severity"], " ")
    return f"{moment}  {event['server']:<10} {mark} {event['sentence']}"
