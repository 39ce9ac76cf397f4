"""`everup`: finds the verb, runs it, and turns every error into a sentence and an exit code.

What enters: arguments. What leaves: exit code 0 done, 1 refused or failed, 2 usage, 3 deadline
passed, 4 not connected. A verb's file is imported only when the verb is used, so that each starts
in well under 250 ms.
"""

import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from everup.cli.output import print_error
from everup.errors import EXIT_REFUSED, BadInput, EverupError

VERBS = (
    *("install", "init", "join", "witness"),
    *("status", "protect", "unprotect", "switchover", "failover"),
    *("queue", "sync", "verify", "divergence"),
    *("events", "config", "token", "lab", "version"),
)
_MODULES = {"lab": "everup.cli.lab_command"}

EPILOG = (
    "Exit codes: 0 done, 1 refused or failed, 2 usage, 3 deadline passed, 4 not connected. "
    "With --json every answer and every error is JSON on standard output."
)


class Verbs(MutableMapping[str, Any]):
    """The commands by name; each is built from its module `app` when it is asked for."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in VERBS:
            raise KeyError(name)
        if name not in self._built:
            module = import_module(_MODULES.get(name, f"everup.cli.{name}_command"))
            command = typer.main.get_command(module.app)
            command.name = name
            self._built[name] = command
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class VerbGroup(TyperGroup):
    """A group whose commands are `Verbs`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Verbs()


app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog=EPILOG,
    help="Keep a Linux application server ever up: replicate, fail over, carry on.",
)


@app.callback()
def options(
    json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
    socket: Annotated[
        Path | None, typer.Option(help="The agent's socket, when it is not the usual one.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask another member, for example https://192.0.2.12:7573, "
            "with this server's own certificate.",
        ),
    ] = None,
) -> None:
    """Options before the verb; the verbs read them through `everup.cli.client`."""
    if socket is not None and server is not None:
        raise BadInput("--socket and --server exclude each other", code="usage")
    del json


def main() -> None:
    """Entry point of the program."""
    as_json = "--json" in sys.argv[1:]
    try:
        code = _run(as_json)
    except EverupError as error:
        print_error(error, as_json=as_json)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader of our output went away (`everup events | head`); nothing is wrong.
        sys.stderr.close()
        code = 0
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print_error(EverupError(f"the system refused: {what}", code="system"), as_json=as_json)
        code = EXIT_REFUSED
    sys.exit(code)


def _run(as_json: bool) -> int:
    """Usage errors are shown by typer for people, and as JSON for programs."""
    if not as_json:
        app()
        return 0
    try:
        return int(app(standalone_mode=False) or 0)
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        raise BadInput(message() or "usage", remedy="everup --help", code="usage") from error


if __name__ == "__main__":
    main()
