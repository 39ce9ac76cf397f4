"""`everup lab ...`: a whole group on one machine.

What enters: the words of a person or a script. What leaves: calls to `everup.lab`, tables, exit
codes. `cli.main` adds `app` under the name `lab`.
"""

import random
import re
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from everup.cli.client import wants_json
from everup.cli.options import JsonFlag
from everup.errors import BadInput
from everup.lab import Lab
from everup.lab.base import known_labs
from everup.lab.lab import DEFAULT_SERVERS, ServerStatus
from everup.lab.progress import Progress

app = typer.Typer(no_args_is_help=True, help="A whole group of servers on this one machine.")

Name = Annotated[str, typer.Option("--name", help="Name of the lab.")]
ServerName = Annotated[str, typer.Argument(help="primary, secondary, witness, client ...")]
LinkName = Annotated[str, typer.Argument(metavar="[SERVER:]NETWORK")]

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(bit|kbit|mbit|gbit)", re.IGNORECASE)
_DELAY = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)", re.IGNORECASE)
_RATE_UNITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


@app.command()
def up(
    servers: Annotated[list[str] | None, typer.Argument(help="Default: a whole group.")] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Only the machines; Everup is not installed.")
    ] = False,
    file_system: Annotated[str, typer.Option(help="ext4 or xfs, for every disk.")] = "ext4",
    name: Name = "lab",
) -> None:
    """Build a lab, install Everup on its servers and make them a group."""
    lab = Lab(name)
    progress = Progress(Console(highlight=False))
    if bare:
        chosen = tuple(servers or DEFAULT_SERVERS)
        lab.up(chosen, file_system=file_system, say=progress.say)
        typer.echo(f"The lab {name} is up: {', '.join(chosen)}.")
    else:
        from everup.lab.stage import WHOLE_GROUP

        chosen = tuple(servers or WHOLE_GROUP)
        _up_with_group(lab, chosen, file_system, progress)
    typer.echo(f"A shell in it: everup lab exec --name {name} {chosen[0]} -- bash")
    typer.echo(f"Its end:       everup lab down --name {name}")


def _up_with_group(
    lab: Lab, servers: tuple[str, ...], file_system: str, progress: Progress
) -> None:
    from everup.lab.pages import Pages
    from everup.lab.stage import Stage
    from everup.lab.wheels import find_wheels

    stage = Stage(lab)
    stage.build(find_wheels(Path.cwd()), file_system, servers, say=progress.say)
    progress.say("init, join, witness: the servers become a group")
    said = stage.form()
    progress.say("everything to the disks")
    stage.settle()
    pages = Pages(lab)
    pages.open()
    typer.echo(f"The lab {lab.name} is up, and its servers are the group {said['group']}.")
    typer.echo(f"Its page:      {pages.link(said['page'])}")


@app.command()
def down(name: Name = "lab") -> None:
    """Take the lab down; nothing of it is left, also after a crash."""
    Lab(name).down()
    typer.echo(f"The lab {name} is down.")


@app.command()
def status(context: typer.Context, name: Name = "lab") -> None:
    """Show the servers, their power, addresses and cables."""
    lab = Lab(name)
    lines = lab.status()
    if wants_json(context):
        told = {"name": name, "running": lab.running, "servers": [asdict(line) for line in lines]}
        typer.echo(dumps(told))
        return
    if not lab.running:
        others = ", ".join(known_labs()) or "none"
        typer.echo(f"The lab {name} is not up. Labs on this machine: {others}.")
        raise typer.Exit(1)
    Console().print(_table(lines))


def _table(lines: list[ServerStatus]) -> Table:
    table = Table("server", "power", "public", "channel", "management")
    for line in lines:
        power = "frozen" if line.frozen else "on" if line.power else "off"
        cells = [
            f"{line.addresses[network]} ({line.cables[network]})" if network in line.cables else ""
            for network in ("public", "channel", "management")
        ]
        table.add_row(line.name, power, *cells)
    return table


@app.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
def execute(
    server: ServerName,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...")],
    name: Name = "lab",
) -> None:
    """Run a command in a server, with our stdin, stdout and exit code."""
    words = command[1:] if command[0] == "--" else command
    raise typer.Exit(Lab(name).server(server).attach(words))


