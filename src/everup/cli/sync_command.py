"""`everup sync`: bring the other servers to what the active one has."""

import os
from typing import Annotated

import typer

from everup.cli.client import Client
from everup.cli.jobs import finish
from everup.cli.options import Deadline, JsonFlag, WaitFlag, verb_app

app = verb_app()


@app.command(epilog="Examples:  everup sync  |  everup sync --allow-removals")
def sync(
    context: typer.Context,
    path: Annotated[
        str | None, typer.Argument(help="Below this; default: everything that is protected.")
    ] = None,
    allow_removals: Annotated[
        bool,
        typer.Option(
            "--allow-removals",
            help="The next copy may remove as much as it has to; without it one that would remove "
            "more than half of a server's objects stops and asks, and so does one that finds files "
            "which never came from an active server, when the setting orphans is report.",
        ),
    ] = False,
    wait: WaitFlag = True,
    deadline: Deadline = 3600,
    json: JsonFlag = False,
) -> None:
    """Wait for the other servers to catch up, prove them equal, and repair what is not."""
    client = Client.of(context)
    where = os.path.abspath(path) if path else None
    job = client.post("/v1/sync", {"path": where, "allow_removals": allow_removals})["job"]
    finish(context, client, job, wait=wait, deadline_s=deadline)
