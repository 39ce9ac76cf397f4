"""The epochs of a group as one server knows them: who began each one, on which position.

What enters: EPOCH records, written or received. What leaves: the list that peers compare at HELLO
to find where their histories part. Called by the guard (new epoch) and the replicator (received).
"""

from pathlib import Path
from typing import NamedTuple

from everup.journal.operation import Epoch
from everup.model.position import Position
from everup.system.files import load_json, save_json

EPOCHS_KEPT_MAX = 1000


class EpochStart(NamedTuple):
    epoch: int
    parent: Position
    server: str


def load_history(path: Path) -> list[EpochStart]:
    """Oldest first; empty when there is none. Raises ValueError or KeyError when unreadable."""
    value = load_json(path)
    return [
        EpochStart(int(entry["epoch"]), Position.from_json(entry["parent"]), str(entry["server"]))
        for entry in value or []
    ]


def add_epoch(path: Path, epoch: Epoch) -> None:
    """Durably add an epoch; repeating it changes nothing."""
    history = load_history(path)
    if any(known.epoch == epoch.epoch for known in history):
        return
    history.append(EpochStart(epoch.epoch, epoch.parent, epoch.server))
    history.sort(key=lambda known: known.epoch)
    value = [
        {"epoch": known.epoch, "parent": known.parent.to_json(), "server": known.server}
        for known in history[-EPOCHS_KEPT_MAX:]
    ]
    save_json(path, value, operation="save-history")
