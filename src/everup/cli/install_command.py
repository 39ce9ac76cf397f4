"""`everup install`: put units, user, directories and the command in place."""

import os
from pathlib import Path
from typing import Annotated

import typer

from everup.cli.client import wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import print_json
from everup.errors import Refused
from everup.places import Places

app = verb_app()


@app.command(
    epilog="Example:  python3 -m venv /opt/everup && /opt/everup/bin/pip install everup "
    "&& /opt/everup/bin/everup install"
)
def install(
    context: typer.Context,
    prefix: Annotated[
        Path | None,
        typer.Option(help="The virtual environment that has Everup; default: this one."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Install the systemd units, the user, the directories and the command on this server.

    It may be repeated. Nothing is started before the server is in a group (init or join).
    """
    from everup.system.installation import Step, root_of
    from everup.system.installation import install as install_all

    places = Places.real()
    require_root(places)
    steps = install_all(places, prefix)
    if root_of(places) == Path("/") and places.server_settings.exists():
        start_services(places)
        steps.append(Step("services of this member enabled", True))
    if wants_json(context):
        print_json({"steps": [{"what": s.what, "changed": s.changed} for s in steps]})
        return
    for step in steps:
        typer.echo(f"{'  done' if step.changed else '  kept'}  {step.what}")
    if not places.server_settings.exists():
        typer.echo("Next: everup init (first server), everup join TOKEN, or everup witness TOKEN.")


def require_root(places: Places) -> None:
    """Raises Refused when the real places are meant and we are not root."""
    if os.geteuid() != 0 and places == Places.below(Path("/")):
        raise Refused("only root may do this", remedy="sudo everup ...", code="not-root")


def start_services(places: Places) -> bool:
    """Enable and start the units of a member; False below another root, where none are."""
    from everup.config.load import load_server
    from everup.system.installation import SERVER_UNITS, WITNESS_UNITS, enable, root_of

    if root_of(places) != Path("/"):
        return False
    witness = load_server(places.server_settings).identity == "witness"
    enable(WITNESS_UNITS if witness else SERVER_UNITS)
    return True
