"""What the guard is in the middle of, for the next worker of the same boot.

What enters: the open gate's epoch, trees and policy. What leaves: the same after a restart. It lies
on tmpfs: after a reboot there is no open gate. Called by the guard.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class OpenTree:
    """A tree behind an open gate."""

    tree_id: int
    path: str


@dataclass(frozen=True)
class RunState:
    """An open gate."""

    epoch: int
    server: str
    group_id: str
    mode: str
    must_acknowledge: tuple[str, ...]
    trees: tuple[OpenTree, ...]


def save(path: Path, state: RunState) -> None:
    """Atomic against a killed process; needs no sync on tmpfs."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(asdict(state)))
    os.replace(beside, path)


def load(path: Path) -> RunState | None:
    """None when no gate is open."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    trees = tuple(OpenTree(**tree) for tree in value.pop("trees"))
    names = tuple(value.pop("must_acknowledge"))
    return RunState(**value, must_acknowledge=names, trees=trees)


def clear(path: Path) -> None:
    path.unlink(missing_ok=True)
