"""When a verification of everything is due, and why (pure).

What enters: the time, how often it is wanted, what is known of each other server. What leaves: a
sentence, or nothing. Called by `scheduled`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

AGAIN_S = 900.0
"""After an attempt, however it ended, nothing is begun for so long."""


@dataclass(frozen=True)
class Known:
    """One other server; times in seconds since 1970."""

    server: str
    in_sync: bool
    proven_s: float | None
    """When everything on it was looked at last."""
    doubt_s: float = 0.0
    """Since then there is a reason to look again; 0: none."""
    doubt: str = ""


def due(now_s: float, every_hours: int, servers: Sequence[Known], tried_s: float | None) -> str:
    """Why a verification should begin now; "" when it should not.

    `every_hours`: 0 leaves only the doubts. `tried_s`: when one was begun last.
    """
    if tried_s is not None and 0 <= now_s - tried_s < AGAIN_S:
        return ""
    reasons = (_reason(now_s, every_hours, each) for each in servers if each.in_sync)
    return next((reason for reason in reasons if reason), "")


def _reason(now_s: float, every_hours: int, known: Known) -> str:
    if known.doubt_s > (known.proven_s or 0.0):
        return known.doubt
    if not every_hours:
        return ""
    if known.proven_s is None:
        return f"{known.server} was never proven equal as a whole"
    age_hours = (now_s - known.proven_s) / 3600
    if age_hours >= every_hours:
        return f"the last proof of {known.server} is {int(age_hours)} hours old"
    if -age_hours > every_hours:
        return f"the last proof of {known.server} has a date in the future"
    return ""
