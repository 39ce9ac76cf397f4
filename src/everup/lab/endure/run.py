"""A whole endurance run: rounds, each with its audit; evidence and a report.

What enters: what the person asked for. What leaves: True when no round had a finding; the report's
file; a directory of evidence for each round that had one. Called by `everup lab endure`.
"""

import platform
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from everup import __version__
from everup.errors import EverupError
from everup.lab.demo.measure import longest_gap_ms, read_acknowledged, round_ms
from everup.lab.endure.acts import Acts
from everup.lab.endure.audit import Audit
from everup.lab.endure.evidence import keep
from everup.lab.endure.expected import unexpected
from everup.lab.endure.ground import Ground
from everup.lab.endure.logs import read_lines
from everup.lab.endure.plan import Plan, draw
from everup.lab.endure.report import Report, Round
from everup.lab.endure.scene import Scene, wait_until
from everup.lab.endure.words import tell
from everup.lab.lab import Lab
from everup.lab.preflight import missing_for_the_demo, missing_things, require
from everup.lab.progress import Progress
from everup.lab.wheels import find_wheels

WHOLE_S = 120.0
_FLOWS_S = 30.0
_FLOWING = 30
_TOLD_LINES = 12
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Wishes:
    """What the person asked for. `first`: number of the first round under this seed."""

    name: str
    rounds: int
    seed: int
    first: int = 1
    report: Path = Path("endure.json")
    project: Path = Path()
    quiet: bool = False


def run_endure(wishes: Wishes) -> Report:
    """Run all rounds. A lab that ran before goes on running; one that was built here is removed."""
    require([*missing_things(), *missing_for_the_demo()])
    lab = Lab(wishes.name)
    found_running = lab.running
    console = Console(highlight=False, quiet=wishes.quiet)
    ground = Ground(lab, lambda: find_wheels(wishes.project), wishes.seed)
    report = Report(wishes.seed)
    # Who ends us in order (a time limit, for one) must not find a lab left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        if not found_running:
            stack.callback(lab.down)
        last = wishes.first + wishes.rounds - 1
        console.print(
            f"[bold]Endurance: rounds {wishes.first} to {last} of seed {wishes.seed}[/]"
            f" in the lab {wishes.name}"
        )
        progress = Progress(console)
        if found_running:
            ground.settle()
        else:
            ground.build(progress.say)
        progress.done("The group is whole")
        report.versions = _versions(ground)
        _Rounds(wishes, ground, report, console).all()
    _summary(report, wishes, console)
    return report


