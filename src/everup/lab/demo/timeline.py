"""The demo as a person sees it: what happens, when, and whether it is good.

What enters: sentences and figures. What leaves: lines on a terminal, with the time since the
beginning (or, during a power cut, since the cut).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from everup.lab.demo.report import AIMS_MS, Report


class Timeline:
    """Prints as things happen."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._began = time.monotonic()
        self._zero = self._began

    def title(self, text: str, below: str = "") -> None:
        self.console.print(Panel.fit(f"[bold]{escape(text)}[/]\n{escape(below)}".strip()))

    def chapter(self, text: str) -> None:
        self.console.print(f"\n[bold cyan]{escape(text)}[/]")

    def zero(self) -> float:
        """From now on times count from this moment; returned on the monotonic clock."""
        self._zero = time.monotonic()
        return self._zero

    def say(self, text: str, *, at: float | None = None) -> None:
        """Something happened: now, or at a moment of the monotonic clock."""
        self._line("[green]•[/]", text, at)

    def good(self, text: str, *, at: float | None = None) -> None:
        self._line("[bold green]✓[/]", text, at)

    def bad(self, text: str, *, at: float | None = None) -> None:
        self._line("[bold red]✗[/]", text, at)

    def loud(self, text: str, *, at: float | None = None) -> None:
        self._line("[bold yellow]⚡[/]", f"[bold yellow]{escape(text)}[/]", at, marked_up=True)

    def _line(self, mark: str, text: str, at: float | None, *, marked_up: bool = False) -> None:
        seconds = (time.monotonic() if at is None else at) - self._zero
        words = text if marked_up else escape(text)
        self.console.print(f"  [dim]{seconds:+8.2f} s[/]  {mark} {words}", soft_wrap=True)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """A spinner while something takes its time."""
        if self.console.is_terminal:
            with self.console.status(f"[dim]{escape(text)}[/]"):
                yield
        else:
            yield

    def summary(self, report: Report) -> None:
        """The table at the end."""
        table = Table(title="What was measured (ms)", header_style="dim")
        aims = [f"{name.removesuffix('_ms')}\n(aim {aim})" for name, aim in AIMS_MS.items()]
        for name in ("round", *aims, "mail\n(limit 5000)", "lost", "identical"):
            table.add_column(name, justify="right")
        for number, each in enumerate(report.rounds, 1):
            table.add_row(
                str(number),
                *(str(each.promotion_ms), str(each.outage_ms), str(each.switchover_ms)),
                *(str(each.mail_ms), str(each.lost), "yes" if each.identical else "NO"),
            )
        medians = report.medians
        table.add_row(
            "median",
            *(_aimed(medians.get(name), AIMS_MS[name]) for name in AIMS_MS),
            *(f"{medians.get('mail_ms', -1):.0f}", "", ""),
            style="bold",
        )
        self.console.print()
        self.console.print(table)
        for finding in report.findings:
            self.console.print(f"  [bold red]✗[/] {escape(finding)}")
        if report.ok:
            self.console.print("  [bold green]✓ Everything was as promised.[/]")


def _aimed(value: float | None, aim: int) -> str:
    if value is None:
        return "-"
    colour = "green" if value <= aim else "yellow"
    return f"[{colour}]{value:.0f}[/]"
