"""What a copy tells of the objects that it changes, moves and removes.

What enters: objects as they are, before that, and where the copy puts them. What leaves: nothing;
who listens may raise, then the copy stops there. Called by `treecopy`; `kept` is the real one.
"""

from typing import Protocol


class Keeping(Protocol):
    """Who is told what becomes of the objects here; paths are relative to the tree."""

    def keep(self, tree: int, object_id: bytes, path: bytes, descriptor: int) -> None:
        """Before the first change of an object (O_PATH)."""

    def placed(
        self, tree: int, object_id: bytes, path: bytes, *, made: bool, directory_changed_ns: int
    ) -> None:
        """An object of the source is at `path` now; `made`: it was nowhere to be found here."""

    def orphan(self, tree: int, path: bytes, descriptor: int) -> None:
        """Before something goes away that never came from a source."""
