"""`everup failover`: make this server active although the active one does not answer."""

from typing import Annotated

import typer

from everup.cli.client import Client
from everup.cli.jobs import finish
from everup.cli.options import Deadline, JsonFlag, WaitFlag, verb_app

app = verb_app()


@app.command(epilog="Example:  everup failover --force")
def failover(
    context: typer.Context,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also when the group cannot prove that the other server is down, or that nothing "
            "is lost. Make sure yourself that it is off.",
        ),
    ] = False,
    wait: WaitFlag = True,
    deadline: Deadline = 180,
    json: JsonFlag = False,
) -> None:
    """Make this server active now. A failover normally happens by itself."""
    client = Client.of(context)
    job = client.post("/v1/failover", {"force": force})["job"]
    finish(context, client, job, wait=wait, deadline_s=deadline)
