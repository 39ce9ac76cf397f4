"""Run a program of the operating system, with a time limit and without a shell.

What enters: an argument list. What leaves: its output, or an EverupError with the program's own
words. Called by installation and membership, never on a path that must be fast.
"""

import subprocess
from collections.abc import Sequence

from everup.errors import EverupError

COMMAND_DEADLINE_MS = 60_000


def run(arguments: Sequence[str], *, deadline_ms: int = COMMAND_DEADLINE_MS) -> str:
    """Standard output of a program that ended well.

    Raises EverupError (code `command-failed`) when it is missing, fails or takes too long.
    """
    shown = " ".join(arguments)
    try:
        done = subprocess.run(
            list(arguments),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=deadline_ms / 1000,
            check=False,
        )
    except FileNotFoundError as error:
        raise EverupError(
            f"the program {arguments[0]} is not installed",
            remedy=f"install the package that has {arguments[0]}",
            code="command-failed",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EverupError(
            f"{shown} did not end in {deadline_ms} ms", code="command-failed"
        ) from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise EverupError(f"{shown} failed: {words}", code="command-failed")
    return done.stdout


def succeeds(arguments: Sequence[str]) -> bool:
    """Whether a program ends well; for questions such as `systemctl is-active`."""
    try:
        run(arguments)
    except EverupError:
        return False
    return True
