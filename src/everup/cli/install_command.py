"""`everup install`: put units, user, directories and the command in place."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everup.cli.client import wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import print_json, say
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
        steps.append(Step("services enabled and running", not start_services(places).not_running))
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


@dataclass(frozen=True)
class Started:
    """What became of the units of a member."""

    asked: bool
    """False below another root, where nothing is started."""
    not_running: list[str]

    def to_json(self) -> dict[str, object]:
        return {
            "started": self.asked and not self.not_running,
            "not_running": self.not_running,
        }


def start_services(places: Places) -> Started:
    """Enable and start the units of a member, and say which of them do not come up."""
    from everup.config.load import load_server
    from everup.system.installation import SERVER_UNITS, WITNESS_UNITS, enable, root_of

    if root_of(places) != Path("/"):
        return Started(False, [])
    witness = load_server(places.server_settings).identity == "witness"
    missing = enable(WITNESS_UNITS if witness else SERVER_UNITS)
    for unit in missing:
        say(f"Warning: {unit} does not run.\n  what to do: journalctl -u {unit} -n 30")
    return Started(True, missing)
