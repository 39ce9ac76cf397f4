"""What becomes of files on a passive server that never came from an active one.

What enters: objects without an id of their own that a copy is about to remove (put there by hand,
or there before the first copy). What leaves: by the group's setting a bundle below quarantine/ID,
a refusal that names them, or nothing but a count. Called by the target of a sync.
"""

from pathlib import Path

from everup.config.schema import OrphanPolicy
from everup.errors import Refused
from everup.limits import QUARANTINE_BYTES_MAX
from everup.model.words import count_text
from everup.replicate.bundle import Bundle, Key, path_text
from everup.system.files import REAL_DOOR, Door

KIND, ORPHAN = "quarantine", "orphan"
NAMED_MAX = 3


class Quarantine:
    """One copy's orphans. `asked`: a person has said that this copy may remove things."""

    def __init__(
        self,
        root: Path,
        policy: OrphanPolicy,
        *,
        asked: bool = False,
        door: Door = REAL_DOOR,
        quota_bytes: int = QUARANTINE_BYTES_MAX,
    ) -> None:
        words = "files that no active server ever had must be kept before they are removed"
        self._bundle = Bundle(root, KIND, words, quota_bytes, door)
        self._policy: OrphanPolicy = "quarantine" if policy == "report" and asked else policy
        self._named: list[str] = []
        self._finished = False
        self.count = 0

    def orphan(self, tree: int, path: bytes, descriptor: int) -> None:
        """Before an orphan is removed. Raises Refused when it is not to be, or has no room."""
        if self._policy == "report":
            raise Refused(
                f"{path_text(path)} in tree {tree} never came from the active server",
                remedy="move it out of the protected directory on this server, or have it "
                "quarantined: everup sync --allow-removals",
                code="orphans-found",
            )
        if self._policy == "quarantine":
            key = Key.of(tree, b"", path)
            if key in self._bundle:
                return
            self._bundle.keep(key, path, descriptor, [])
        self.count += 1
        if len(self._named) < NAMED_MAX:
            self._named.append(path_text(path))

    def finish(self) -> str:
        """What was done, as a sentence; "" when there was nothing. Raises OSError."""
        if not self.count or self._finished:
            return ""
        self._finished = True
        for key in self._bundle.kept():
            self._bundle.settle(key, ORPHAN, None, None)
        self._bundle.finish({})
        what = count_text(self.count, "object")
        names = ", ".join(self._named)
        more = f" and {self.count - len(self._named)} more" if self.count > NAMED_MAX else ""
        done = "deleted"
        if self._policy == "quarantine" and self._bundle.path is not None:
            done = f"quarantined: everup divergence show {self._bundle.path.name}"
        return f"{what} that never came from an active server ({names}{more}): {done}"
