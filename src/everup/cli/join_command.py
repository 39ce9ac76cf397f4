"""`everup join`: become a server of a group."""

import sys
from typing import TextIO

import typer

from everup.cli.client import wants_json
from everup.cli.init_command import own_name
from everup.cli.install_command import require_root, start_services
from everup.cli.options import Channels, JsonFlag, Management, ServerName, TokenText, verb_app
from everup.cli.output import print_json, say
from everup.errors import BadInput, Refused
from everup.places import Places

app = verb_app()

TOKEN_BYTES_MAX = 4096


@app.command(
    epilog="Examples:  everup join TOKEN --management 192.0.2.12 --channel 10.0.0.2  |  "
    "everup join - --management 192.0.2.12 < FILE"
)
def join(
    context: typer.Context,
    token: TokenText,
    management: Management = None,
    channel: Channels = None,
    name: ServerName = None,
    json: JsonFlag = False,
) -> None:
    """Join the group that TOKEN invites to, as a server that holds data.

    With - the token is read from standard input: on the command line every user of this machine
    could read it while the join runs.

    The token's server is proven by its fingerprint before anything secret is sent, and this
    server's private key never leaves it. When the join is refused, nothing has changed.
    """
    join_as(context, "server", token, management, tuple(channel or []), name)


def token_from(source: TextIO) -> str:
    """The token that a person pastes or a file brings; one line, of which spaces do not matter."""
    if source.isatty():
        say("Token:")
    text = source.readline(TOKEN_BYTES_MAX).strip()
    if not text:
        raise BadInput(
            "there is no token on standard input",
            remedy="everup join - < FILE, or paste it and press Enter",
            code="token-malformed",
        )
    return text


def join_as(
    context: typer.Context,
    kind: str,
    token: str,
    management: str | None,
    channels: tuple[str, ...],
    name: str | None,
) -> None:
    """Join as a server or as a witness, and start what belongs to it."""
    from everup import __version__
    from everup.agent.membership.foundation import invite
    from everup.agent.membership.joining import Newcomer, forget, refuse_second_membership
    from everup.agent.membership.joining import join as redeem
    from everup.agent.membership.local_address import own_address_towards, refuse_foreign_addresses
    from everup.agent.membership.static_address import move_out
    from everup.agent.membership.tokens import Token

    places = Places.real()
    require_root(places)
    refuse_second_membership(places)
    if token == "-":
        token = token_from(sys.stdin)
    if management is None:
        management = own_address_towards(Token.decode(token).addresses)
    refuse_foreign_addresses([management, *channels])
    newcomer = Newcomer(name or own_name(), management, channels, __version__)
    try:
        group = redeem(places, token, "witness" if kind == "witness" else "server", newcomer)
    except OSError:
        # Half-written settings must not look like a membership.
        forget(places)
        raise
    member = group.member(newcomer.name)
    assert member is not None
    if kind != "witness":
        try:
            for path in move_out(places, [public.address for public in group.public]):
                say(f"The public address was taken out of {path}.")
        except Refused as refused:
            # The address is mute until this server is active, whoever configures it: a warning.
            say(f"Warning: {refused.sentence}\n  what to do: {refused.remedy}")
    started = start_services(places)
    page = invite(places, group, member.name, "page") if kind != "witness" else None
    if wants_json(context):
        print_json(
            {
                "group": group.group,
                "server": member.name,
                "identity": member.identity,
                "page": page,
                **started.to_json(),
            }
        )
        return
    typer.echo(f"{member.name} is the {member.identity} of the group {group.group} now.")
    if page is not None:
        typer.echo(f"Its page, for one login within an hour:\n\n  {page}")
