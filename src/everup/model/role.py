"""Who a server is in its group at this moment, and what it remembers from turn to turn.

What leaves: `Role`, `Cause` and the durable `State` that the control turn carries on. Called by
decide (which computes the next state), agent (which stores it before acting) and everything that
shows it to people.
"""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What this server is doing for the group."""

    UNPROTECTED = "unprotected"
    """Nothing is protected; the applications run as if Everup were not there."""
    PASSIVE = "passive"
    """Follows the active server and holds data that it could go on with."""
    REJOINING = "rejoining"
    """Follows the active server, but its own data are not yet at any one position."""
    STANDING = "standing"
    """Asks the voters for the lease."""
    PROMOTING = "promoting"
    """Holds the lease and is putting data, address and applications into service."""
    ACTIVE = "active"
    """Holds lease, address and applications."""
    SWITCHING = "switching"
    """Hands the active role to its partner, on purpose."""
    DEMOTING = "demoting"
    """Takes applications, address and data out of service."""


class Cause(StrEnum):
    """Why the server stands, or stood, for the active role."""

    NONE = "none"
    FOUNDING = "founding"
    """`protect`: the server that holds the data begins the history."""
    START = "start"
    """Nobody else is active and this server may go on: after a boot, or after a lost lease."""
    FAILOVER = "failover"
    """The holder of the lease fell silent."""
    SWITCHOVER = "switchover"
    """The active server handed the role over on request."""
    SWITCHBACK = "switchback"
    """The role comes back because the partner of a switchover could not start."""
    FORCED = "forced"
    """A person insisted, and accepted what may be lost."""


@dataclass(frozen=True)
class Joining:
    """A server whose acknowledgement fsync already waits for, on its way to the may-take-over list.

    It is proposed for the list once it acknowledged `sequence`, the end of the journal when the
    waiting began: from there on it holds everything that was ever promised.
    """

    server: str
    sequence: int


@dataclass(frozen=True)
class Doubt:
    """A server that something is wrong with, and since when (CLOCK_BOOTTIME milliseconds)."""

    server: str
    since_ms: int


@dataclass(frozen=True)
class State:
    """What one server's control turn remembers. Durable before the first action of a turn."""

    role: Role = Role.UNPROTECTED
    cause: Cause = Cause.NONE
    epoch: int = 0
    """Epoch of the lease under which this server promotes or is active; 0 for none."""
    row: str = "new"
    """Row of the table that led to this role."""
    since_ms: int = 0
    """When the role was entered, CLOCK_BOOTTIME milliseconds of `boot_id`."""
    boot_id: str = ""
    partner: str = ""
    """Other side of a switchover, in both directions."""
    last_holder: str = ""
    """Server that was last seen to hold the lease."""
    last_holder_epoch: int = 0
    listed: tuple[str, ...] = ()
    """May-take-over list as last seen; a difference is told to people."""
    voters: tuple[str, ...] = ()
    """Voters as last seen; a difference is told to people."""
    joining: tuple[Joining, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    exposed: bool = False
    """What was written here a while ago is on no other server; its end is told, too."""
