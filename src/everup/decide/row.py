"""What a row of the table is.

What leaves: `Row` and the few words in which rows are written. Called by the table and by
`decide`. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass

from everup.decide.conditions import Condition
from everup.model.action import Action, Severity
from everup.model.observation import Observation
from everup.model.role import Cause, Role, State

Deeds = Callable[[State, Observation], tuple[Action, ...]]
Memory = Callable[[State, Observation], State]
Words = Callable[[State, Observation], dict[str, str]]


def nothing(s: State, o: Observation) -> tuple[Action, ...]:
    return ()


def no_words(s: State, o: Observation) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Row:
    """One permitted step.

    A row with `target` changes the role; of those the first whose condition holds is taken, and it
    performs nothing itself: the next turn's duties do. A row without `target` is a duty: all whose
    condition holds are performed, in the order of the table.
    """

    id: str
    sources: tuple[Role, ...]
    condition: Condition
    sentence: str
    target: Role | None = None
    cause: Cause | None = None
    deeds: Deeds = nothing
    remember: Memory | None = None
    words: Words = no_words
    severity: Severity = "info"
    said: bool = False
    """It becomes an event. Duties that repeat until their effect is observed do not."""
    told: bool = False
    """People get a message."""
    answers: bool = False
    """It takes up the request of a person."""

    def __post_init__(self) -> None:
        assert self.target is None or self.deeds is nothing
        assert not self.told or self.said
