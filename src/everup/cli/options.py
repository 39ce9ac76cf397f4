"""What several verbs have in common: their options, and how their help is drawn."""

from typing import Annotated, Any

import typer

from everup.cli.client import remember_json

JsonFlag = Annotated[bool, typer.Option("--json", help="Answer in JSON.", callback=remember_json)]
WaitFlag = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Follow the work to its end, or leave it running.")
]
Deadline = Annotated[
    int, typer.Option("--deadline", metavar="S", min=1, help="Give up waiting after S seconds.")
]
Management = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="This server's own address for people and the other members; never moves.",
    ),
]
Channels = Annotated[
    list[str] | None,
    typer.Option(
        "--channel",
        metavar="ADDRESS",
        help="This server's address on a replication network; repeat it for more, best first.",
    ),
]
TokenText = Annotated[
    str, typer.Argument(metavar="TOKEN", help="From a member; - reads it from standard input.")
]
ServerName = Annotated[
    str | None, typer.Option("--name", help="Name in the group; default: this server's host name.")
]


def verb_app(**attributes: Any) -> typer.Typer:
    """An app for one verb's file."""
    return typer.Typer(add_completion=False, rich_markup_mode="markdown", **attributes)
