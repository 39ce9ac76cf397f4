"""`everup init`: make a group on its first server."""

import socket
from typing import Annotated

import typer

from everup.cli.client import wants_json
from everup.cli.install_command import require_root, start_services
from everup.cli.options import Channels, JsonFlag, ServerName, verb_app
from everup.cli.output import print_json, say
from everup.places import Places

app = verb_app()


@app.command(
    epilog="Example:  everup init --group shop --public 192.0.2.10/24@eth0 "
    "--management 192.0.2.11 --channel 10.0.0.1"
)
def init(
    context: typer.Context,
    group: Annotated[str, typer.Option(metavar="NAME", help="Name of the new group.")],
    management: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="This server's own address for people and the other members; never moves.",
        ),
    ],
    public: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS/PREFIX@INTERFACE",
            help="Address that clients use; it follows the active server. Repeat it for more.",
        ),
    ] = None,
    channel: Channels = None,
    name: ServerName = None,
    json: JsonFlag = False,
) -> None:
    """Found a group: its own certificate authority, this server's keys, the first settings.

    Prints a token for the next server, one for the witness, and a link to the page. Each works
    once, within an hour; everup token makes more.
    """
    from everup.agent.membership.foundation import Founding, found, invite, parse_public
    from everup.agent.membership.local_address import refuse_foreign_addresses
    from everup.system.installation import require_installed

    places = Places.real()
    require_root(places)
    founding = Founding(
        group=group,
        name=name or own_name(),
        public=tuple(parse_public(text) for text in public or []),
        management=management,
        channels=tuple(channel or []),
    )
    refuse_foreign_addresses([management, *founding.channels])
    require_installed(places)
    settings, changed = found(places, founding)
    tokens = {
        kind: invite(places, settings, founding.name, kind)
        for kind in ("server", "witness", "page")
    }
    for path in changed:
        say(f"The public address was taken out of {path}; the old file is below {places.var}.")
    started = start_services(places)
    if wants_json(context):
        print_json(
            {
                "group": group,
                "server": founding.name,
                "tokens": {"server": tokens["server"], "witness": tokens["witness"]},
                "page": tokens["page"],
                **started.to_json(),
            }
        )
        return
    typer.echo(f"The group {group} exists; {founding.name} is its first server.\n")
    typer.echo("On the next server:\n")
    typer.echo(f"  everup join {tokens['server']} --management ADDRESS --channel ADDRESS\n")
    typer.echo("On the witness:\n")
    typer.echo(f"  everup witness {tokens['witness']}\n")
    typer.echo(f"The page, for one login:\n\n  {tokens['page']}\n")
    typer.echo("Each works once, within an hour. Next here: everup protect PATH --unit UNIT")


def own_name() -> str:
    """This server's host name, as the group would write it."""
    return socket.gethostname().partition(".")[0].lower()
