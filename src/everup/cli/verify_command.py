"""`everup verify`: prove that the other servers hold the same."""

import os
from typing import Annotated, Any

import typer

from everup.cli.client import Client, wants_json
from everup.cli.jobs import finish
from everup.cli.options import Deadline, JsonFlag, WaitFlag, verb_app
from everup.cli.output import print_json

app = verb_app()
Json = dict[str, Any]


@app.command(epilog="Examples:  everup verify  |  everup verify /srv/data/orders --no-wait")
def verify(
    context: typer.Context,
    path: Annotated[
        str | None, typer.Argument(help="Below this; default: everything that is protected.")
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Only show how the last one ended, path by path.")
    ] = False,
    gentle: Annotated[
        bool, typer.Option("--gentle", help="Slowly, for the sake of disks and applications.")
    ] = False,
    wait: WaitFlag = True,
    deadline: Deadline = 3600,
    json: JsonFlag = False,
) -> None:
    """Compare every object with the other servers while the applications go on writing.

    A difference counts when it is seen again without a write in between. It is named, repaired,
    and the command ends with 1.
    """
    client = Client.of(context)
    if last:
        _show(context, client.get("/v1/verify"))
        return
    body = {"path": os.path.abspath(path) if path else None, "gentle": gentle}
    job = client.post("/v1/verify", body)["job"]
    finish(context, client, job, wait=wait, deadline_s=deadline)


def _show(context: typer.Context, found: Json) -> None:
    if wants_json(context):
        print_json(found)
        return
    if not found["paths"]:
        typer.echo("Nothing is known yet: no path is protected, or no other server is connected.")
    for entry in found["paths"]:
        typer.echo(
            f"{entry['path']} on {entry['server']}: {entry['state']}; "
            f"{entry['synchronized']} synchronized, {entry['out_of_sync']} out of sync, "
            f"{entry['unchecked']} unchecked ({entry['at'] or 'never verified'})"
        )
        for name in entry["different"]:
            typer.echo(f"  was different: {name}")
