"""The one record that says who votes and who may take over, and how a change of it is agreed.

What enters and leaves: plain values (voters keep them in vote.json, messages carry them).
Called by the voter, the lease and the protocol. Pure.

A record is ordered by (epoch of its proposer, version). While it is not known to be committed its
predecessor travels with it, and every majority has to be reached twice: among the voters of the
predecessor and among its own. Counting one of the two only was rejected: the simulator finds two
disjoint majorities within seconds.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

MODES = ("async", "durable")


def majority(voters: Collection[str], agreeing: Collection[str]) -> bool:
    """Whether more than half of `voters` is among `agreeing`. Nobody is a majority of nobody."""
    return 2 * sum(1 for voter in voters if voter in agreeing) > len(voters)


def count(value: Any) -> int:
    """A number of a message or a file that is never negative. Raises ValueError."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is not a count")
    return value


@dataclass(frozen=True, slots=True)
class Record:
    """One agreed statement about the group; names are those of its members."""

    version: int
    epoch: int
    voters: tuple[str, ...]
    may_take_over: tuple[str, ...]
    mode: str

    @property
    def key(self) -> tuple[int, int]:
        """Order of records: a later proposer wins over a higher count of an earlier one."""
        return (self.epoch, self.version)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "epoch": self.epoch,
            "voters": list(self.voters),
            "may_take_over": list(self.may_take_over),
            "mode": self.mode,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Record":
        """Raises ValueError, KeyError or TypeError for anything that is not a record."""
        record = cls(
            count(value["version"]),
            count(value["epoch"]),
            tuple(str(name) for name in value["voters"]),
            tuple(str(name) for name in value["may_take_over"]),
            str(value["mode"]),
        )
        record.check()
        return record

    def check(self) -> None:
        """Raises ValueError when the record could not elect anybody."""
        if not self.voters or len(set(self.voters)) != len(self.voters):
            raise ValueError("a record needs voters, each named once")
        if len(set(self.may_take_over)) != len(self.may_take_over):
            raise ValueError("a record names each server once")
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}")


@dataclass(frozen=True, slots=True)
class Known:
    """The newest record that a server has, with its predecessor until it is known as committed."""

    record: Record
    previous: Record | None = None
    owner: str = ""
    """Who alone can declare an unfinished change committed: it proposed the change first, stores
    that it is committed before it tells anybody, and so knows that it is not."""

    @property
    def committed(self) -> bool:
        return self.previous is None

    @property
    def key(self) -> tuple[int, int]:
        return self.record.key

    @property
    def everyone(self) -> tuple[str, ...]:
        """All whose agreement is counted, in a stable order."""
        older = self.previous.voters if self.previous else ()
        return tuple(dict.fromkeys((*self.record.voters, *older)))

    def electorates(self) -> tuple[tuple[str, ...], ...]:
        """The sets of voters of each of which a majority is needed."""
        if self.previous is None:
            return (self.record.voters,)
        return (self.record.voters, self.previous.voters)

    def needed_by(self, server: str) -> tuple[tuple[str, ...], ...]:
        """The sets of voters whose majorities `server` needs to win or to keep a lease.

        Nobody but the owner of an unfinished change can have declared it committed, and nobody
        can win without a majority of the old voters: theirs is enough for the owner. So a voter
        that dies while it is being added does not stop the active.
        """
        if self.previous is not None and server == self.owner:
            return (self.previous.voters,)
        return self.electorates()

    def quorum(self, agreeing: Collection[str]) -> bool:
        return all(majority(voters, agreeing) for voters in self.electorates())

    def votes(self, server: str) -> bool:
        """A voter that a change removes still counts until the change is committed."""
        return any(server in voters for voters in self.electorates())

    def may_stand(self, server: str) -> bool:
        """Voter now, and on the list before and after an unfinished change.

        While a server is being added, the active does not yet wait for it; while it is being
        removed, the active may already go on without it. So both lists have to name it.
        """
        if server not in self.record.voters or server not in self.record.may_take_over:
            return False
        return self.previous is None or server in self.previous.may_take_over

    def settled(self) -> "Known":
        """The same record, known to be committed."""
        return Known(self.record)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"record": self.record.to_json()}
        if self.previous is not None:
            value["previous"] = self.previous.to_json()
            value["owner"] = self.owner
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Known":
        previous = value.get("previous")
        return cls(
            Record.from_json(value["record"]),
            None if previous is None else Record.from_json(previous),
            str(value.get("owner", "")),
        )
