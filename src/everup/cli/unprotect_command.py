"""`everup unprotect`: give directories back to plain use."""

import os
from pathlib import Path
from typing import Annotated

import typer

from everup.cli.client import Client
from everup.cli.jobs import finish
from everup.cli.options import Deadline, JsonFlag, WaitFlag, verb_app

app = verb_app()


@app.command(epilog="Example:  everup unprotect /etc/postgresql")
def unprotect(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Directories that are protected now.")],
    wait: WaitFlag = True,
    deadline: Deadline = 600,
    json: JsonFlag = False,
) -> None:
    """Stop replicating directories; their content stays on every server as it is."""
    client = Client.of(context)
    body = {"paths": [os.path.abspath(path) for path in paths]}
    job = client.post("/v1/unprotect", body)["job"]
    finish(context, client, job, wait=wait, deadline_s=deadline)
