"""`everup version`."""

import platform

import typer

from everup import __version__
from everup.cli.client import wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import print_json

app = verb_app()


@app.command()
def version(context: typer.Context, json: JsonFlag = False) -> None:
    """Show the version of this program; it needs no agent."""
    if wants_json(context):
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        typer.echo(f"everup {__version__}")