@app.command("power-cut")
def power_cut(servers: Annotated[list[str], typer.Argument()], name: Name = "lab") -> None:
    """Pull the plug: what was not synced is lost, no goodbye is sent."""
    Lab(name).power_cut(*servers)


@app.command("power-on")
def power_on(server: ServerName, name: Name = "lab") -> None:
    """Boot a server from what its disk holds; returns when it is up."""
    Lab(name).power_on(server)


@app.command()
def freeze(server: ServerName, name: Name = "lab") -> None:
    """Stop every process of a server where it stands."""
    Lab(name).freeze(server)


@app.command()
def thaw(server: ServerName, name: Name = "lab") -> None:
    """Let a frozen server go on."""
    Lab(name).thaw(server)


@app.command()
def cut(
    link: LinkName,
    one_way: Annotated[str, typer.Option(help="in or out, seen from the server.")] = "",
    name: Name = "lab",
) -> None:
    """Cut a cable, or all cables of a network."""
    Lab(name).cut(link, one_way)


@app.command()
def heal(link: LinkName, name: Name = "lab") -> None:
    """Make a link whole and fast again."""
    Lab(name).heal(link)


@app.command()
def slow(
    link: LinkName,
    rate: Annotated[str, typer.Option(help="For example 10mbit.")] = "",
    delay: Annotated[str, typer.Option(help="For example 50ms, in each direction.")] = "",
    name: Name = "lab",
) -> None:
    """Make a link slow."""
    if not rate and not delay:
        raise BadInput("Say how slow.", remedy="Give --rate 10mbit, --delay 50ms, or both.")
    Lab(name).slow(link, rate_bits_per_s=parse_rate(rate), delay_ms=parse_delay(delay))


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How many power cuts.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up to play with.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Repeat an earlier demo's random moments.")
    ] = None,
    file_system: Annotated[str, typer.Option(help="ext4 or xfs, for every disk.")] = "ext4",
    name: Name = "demo",
) -> None:
    """A PostgreSQL server survives a power cut, shown and measured; writes build/demo.json."""
    from everup.lab.demo.run import Wishes, run_demo

    chosen = random.randrange(1_000_000) if seed is None else seed
    wishes = Wishes(name, rounds, chosen, keep, file_system, Path.cwd())
    raise typer.Exit(0 if run_demo(wishes) else 1)


@app.command()
def endure(
    context: typer.Context,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="How many faults.")] = 10,
    seed: Annotated[
        int | None, typer.Option(help="Repeat the faults and moments of an earlier run.")
    ] = None,
    first: Annotated[int, typer.Option(min=1, help="Begin with this round of the seed.")] = 1,
    report: Annotated[Path, typer.Option(help="Where the report is written.")] = Path(
        "endure.json"
    ),
    json: JsonFlag = False,
    name: Name = "endure",
) -> None:
    """Random real faults under load, an audit after each; exit code 1 with findings."""
    del json
    from everup.lab.endure.run import Wishes, run_endure

    chosen = random.randrange(1_000_000) if seed is None else seed
    quiet = wants_json(context)
    done = run_endure(Wishes(name, rounds, chosen, first, report, Path.cwd(), quiet))
    if quiet:
        typer.echo(dumps(done.to_json()))
    raise typer.Exit(0 if done.ok else 1)


def parse_rate(text: str) -> int:
    """`10mbit` as bit/s; nothing is 0, which means unlimited."""
    if not text:
        return 0
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise BadInput(f"{text!r} is not a rate.", remedy="Write 500kbit, 10mbit or 1gbit.")
    return round(float(found[1]) * _RATE_UNITS[found[2].lower()])


def parse_delay(text: str) -> float:
    """`50ms` or `1s` in milliseconds; nothing is 0."""
    if not text:
        return 0.0
    found = _DELAY.fullmatch(text.strip())
    if found is None:
        raise BadInput(f"{text!r} is not a delay.", remedy="Write 50ms or 1s.")
    return float(found[1]) * (1000.0 if found[2].lower() == "s" else 1.0)
