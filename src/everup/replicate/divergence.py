"""Keep what this server wrote and nobody received, before a resync overwrites it.

What enters: objects that are about to change, and where a copy puts them. What leaves: a bundle
below divergence/ID with each object as it was here (before) and as the group has it (after), for a
person to look at. Called by the target of a sync. When there is no room for it the sync stops:
nothing is overwritten silently.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from stat import S_ISDIR

from everup.limits import DIVERGENCE_BYTES_MAX
from everup.replicate.bundle import Bundle, Key, raw_path
from everup.replicate.lower import LowerTree, id_of_descriptor
from everup.replicate.scan import ABSENT
from everup.replicate.suspects import Suspects
from everup.system.files import REAL_DOOR, Door
from everup.system.treecalls import open_beneath

PLACED_MAX = 200_000
"""Of more objects it is not remembered where the copy has put them."""

KIND = "divergence"
CHANGED, RENAMED, ONLY_HERE = "changed", "renamed", "only-here"
REMOVED_HERE, ABSENT_HERE = "removed-here", "absent-here"
"""What `change` of an entry may be. Absent: removed here without a record, or new on the source."""

Names = Mapping[int, Mapping[int, list[bytes]]]
"""By tree and inode: every path of a file that has several."""


class Divergence:
    """One bundle. `remember` is told its name as soon as there is one.

    The first look at an object decides whether it may be only here: the copy's own changes move
    the time of change.
    """

    def __init__(
        self,
        root: Path,
        suspects: Suspects,
        door: Door = REAL_DOOR,
        quota_bytes: int = DIVERGENCE_BYTES_MAX,
        remember: Callable[[str], None] | None = None,
    ) -> None:
        words = "what only this server has must be kept before it is overwritten"
        self._bundle = Bundle(root, KIND, words, quota_bytes, door, suspects.bundle)
        self._suspects = suspects
        self._remember = remember
        self._clear: set[Key] = set()
        self._placed: dict[Key, bytes] = {}
        self._made: dict[Key, str] = {}
        self.names: Names = {}

    @property
    def path(self) -> Path | None:
        return self._bundle.path

    @property
    def wanted(self) -> bool:
        """Anything may be only here at all."""
        return bool(self._suspects.objects) or self._suspects.changed_after_ns is not None

    def keep(self, tree: int, object_id: bytes, path: bytes, descriptor: int) -> None:
        """Save an object as it is now, durably, if it may hold changes that exist only here.

        Raises Refused when there is no room for it.
        """
        if not self.wanted:
            return
        key = Key.of(tree, object_id, path)
        if key not in self._bundle:
            status = os.fstat(descriptor)
            linked = status.st_nlink > 1 and not S_ISDIR(status.st_mode)
            if key in self._clear or not self._suspects.includes(
                tree, object_id, status.st_ctime_ns, linked=linked
            ):
                self._clear.add(key)
                return
            names = list(self.names.get(tree, {}).get(status.st_ino, ()))
        else:
            names = []
        self._bundle.keep(key, path, descriptor, names)
        if self._remember is not None and self._bundle.path is not None:
            self._remember(self._bundle.path.name)
            self._remember = None

    def placed(
        self, tree: int, object_id: bytes, path: bytes, *, made: bool, directory_changed_ns: int
    ) -> None:
        """The copy has an object of the source at `path`; `made`: nothing of it was here."""
        if not self.wanted or len(self._placed) >= PLACED_MAX:
            return
        key = Key.of(tree, object_id, path)
        suspects = self._suspects
        recorded = (tree, object_id) in suspects.objects
        if recorded or key in self._bundle or (made and suspects.changed_after_ns is not None):
            self._placed.setdefault(key, path)
        if made and recorded:
            self._made[key] = REMOVED_HERE
        elif made and suspects.changed_here(directory_changed_ns):
            self._made[key] = ABSENT_HERE

    def finish(self, trees: Mapping[int, LowerTree]) -> int:
        """Look at what the copy has made of everything; returns how many objects are in it."""
        bundle = self._bundle
        for key in bundle.kept():
            after = self._placed.get(key, raw_path(bundle.before(key)))
            change = CHANGED if bundle.was_at(key, after) else RENAMED
            self._settle(trees, key, change, after)
        for key, change in self._made.items():
            if key not in bundle:
                self._settle(trees, key, change, self._placed[key])
        fork = self._suspects.fork
        return bundle.finish({"fork": fork.to_json() if fork else None})

    def _settle(self, trees: Mapping[int, LowerTree], key: Key, change: str, path: bytes) -> None:
        descriptor = _open(trees.get(key.tree), key, path)
        if descriptor is None:
            if key in self._bundle:
                self._bundle.settle(key, ONLY_HERE, None, None)
            return
        try:
            self._bundle.settle(key, change, path, descriptor)
        finally:
            os.close(descriptor)


def _open(tree: LowerTree | None, key: Key, path: bytes) -> int | None:
    """O_PATH descriptor of an object, if it is at `path` now."""
    if tree is None:
        return None
    try:
        descriptor = open_beneath(tree.root, path, os.O_PATH)
    except OSError as problem:
        if problem.errno in ABSENT:
            return None
        raise
    if not key.object_id or id_of_descriptor(descriptor) == key.object_id:
        return descriptor
    os.close(descriptor)
    return None
