"""What this server's protected trees hold: tree.json.

What enters: state changes of the replicator (the guard writes `open` and, on a clean close, `at`).
What leaves: the durable answer to "at which position are the trees?". Called by target and applier.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everup.model.position import Position, position_or_none
from everup.system.files import REAL_DOOR, Door, load_json, save_json

EMPTY = "empty"
OPEN = "open"
AT = "at"
SYNCING = "syncing"
_STATES = (EMPTY, OPEN, AT, SYNCING)


@dataclass(frozen=True)
class TreeState:
    """`at`: the tree holds `position` (a passive may be ahead of it, within its receive log).

    `syncing`: a copy that began at `begin` is being made, or (`until` known) is replayed to there;
    not consistent before. With `base`: the trees held that position before the copy, which was
    narrowed to what `server` had changed since, in its epoch `epoch`. `open`: applications write
    or wrote here. `empty`: never synchronized.
    """

    state: str
    position: Position | None = None
    begin: Position | None = None
    until: Position | None = None
    epoch: int = 0
    server: str = ""
    base: Position | None = None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"state": self.state}
        for key in ("position", "begin", "until", "base"):
            position = getattr(self, key)
            if position is not None:
                value[key] = position.to_json()
        if self.state == OPEN or self.base is not None:
            value |= {"epoch": self.epoch, "server": self.server}
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any] | None) -> "TreeState":
        """Anything that is not understood counts as `open`: at no position, compare everything."""
        if value is None:
            return cls(EMPTY)
        try:
            state = value["state"]
            if state not in _STATES:
                return cls(OPEN)
            read = cls(
                state,
                position_or_none(value.get("position")),
                position_or_none(value.get("begin")),
                position_or_none(value.get("until")),
                int(value.get("epoch", 0)),
                str(value.get("server", "")),
                position_or_none(value.get("base")),
            )
        except (KeyError, ValueError, TypeError, AttributeError):
            return cls(OPEN)
        if read.state == AT and read.position is None:
            return cls(OPEN)
        return read


def load_tree_state(path: Path) -> TreeState:
    """Never raises for damaged content: that is a tree at no position."""
    try:
        return TreeState.from_json(load_json(path))
    except ValueError:
        return TreeState(OPEN)


def save_tree_state(path: Path, state: TreeState, door: Door = REAL_DOOR) -> None:
    save_json(path, state.to_json(), operation="save-tree-state", door=door)
