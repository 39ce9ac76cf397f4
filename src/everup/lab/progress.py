"""Steps of long work, each with the time that it took.

What enters: a sentence when a step begins. What leaves: a line per step on a console, the finished
one with its seconds. Called by `everup lab up` and `everup lab endure`.
"""

import time

from rich.console import Console
from rich.markup import escape


class Progress:
    """One piece of work."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def say(self, step: str) -> None:
        """A step begins."""
        self._console.print(
            f"  [dim]{time.monotonic() - self._began:6.1f} s[/]  {escape(step)}", soft_wrap=True
        )

    def done(self, sentence: str) -> None:
        """All of it has been done."""
        self.say(f"{sentence}.")
