"""`everup config`: look at the group's settings, check and change them."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from everup.cli.client import Client, wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import print_json
from everup.errors import EverupError

app = verb_app(
    no_args_is_help=True,
    help="Show, check and change the settings of the group (one document for all servers).",
    epilog="Example:  everup config show > g.toml; edit it; everup config check g.toml; "
    "everup config apply g.toml",
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="TOML as from everup config show.")]


@app.command()
def show(context: typer.Context, json: JsonFlag = False) -> None:
    """Print the settings as TOML."""
    answer = Client.of(context).get("/v1/config")
    if wants_json(context):
        print_json(answer)
    else:
        typer.echo(answer["toml"], nl=False)


@app.command()
def check(context: typer.Context, file: File, json: JsonFlag = False) -> None:
    """Name every mistake in a file, each with its line; nothing is changed."""
    from everup.config.load import parse_group

    group = parse_group(_text(file), str(file))
    if wants_json(context):
        print_json({"valid": True, "version": group.version})
    else:
        typer.echo(f"{file} is good.")


@app.command()
def apply(context: typer.Context, file: File, json: JsonFlag = False) -> None:
    """Take the settings of a file on every server; the version in it must be the current one."""
    _send(context, _text(file), str(file))


@app.command()
def edit(context: typer.Context, json: JsonFlag = False) -> None:
    """Open the settings in $EDITOR and take them when they are good."""
    text = Client.of(context).get("/v1/config")["toml"]
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "sensible-editor"
    with tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False) as file:
        file.write(text)
    path = Path(file.name)
    try:
        done = subprocess.run([*editor.split(), str(path)], check=False)
    except FileNotFoundError as error:
        path.unlink()
        raise EverupError(f"there is no editor {editor!r}", remedy="set $EDITOR") from error
    edited = _text(path)
    if done.returncode != 0 or edited == text:
        path.unlink()
        typer.echo("Nothing was changed.")
        return
    # After a mistake the file stays: what a person typed must not be lost.
    _send(context, edited, str(path))
    path.unlink()


def _send(context: typer.Context, text: str, name: str) -> None:
    from everup.config.load import parse_group

    parse_group(text, name)
    answer = Client.of(context).post("/v1/config", {"toml": text})
    if wants_json(context):
        print_json(answer)
    else:
        typer.echo(f"The group has the settings of version {answer['version']} now.")


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise EverupError(
            f"{file} cannot be read: {error.strerror}",
            remedy="everup config show > FILE writes one",
            code="file-unreadable",
        ) from error
    except UnicodeDecodeError as error:
        raise EverupError(f"{file} is no UTF-8 text", code="file-unreadable") from error
