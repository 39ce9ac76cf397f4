"""`everup token`: invite a server, a witness, or a person to the page."""

from typing import Annotated, Literal

import typer

from everup.cli.client import Client, wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import print_json

app = verb_app()


@app.command(epilog="Examples:  everup token server  |  everup token witness  |  everup token page")
def token(
    context: typer.Context,
    kind: Annotated[
        Literal["server", "witness", "page"],
        typer.Argument(help="For everup join, for everup witness, or a link that logs in."),
    ],
    json: JsonFlag = False,
) -> None:
    """Make a token (or a link) that works once, within an hour."""
    answer = Client.of(context).post("/v1/tokens", {"kind": kind})
    if wants_json(context):
        print_json(answer)
    else:
        typer.echo(answer.get("token") or answer.get("link"))
