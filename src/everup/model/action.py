"""Everything that a control turn can do, as values in the order in which it must happen.

What leaves: frozen actions (decide makes them, act performs them) and `Decision`. Actions of one
lane are performed one after the other, lanes run side by side; an order between lanes is never
assumed, it is made by a row that waits for the observed result. Every action may be performed
again without harm. `key` names what is being done: while it is under way it is not begun again.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Literal

from everup.model.observation import Mode
from everup.model.position import Position
from everup.model.role import State


class Lane(StrEnum):
    """Things that can be done side by side."""

    LEASE = "lease"
    RECORD = "record"
    DATA = "data"
    GATE = "gate"
    ADDRESS = "address"
    UNITS = "units"
    FLAG = "flag"


@dataclass(frozen=True)
class Action:
    """Base of all actions."""

    lane: ClassVar[Lane]
    deadline_ms: ClassVar[int] = 5_000

    @property
    def key(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Stand(Action):
    """Ask the voters for a lease under a new epoch."""

    lane: ClassVar[Lane] = Lane.LEASE
    force: bool
    minimum_epoch: int
    stand_ms: int
    """How long to go on asking."""


@dataclass(frozen=True)
class Release(Action):
    """Give the lease up now, so that the voters need not wait for its end."""

    lane: ClassVar[Lane] = Lane.LEASE


@dataclass(frozen=True)
class Propose(Action):
    """Change one thing of the record; committed by a majority of the old and the new voters."""

    lane: ClassVar[Lane] = Lane.RECORD
    voters: tuple[str, ...] | None = None
    may_take_over: tuple[str, ...] | None = None
    mode: Mode | None = None

    def __post_init__(self) -> None:
        changes = [self.voters, self.may_take_over, self.mode]
        assert sum(change is not None for change in changes) == 1, "one change at a time"


@dataclass(frozen=True)
class Seal(Action):
    """Promise durably to take nothing of an older epoch any more."""

    lane: ClassVar[Lane] = Lane.DATA
    epoch: int


@dataclass(frozen=True)
class Drain(Action):
    """Apply everything received; the outcome carries the position at which the tree then is."""

    lane: ClassVar[Lane] = Lane.DATA
    deadline_ms: ClassVar[int] = 120_000
    epoch: int
    ask: tuple[str, ...] = ()
    """Servers that have received more than this one; that is fetched from them first."""

    @property
    def key(self) -> str:
        return f"Drain {self.epoch}"


@dataclass(frozen=True)
class BecomeSource(Action):
    """Ship the journal to the peers."""

    lane: ClassVar[Lane] = Lane.DATA
    epoch: int


@dataclass(frozen=True)
class BecomeTarget(Action):
    """Receive from whoever is active."""

    lane: ClassVar[Lane] = Lane.DATA


@dataclass(frozen=True)
class Arm(Action):
    """Put the closed gate over every protected path, and take it off paths no longer protected."""

    lane: ClassVar[Lane] = Lane.GATE
    deadline_ms: ClassVar[int] = 20_000
    trees: tuple[int, ...]


@dataclass(frozen=True)
class OpenGate(Action):
    """Let applications write, under a new epoch."""

    lane: ClassVar[Lane] = Lane.GATE
    deadline_ms: ClassVar[int] = 20_000
    epoch: int
    parent: Position | None
    reason: str
    mode: Mode
    must_acknowledge: tuple[str, ...]


@dataclass(frozen=True)
class CloseGate(Action):
    """Let nobody write any more; held operations fail after the grace."""

    lane: ClassVar[Lane] = Lane.GATE
    deadline_ms: ClassVar[int] = 60_000
    grace_ms: int

    @property
    def key(self) -> str:
        # A hurried close must not wait behind a patient one.
        return f"CloseGate {self.grace_ms}"


@dataclass(frozen=True)
class SetPolicy(Action):
    """What an fsync waits for."""

    lane: ClassVar[Lane] = Lane.GATE
    mode: Mode
    must_acknowledge: tuple[str, ...]


@dataclass(frozen=True)
class RaiseFlag(Action):
    """Let protected units be started."""

    lane: ClassVar[Lane] = Lane.FLAG


@dataclass(frozen=True)
class LowerFlag(Action):
    """Let no protected unit be started."""

    lane: ClassVar[Lane] = Lane.FLAG


@dataclass(frozen=True)
class AddressUp(Action):
    """Carry the public addresses, and tell the neighbours."""

    lane: ClassVar[Lane] = Lane.ADDRESS


@dataclass(frozen=True)
class AddressDown(Action):
    """Give the public addresses up."""

    lane: ClassVar[Lane] = Lane.ADDRESS


@dataclass(frozen=True)
class StartUnits(Action):
    """Start the application units in order."""

    lane: ClassVar[Lane] = Lane.UNITS
    deadline_ms: ClassVar[int] = 900_000
    units: tuple[str, ...]
    unit_deadline_ms: int


@dataclass(frozen=True)
class StopUnits(Action):
    """Stop the application units in reverse order; what still runs at its deadline is killed."""

    lane: ClassVar[Lane] = Lane.UNITS
    deadline_ms: ClassVar[int] = 900_000
    units: tuple[str, ...]
    unit_deadline_ms: int

    @property
    def key(self) -> str:
        return f"StopUnits {self.unit_deadline_ms}"


@dataclass(frozen=True)
class HoldUnits(Action):
    """Let exactly these units depend on the gate and on the active role."""

    lane: ClassVar[Lane] = Lane.UNITS
    deadline_ms: ClassVar[int] = 30_000
    units: tuple[str, ...]


Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True)
class Said:
    """A row that fired and has something to say to people."""

    row: str
    severity: Severity
    sentence: str
    told: bool
    """People are sent a message, not only shown an event."""


@dataclass(frozen=True)
class Answer:
    """What became of a person's request."""

    request: int
    accepted: bool
    code: str
    sentence: str


@dataclass(frozen=True)
class Decision:
    """Result of a turn: remember `state` durably, then perform `actions` in order."""

    state: State
    actions: tuple[Action, ...] = ()
    fired: tuple[str, ...] = ()
    """Ids of the rows that fired, also silent ones."""
    said: tuple[Said, ...] = ()
    answer: Answer | None = None
    sentence: str = ""
    """What this server is doing, or what it waits for."""
    notes: dict[str, str] = field(default_factory=dict)
