"""`everup switchover`: swap the roles on purpose."""

from typing import Annotated

import typer

from everup.agent.lost_job import LostSwitchover
from everup.cli.client import Client
from everup.cli.jobs import finish
from everup.cli.options import Deadline, JsonFlag, WaitFlag, verb_app

app = verb_app()


@app.command(epilog="Examples:  everup switchover  |  everup switchover --to secondary --dry-run")
def switchover(
    context: typer.Context,
    to: Annotated[
        str | None,
        typer.Option(metavar="SERVER", help="Who becomes active; default: the best candidate."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")
    ] = False,
    wait: WaitFlag = True,
    deadline: Deadline = 180,
    json: JsonFlag = False,
) -> None:
    """Make another server active; applications stop here and start there, nothing is lost."""
    client = Client.of(context)
    before = client.get("/v1/status")
    judge = LostSwitchover(before["arbiter"]["holder"] or "", before["epoch"], to or "").look
    job = client.post("/v1/switchover", {"to": to, "dry_run": dry_run})["job"]
    known = None if dry_run else judge
    finish(context, client, job, wait=wait, deadline_s=deadline, judge=known)
