"""How a switchover ended of which the job was lost: judged by the roles that the group shows.

What enters: who was active before and under which epoch, and the group's status, look by look.
What leaves: nothing while it is undecided, then the sentence of success, or Refused. Called where a
job was followed whose agent was started anew meanwhile: by the agent of the other server and by the
command line. Pure.
"""

from typing import Any

from everup.errors import Refused

Json = dict[str, Any]

SETTLED_MS = 3_000
"""The roles must stand still for so long before "nothing happened" is believed."""


class LostSwitchover:
    """`to` is "" when the active server was to choose."""

    def __init__(self, before: str, epoch: int, to: str = "") -> None:
        self._before, self._epoch, self._to = before, epoch, to
        self._same_since_ms: int | None = None

    def look(self, status: Json, now_ms: int) -> str | None:
        """The sentence of success; None while the roles may still change.

        Raises Refused when the group has settled without the switchover.
        """
        active = _settled_active(status)
        if active is None:
            self._same_since_ms = None
            return None
        name, epoch = active
        if name != self._before and self._to in ("", name):
            return f"{name} is active"
        if self._same_since_ms is None:
            self._same_since_ms = now_ms
        if now_ms - self._same_since_ms < SETTLED_MS:
            return None
        again = " again" if name == self._before and epoch > self._epoch else ""
        raise Refused(
            f"the switchover did not take place: {name} is active{again}",
            remedy="everup events says why",
            code="switched-back" if again else "not-switched",
        )


def _settled_active(status: Json) -> tuple[str, int] | None:
    """Who is in service, when nobody is on the way from one role to another."""
    if status.get("state") in ("changing", "no-active"):
        return None
    holder = (status.get("arbiter") or {}).get("holder")
    return (str(holder), int(status.get("epoch") or 0)) if holder else None
