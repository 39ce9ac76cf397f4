"""The promise not to take anything from an older epoch any more.

What enters: the epoch for which this server stands (or accepts another). What leaves: a durable
number that only grows. The owner holds the receive lock around `promise`, so that no
acknowledgement of an older epoch can follow it. Called by the target.
"""

from pathlib import Path

from everup.system.files import REAL_DOOR, Door, load_json, save_json


class Seal:
    """Raises ValueError when the stored promise is not readable: it is never guessed."""

    def __init__(self, path: Path, door: Door = REAL_DOOR) -> None:
        self._path = path
        self._door = door
        stored = load_json(path)
        self.epoch = 0 if stored is None else int(stored["epoch"])

    def promise(self, epoch: int) -> None:
        """Durable when it returns; an older epoch changes nothing."""
        if epoch <= self.epoch:
            return
        save_json(self._path, {"epoch": epoch}, operation="save-seal", door=self._door)
        self.epoch = epoch
