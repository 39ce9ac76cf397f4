"""What the guard is in the middle of, for the next worker of the same boot; and where that lies.

What enters: the open gate's epoch, trees and policy. What leaves: the same after a restart. It lies
on tmpfs: after a reboot there is no open gate. Called by the guard.
"""

import json
import os
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from everup.errors import Refused
from everup.places import Places
from everup.system.mounts import mount_points
from everup.system.sharedmemory import Turns

STATE_BYTES_MAX = 128 << 10
_MEMORY = Path("/dev/shm")


def memory_directory(places: Places) -> Path:
    """Directory of the shared memory, made if needed; always on a file system without a disk.

    On a disk's file system pages are write-protected while they are written back; a request that
    the kernel copies for a dying worker just then would be lost (EIO). /run is memory on a real
    server; a second instance below another root falls back to /dev/shm.
    """
    wanted = places.guard_memory
    wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
    below = [point for point in mount_points() if wanted.is_relative_to(point.path)]
    deepest = max(below, key=lambda point: len(point.path.parts))
    if deepest.kind in ("tmpfs", "ramfs"):
        return wanted
    name = blake2b(os.fsencode(wanted.resolve()), digest_size=8).hexdigest()
    found = _MEMORY / f"everup-{name}"
    found.mkdir(mode=0o700, exist_ok=True)
    return found


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
    journal_state: str = "ok"
    journal_sentence: str = ""
    """A journal that has failed stays so: the next worker must not go on behind the gap."""


class StateFile:
    """Where the open gate is remembered; replaced as a whole, also when tmpfs is full."""

    def __init__(self, path: Path) -> None:
        """Raises NoRoom, or OSError."""
        self._place = Turns(path, STATE_BYTES_MAX)

    def save(self, state: RunState) -> None:
        """Raises Refused when there are too many trees to be remembered."""
        data = json.dumps(asdict(state)).encode()
        if len(data) > STATE_BYTES_MAX:
            raise Refused(
                f"{len(state.trees)} protected paths are too many for one gate",
                remedy="protect a directory above them instead",
                code="too-many-trees",
            )
        self._place.write(data)

    def load(self) -> RunState | None:
        """None when no gate is open."""
        data = self._place.read()
        if not data:
            return None
        value = json.loads(data)
        trees = tuple(OpenTree(**tree) for tree in value.pop("trees"))
        names = tuple(value.pop("must_acknowledge"))
        return RunState(**value, must_acknowledge=names, trees=trees)

    def clear(self) -> None:
        """No gate is open."""
        self._place.write(b"")
