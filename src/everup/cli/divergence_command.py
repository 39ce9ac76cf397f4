"""`everup divergence`: what a server had and no other one, kept before it was overwritten."""

import os
import sys
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer

from everup.cli.client import Client, wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import bytes_text, print_json, say
from everup.errors import EverupError, Refused
from everup.model.words import count_text

app = verb_app(
    no_args_is_help=True,
    help="What a server had and no other one: changes that nobody received (divergence) and files "
    "that never came from an active server (quarantine), kept before they were overwritten.",
    epilog="Examples:  everup divergence list  |  everup divergence export ID lost.tar",
)
Json = dict[str, Any]

Name = Annotated[str, typer.Argument(metavar="ID")]


@app.command("list")
def list_bundles(context: typer.Context, json: JsonFlag = False) -> None:
    """Show the bundles of all servers, oldest first."""
    found = Client.of(context).get("/v1/group/divergence")
    if wants_json(context):
        print_json(found)
        return
    for bundle in found["bundles"]:
        state = "" if bundle["complete"] else "  (being written, or broken off)"
        typer.echo(
            f"{bundle['id']}  {bundle['server']:<10} {bundle['kind']:<10} "
            f"{count_text(bundle['objects'], 'object')}, "
            f"{bytes_text(bundle['bytes'])}{state}"
        )
    if not found["bundles"]:
        typer.echo("There are none.")
    for name in found["unreachable"]:
        say(f"({name} does not answer: its bundles are not known)")


@app.command()
def show(context: typer.Context, name: Name, json: JsonFlag = False) -> None:
    """Say of every object in a bundle what it was here, and what the group has instead."""
    client, _ = _holder(context, name)
    bundle = client.get(f"/v1/divergence/{name}")["bundle"]
    if wants_json(context):
        print_json({"bundle": bundle})
        return
    typer.echo(f"{bundle['id']} on {bundle['server']}, written {bundle['at'] or 'not to its end'}")
    for entry in bundle["objects_kept"]:
        typer.echo(f"  {entry['line']}")


@app.command()
def export(
    context: typer.Context,
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="Where to; - is standard output.")] = None,
    json: JsonFlag = False,
) -> None:
    """Write a bundle as a tar archive: the trees before/ and after/, and list.txt."""
    client, server = _holder(context, name)
    if server:
        raise Refused(
            f"the bundle lies on {server}",
            remedy=f"run everup divergence export {name} on {server}",
            code="bundle-elsewhere",
        )
    target = file or Path(f"divergence-{name}.tar")
    if str(target) == "-":
        client.download(f"/v1/divergence/{name}/tar", cast(IO[bytes], sys.stdout.buffer))
        return
    try:
        opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise Refused(
            f"{target} exists already", remedy="name another file", code="file-exists"
        ) from error
    try:
        with os.fdopen(opened, "wb") as out:
            count = client.download(f"/v1/divergence/{name}/tar", out)
    except BaseException:
        # What is not whole must not lie there as if it were.
        target.unlink()
        raise
    if wants_json(context):
        print_json({"file": str(target), "bytes": count})
    else:
        typer.echo(f"{target}: {bytes_text(count)}; look at it with tar tvf {target}")


@app.command()
def delete(context: typer.Context, name: Name, json: JsonFlag = False) -> None:
    """Delete a bundle for good."""
    client, _ = _holder(context, name)
    client.post(f"/v1/divergence/{name}/delete", {})
    if wants_json(context):
        print_json({"deleted": name})
    else:
        typer.echo(f"{name} is deleted.")


def _holder(context: typer.Context, name: str) -> tuple[Client, str]:
    """Who has the bundle: the agent that is asked anyway and "", or another member and its name."""
    client = Client.of(context)
    try:
        client.get(f"/v1/divergence/{name}")
        return client, ""
    except EverupError as error:
        if error.code != "unknown-bundle":
            raise
        for bundle in client.get("/v1/group/divergence")["bundles"]:
            if bundle["id"] == name:
                return Client.of_member(bundle["server"]), str(bundle["server"])
        raise
