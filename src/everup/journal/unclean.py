"""Epochs that began on a tree which an unclean stop had left behind.

What enters: the epoch that a guard opens although its tree was still marked as open (a power cut).
What leaves: the newest such epoch. What was written and not yet on the disk may be missing in that
tree although the journal and the peers have it, so a peer that stood before that epoch is compared
instead of streamed. Called by the guard and by the replicator's source.
"""

from pathlib import Path

from everup.system.files import load_json, save_json

NAME = "unclean.json"


def note_unclean_epoch(state: Path, epoch: int) -> None:
    """Durably remember that `epoch` begins on such a tree. Raises OSError."""
    save_json(state / NAME, {"epoch": epoch}, operation="save-unclean")


def last_unclean_epoch(state: Path) -> int:
    """The newest epoch that began on such a tree; 0 when none did. Raises ValueError."""
    value = load_json(state / NAME)
    return 0 if value is None else int(value["epoch"])
