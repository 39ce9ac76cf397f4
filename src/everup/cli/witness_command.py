"""`everup witness`: become the witness of a group."""

import typer

from everup.cli.join_command import join_as
from everup.cli.options import Channels, JsonFlag, Management, ServerName, TokenText, verb_app

app = verb_app()


@app.command(epilog="Examples:  everup witness TOKEN  |  everup witness - < FILE")
def witness(
    context: typer.Context,
    token: TokenText,
    management: Management = None,
    channel: Channels = None,
    name: ServerName = None,
    json: JsonFlag = False,
) -> None:
    """Give a group the vote of this server; it holds no data and no certificate authority.

    With - the token is read from standard input, where no other user of this machine can see it.
    Without --management the address that leads to the group's first server is taken.
    """
    join_as(context, "witness", token, management, tuple(channel or []), name)
