"""The lease of a holder: until when it may act, from the votes that it was given.

What enters: when each voter was asked and has granted. What leaves: a deadline. Called by the
protocol. Pure; nanoseconds of the holder's boot-time clock.

A voter counts its grant from the moment at which it was asked, the holder from *before* it asked,
and takes 3 % and 20 ms off: with clock rates that differ by 1 % the holder's end comes first.
"""

from dataclasses import dataclass, field

from everup.keeper.record import Known

SHARE_PERCENT = 97
RESERVE_NS = 20_000_000


def holder_lease_ns(lease_ns: int) -> int:
    """What the holder uses of a grant of `lease_ns`."""
    return lease_ns * SHARE_PERCENT // 100 - RESERVE_NS


def granted_by_majority_ns(voters: tuple[str, ...], until_ns: dict[str, int]) -> int | None:
    """The latest time until which more than half of `voters` has granted; None without them."""
    times = sorted((until_ns[voter] for voter in voters if voter in until_ns), reverse=True)
    needed = len(voters) // 2 + 1
    return times[needed - 1] if len(times) >= needed else None


@dataclass(slots=True)
class Lease:
    """A lease of `epoch`. The deadline never moves back: what was granted holds until its end."""

    epoch: int
    deadline_ns: int = 0
    until_ns: dict[str, int] = field(default_factory=dict)
    """Until when each voter's grant may be used."""
    proposed: tuple[int, int] | None = None
    """Key of a change that this very lease has proposed and that is not committed."""
    accepted: set[str] = field(default_factory=set)
    runs: dict[str, int] = field(default_factory=dict)
    """Incarnations of the others that we had heard of when this lease made its last record."""

    def acknowledge(self, voter: str, sent_ns: int, lease_ns: int) -> None:
        """`voter` has granted `lease_ns` on a request that left at `sent_ns`."""
        until_ns = sent_ns + holder_lease_ns(lease_ns)
        self.until_ns[voter] = max(until_ns, self.until_ns.get(voter, until_ns))

    def extend(self, server: str, known: Known) -> bool:
        """Recompute the deadline of `server`; True when it moved."""
        times = [granted_by_majority_ns(v, self.until_ns) for v in known.needed_by(server)]
        granted = [time for time in times if time is not None]
        if len(granted) < len(times) or min(granted) <= self.deadline_ns:
            return False
        self.deadline_ns = min(granted)
        return True
