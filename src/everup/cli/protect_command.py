"""`everup protect`: put directories and their applications under protection."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from everup.cli.client import Client
from everup.cli.jobs import finish
from everup.cli.options import Deadline, JsonFlag, WaitFlag, verb_app

app = verb_app()


@app.command(
    epilog="Example:  everup protect /var/lib/postgresql /etc/postgresql "
    "--unit postgresql@15-main --mode durable"
)
def protect(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Directories; everything below is kept.")],
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UNIT",
            help="systemd unit that uses them: stopped while the paths are taken over, from then "
            "on started only on the active server. Repeat in the order of starting.",
        ),
    ] = None,
    mode: Annotated[
        Literal["async", "durable"] | None,
        typer.Option(help="durable: an fsync waits for the other server too. async: it does not."),
    ] = None,
    wait: WaitFlag = True,
    deadline: Deadline = 600,
    json: JsonFlag = False,
) -> None:
    """Replicate directories to the other servers from now on.

    Processes that hold files open for writing below a path are named; those of the given units are
    stopped and started again, the pause is printed. Run it on the active server.
    """
    client = Client.of(context)
    body = {
        "paths": [_absolute(path) for path in paths],
        "units": [_unit_name(name) for name in unit or []],
        "mode": mode,
    }
    job = client.post("/v1/protect", body)["job"]
    finish(context, client, job, wait=wait, deadline_s=deadline)


def _absolute(path: Path) -> str:
    """As a person means it: relative to where they stand, without resolving links."""
    return os.path.abspath(path)


_UNIT_KINDS = (".service", ".socket", ".timer", ".path", ".mount", ".target", ".slice", ".scope")


def _unit_name(name: str) -> str:
    """postgresql@15-main -> postgresql@15-main.service, as systemctl does."""
    return name if name.endswith(_UNIT_KINDS) else f"{name}.service"
