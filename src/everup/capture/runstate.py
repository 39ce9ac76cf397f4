"""What the guard is in the middle of, for the next worker of the same boot; and where that lies.

What enters: the open gate's epoch, trees and policy. What leaves: the same after a restart. It lies
on tmpfs: after a reboot there is no open gate. Called by the guard.
"""

import json
import os
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from everup.places import Places
from everup.system.mounts import mount_points

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