class _Rounds:
    """The loop."""

    def __init__(self, wishes: Wishes, ground: Ground, report: Report, console: Console) -> None:
        self._wishes = wishes
        self._ground = ground
        self._report = report
        self._console = console
        self._scene = Scene(ground.stage)
        self._acts = Acts(self._scene)
        self._audit = Audit(self._scene)
        self._began = time.monotonic()

    def all(self) -> None:
        for number in range(self._wishes.first, self._wishes.first + self._wishes.rounds):
            plan = draw(self._wishes.seed, number)
            figures = Round(number, plan.kind, plan.values, plan.after_s)
            self._report.rounds.append(figures)
            self._one(plan, figures)
            self._report.save(self._wishes.report)
            self._tell(figures)
            last = number == self._wishes.first + self._wishes.rounds - 1
            if not figures.sound and not last:
                # The next round must not find again what this one has found.
                self._ground.build(lambda _: None)

    def _one(self, plan: Plan, figures: Round) -> None:
        began, wall = time.monotonic(), time.time()
        figures.began = datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")
        try:
            self._disturb(plan, figures)
            self._judge(figures, began)
        except (EverupError, OSError) as problem:
            sentence = problem.sentence if isinstance(problem, EverupError) else str(problem)
            figures.findings.append(sentence)
        self._read_logs(plan, figures, wall)
        figures.took_ms = round_ms(time.monotonic() - began)
        if figures.findings:
            name = f"seed-{self._wishes.seed}-round-{plan.number}"
            directory = self._wishes.report.resolve().parent / "endure-evidence" / name
            figures.evidence = str(directory)
            keep(self._scene, figures, wall, directory)

    def _disturb(self, plan: Plan, figures: Round) -> None:
        """Load, fault, repair, wholeness. The load ends with it."""
        status = self._scene.wait_whole(WHOLE_S)
        cast = self._scene.cast()
        figures.epoch_before, figures.active_before = int(status["epoch"]), cast.active
        figures.sentence = tell(plan, cast)
        with self._ground.load():
            self._wait_flowing(time.monotonic())
            began = time.monotonic()
            time.sleep(plan.after_s)
            try:
                figures.findings += self._acts.perform(plan, cast)
            finally:
                self._scene.repair()
            repaired = time.monotonic()
            status = self._scene.wait_whole(WHOLE_S)
            figures.whole_ms = round_ms(time.monotonic() - repaired)
            self._wait_flowing(time.monotonic())
            moments = [each.at for each in read_acknowledged(self._ground.stage.load_logs)]
            end = time.monotonic()
        figures.epoch_after, figures.active_after = int(status["epoch"]), self._scene.cast().active
        inside = [moment for moment in moments if began <= moment <= end]
        figures.acknowledged = len(inside)
        figures.pause_ms = round(longest_gap_ms(inside, began, end))

    def _wait_flowing(self, since: float) -> None:
        def flows() -> bool:
            found = read_acknowledged(self._ground.stage.load_logs, _TAIL_BYTES)
            return sum(each.at > since for each in found) >= _FLOWING

        wait_until("The clients' transactions flow", flows, _FLOWS_S)

    def _judge(self, figures: Round, began: float) -> None:
        self._scene.wait_whole(WHOLE_S)
        facts = self._audit.examine(began)
        figures.lost, figures.resurrected = facts.lost, facts.resurrected
        figures.compared_entries, figures.compared_bytes = facts.entries, facts.bytes
        figures.identical = facts.identical
        figures.findings += facts.findings

    def _read_logs(self, plan: Plan, figures: Round, since: float) -> None:
        lines = read_lines(self._scene.lab, since, self._scene.blackouts)
        strange = unexpected(lines, plan.marks)
        figures.findings += [f"unexpected: {line}" for line in strange[:_TOLD_LINES]]
        if len(strange) > _TOLD_LINES:
            figures.findings.append(f"... and {len(strange) - _TOLD_LINES} more unexpected lines")

    def _tell(self, figures: Round) -> None:
        since = time.monotonic() - self._began
        mark = "[bold red]✗[/]" if figures.findings else "[bold green]✓[/]"
        stayed = figures.active_before == figures.active_after
        verb = "stays" if stayed else "is now"
        self._console.print(
            f"  [dim]{since:6.0f} s[/] {mark} [bold]{figures.number:3d}[/]"
            f" [yellow]{escape(figures.sentence or figures.kind)}[/]"
            f" → {figures.active_after or 'nobody'} {verb} active, whole after"
            f" {figures.whole_ms / 1000:.1f} s; {figures.acknowledged} transactions,"
            f" longest pause {figures.pause_ms / 1000:.1f} s, {figures.lost} lost,"
            f" trees {'identical' if figures.identical else 'NOT proven identical'}",
            soft_wrap=True,
        )
        for sentence in figures.findings:
            self._console.print(f"             [red]{escape(sentence)}[/]", soft_wrap=True)
        if figures.evidence:
            self._console.print(f"             evidence: {escape(figures.evidence)}")


def _versions(ground: Ground) -> dict[str, str]:
    return {
        "everup": __version__,
        "postgresql": ground.stage.database.version,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def _summary(report: Report, wishes: Wishes, console: Console) -> None:
    told = report.to_json()
    console.print(
        f"{len(report.rounds)} rounds of {len(told['kinds'])} kinds,"
        f" {told['acknowledged']} acknowledged transactions, {told['lost']} lost,"
        f" {told['resurrected']} resurrected; report: {wishes.report}"
    )
    if report.ok:
        console.print("[bold green]✓ No finding.[/]")
        return
    numbers = [str(each.number) for each in report.rounds if each.findings]
    console.print(f"[bold red]✗ Findings in round(s) {', '.join(numbers)}.[/] To repeat one:")
    words = f"everup lab endure --seed {report.seed} --first {numbers[0] if numbers else 1}"
    console.print(f"    {words} --rounds 1")
