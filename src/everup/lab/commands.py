"""Running a program of the host with a deadline, and saying in one sentence what failed.

What enters: argument lists. What leaves: the finished program, or an error with its last words.
Called by every part of the lab.
"""

import subprocess

from everup.errors import DeadlinePassed, EverupError

DEFAULT_TIMEOUT_S = 30.0


class LabError(EverupError):
    """Something of the lab's machinery did not do what it must."""

    code = "lab"


def run_host(
    arguments: list[str],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    check: bool = True,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one program on the host; `check` turns a non-zero end into a LabError."""
    try:
        done = subprocess.run(
            arguments, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise DeadlinePassed(f"'{' '.join(arguments)}' took longer than {timeout_s} s.") from late
    except FileNotFoundError as missing:
        raise LabError(
            f"The program {arguments[0]} is not installed.",
            remedy="Run 'make setup', or install the packages that 'everup lab up' names.",
        ) from missing
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip()[-500:]
        raise LabError(f"'{' '.join(arguments)}' ended with {done.returncode}: {words}")
    return done
