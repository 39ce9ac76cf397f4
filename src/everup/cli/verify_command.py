"""`everup verify`: prove that the other servers hold the same."""

import os
from typing import Annotated, Any
from urllib.parse import quote

import typer

from everup.cli.client import Client, wants_json
from everup.cli.jobs import finish
from everup.cli.options import Deadline, JsonFlag, WaitFlag, verb_app
from everup.cli.output import print_json
from everup.errors import BadInput
from everup.model.words import count_text

app = verb_app()
Json = dict[str, Any]


@app.command(
    epilog="Examples:  everup verify  |  everup verify /srv/data/orders --no-wait  |  "
    "everup verify --tree /srv/data"
)
def verify(
    context: typer.Context,
    path: Annotated[
        str | None, typer.Argument(help="Below this; default: everything that is protected.")
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Only show how the last one ended, path by path.")
    ] = False,
    tree: Annotated[
        bool,
        typer.Option(
            "--tree",
            help="Only show what is known: below PATH, entry by entry, how many objects are "
            "synchronized, out of sync and unchecked on each server.",
        ),
    ] = False,
    gentle: Annotated[
        bool, typer.Option("--gentle", help="Slowly, for the sake of disks and applications.")
    ] = False,
    wait: WaitFlag = True,
    deadline: Deadline = 3600,
    json: JsonFlag = False,
) -> None:
    """Compare every object with the other servers while the applications go on writing.

    A difference counts when it is seen again without a write in between. It is named, repaired,
    and the command ends with 1.
    """
    if last and (tree or path):
        raise BadInput("--last stands alone", remedy="everup verify --tree PATH", code="usage")
    client = Client.of(context)
    where = os.path.abspath(path) if path else None
    if last:
        _show(context, client.get("/v1/verify"))
        return
    if tree:
        query = f"?path={quote(where)}" if where else ""
        _show_tree(context, client.get(f"/v1/verify/tree{query}"))
        return
    job = client.post("/v1/verify", {"path": where, "gentle": gentle})["job"]
    finish(context, client, job, wait=wait, deadline_s=deadline)


def _show(context: typer.Context, found: Json) -> None:
    if wants_json(context):
        print_json(found)
        return
    if not found["paths"]:
        typer.echo("Nothing is known yet: no path is protected, or no other server is connected.")
    for entry in found["paths"]:
        typer.echo(
            f"{entry['path']} on {entry['server']}: {entry['state']}; "
            f"{entry['synchronized']} synchronized, {entry['out_of_sync']} out of sync, "
            f"{entry['unchecked']} unchecked ({entry['at'] or 'never verified'})"
        )
        for name in entry["different"]:
            typer.echo(f"  was different: {name}")
    for server, each in found["last"].items():
        if not each["whole"] or each["error"]:
            typer.echo(f"{server}: {_partial(each)} ({each['at']})")


def _partial(result: Json) -> str:
    """The last look, when it was not the one that the counts are of."""
    if result["error"]:
        return f"the last verification broke off: {result['error']['sentence']}"
    return f"after that a part was verified: {count_text(result['objects'], 'object')}"


def _show_tree(context: typer.Context, found: Json) -> None:
    if wants_json(context):
        print_json(found)
        return
    for tree in found["trees"]:
        typer.echo(_line(tree["path"], tree, ""))
        for entry in tree["entries"]:
            name = entry["path"].rsplit("/", 1)[-1]
            typer.echo(_line(name, entry, "  "))
        if tree["more"]:
            typer.echo(f"  ... and {count_text(tree['more'], 'more name')}")
        if tree["cut"]:
            typer.echo("  (too many to count in the time: name a directory below)")


def _line(name: str, entry: Json, indent: str) -> str:
    mark = "/" if entry["directory"] and not name.endswith("/") else ""
    parts = [f"{server}: {_states(counts)}" for server, counts in entry["servers"].items()]
    text = "; ".join(parts) or "no other server is connected"
    return f"{indent}{name + mark:<{40 - len(indent)}} {text}"


def _states(counts: Json) -> str:
    """Only what there is; one word when all of it is the same."""
    words = (
        (counts["synchronized"], "synchronized"),
        (counts["out_of_sync"], "out of sync"),
        (counts["unchecked"], "unchecked"),
    )
    return ", ".join(f"{count} {word}" for count, word in words if count) or "empty"
