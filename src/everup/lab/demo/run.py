"""The whole demo, from an empty machine to the report.

What enters: rounds, seed, name of the lab. What leaves: exit code 0 when everything was as
promised; build/demo.json, and the servers' journals in build/demo-logs.
"""

import platform
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from everup import __version__
from everup.errors import EverupError
from everup.lab.commands import run_host
from everup.lab.database import ACCOUNTS_PER_SCALE, PROTECTED
from everup.lab.demo.report import Report, Round, broken_promises
from everup.lab.demo.round import RoundRunner
from everup.lab.demo.steps import Steps
from everup.lab.demo.timeline import Timeline
from everup.lab.lab import Lab
from everup.lab.pages import Pages
from everup.lab.preflight import missing_for_the_demo, missing_things, require
from everup.lab.stage import ECHO_UNIT, Stage
from everup.lab.wheels import Wheels, find_wheels

SCALE = 10
_SYNC_DEADLINE_S = 300


@dataclass(frozen=True)
class Wishes:
    """What the person asked for."""

    name: str = "demo"
    rounds: int = 1
    seed: int = 0
    keep: bool = False
    file_system: str = "ext4"
    project: Path = Path()


def run_demo(wishes: Wishes) -> bool:
    """Run the demo; True when everything was as promised."""
    require([*missing_things(), *missing_for_the_demo()])
    line = Timeline()
    report = Report(seed=wishes.seed)
    line.title(
        "Everup: a PostgreSQL server survives a power cut",
        f"{wishes.rounds} round(s), seed {wishes.seed}, lab {wishes.name}",
    )
    lab = Lab(wishes.name)
    wheels = find_wheels(wishes.project)
    lab.down()  # what an earlier run may have left
    stage = Stage(lab)
    steps = Steps(stage)
    try:
        with _told_as_findings(report, line):
            _prepare(wishes, stage, wheels, line)
            report.versions = _versions(stage)
            _rounds(wishes, steps, line, report)
    finally:
        if lab.running:
            steps.save_logs(wishes.project / "build/demo-logs")
        report.save(wishes.project / "build/demo.json")
        line.summary(report)
        if not wishes.keep:
            lab.down()
    if wishes.keep:
        _tell_how_to_play(wishes, line)
    return report.ok


@contextmanager
def _told_as_findings(report: Report, line: Timeline) -> Iterator[None]:
    try:
        yield
    except EverupError as error:
        remedy = f" ({error.remedy})" if error.remedy else ""
        report.findings.append(f"{error.sentence}{remedy}")
        line.bad(error.sentence)


def _prepare(wishes: Wishes, stage: Stage, wheels: Wheels, line: Timeline) -> None:
    line.chapter("Before: a PostgreSQL server as there are many")
    with line.working("building the lab: five servers with systemd, disks and cables of their own"):
        stage.build(wheels, wishes.file_system)
    line.good("Five servers have booted: primary, secondary, witness, client, services")
    primary = stage.lab.server("primary")
    with line.working(f"filling PostgreSQL with pgbench's tables, scale {SCALE}"):
        stage.database.create(primary, SCALE)
        primary.run(["systemctl", "start", ECHO_UNIT])
    line.good(f"PostgreSQL {stage.database.version} runs on the primary, full of data")

    line.chapter("(a) Protect it")
    with line.working("init, join, witness"):
        said = stage.form()
    line.good("everup init, join, witness: a group with its own certificates")
    pages = Pages(stage.lab)
    pages.open()
    line.say(f"Watch it all on the page: {pages.link(said['page'])}")
    units = ("--unit", ECHO_UNIT, "--unit", stage.database.unit)
    with line.working("protecting the database while it runs"):
        stage.group.everup("primary", "protect", *PROTECTED, *units, "--mode", "durable")
    line.good(f"everup protect {' '.join(PROTECTED)} --mode durable")
    with line.working("copying everything to the secondary"):
        stage.group.wait("primary", "synchronized", _SYNC_DEADLINE_S)
    stage.settle()
    stage.start_prober()
    line.good("The secondary has everything: synchronized")


def _rounds(wishes: Wishes, steps: Steps, line: Timeline, report: Report) -> None:
    chance = random.Random(wishes.seed)
    runner = RoundRunner(steps, line, chance, SCALE * ACCOUNTS_PER_SCALE)
    for number in range(1, wishes.rounds + 1):
        line.chapter(f"Round {number}: (b) load, (c) power cut, (d) proof, (e) return, (f) back")
        figures = Round()
        report.rounds.append(figures)
        try:
            runner.run(figures)
        finally:
            report.findings += broken_promises(number, figures)


def _versions(stage: Stage) -> dict[str, str]:
    systemd = run_host(["systemd-nspawn", "--version"]).stdout.split()
    return {
        "everup": __version__,
        "postgresql": stage.database.version,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "systemd": systemd[1] if len(systemd) > 1 else "",
    }


def _tell_how_to_play(wishes: Wishes, line: Timeline) -> None:
    name = wishes.name
    line.chapter("The lab stays up. To play with it:")
    for text in (
        f"everup lab status --name {name}",
        f"everup lab exec --name {name} primary -- everup status",
        f"everup lab exec --name {name} primary -- everup switchover",
        f"everup lab power-cut --name {name} primary   (and power-on)",
        f"everup lab down --name {name}",
    ):
        line.console.print(f"    {text}", markup=False)
