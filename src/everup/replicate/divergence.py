"""Keep what this server wrote and nobody received, before a resync overwrites it.

What enters: objects that are about to change. What leaves: a bundle below divergence/ID with the
object as it was, for a person to look at, and an event. Called by the target of a sync. When there
is no room for it the sync stops: nothing is overwritten silently.
"""

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

from everup.errors import EverupError, Refused
from everup.journal.reader import Cursor
from everup.journal.record import Operation
from everup.journal.segment import list_segments
from everup.model.position import Position
from everup.places import Places
from everup.replicate.apply import records_of
from everup.replicate.blocks import data_ranges, read_range, write_all
from everup.replicate.lower import visible_xattrs
from everup.replicate.treestate import OPEN, TreeState
from everup.system.files import REAL_DOOR, Door, save_json, sync_directory
from everup.system.treecalls import door

MARGIN_NS = 1_000_000_000
FREE_BYTES_MIN = 64 << 20
COPY_BYTES = 1 << 20


@dataclass
class Suspects:
    """Objects that may hold changes which exist only here."""

    objects: set[tuple[int, bytes]] = field(default_factory=set)
    changed_after_ns: int | None = None
    """After an unclean stop: everything whose ctime is later may have changed unrecorded."""
    fork: Position | None = None

    def includes(self, tree: int, object_id: bytes, ctime_ns: int) -> bool:
        if (tree, object_id) in self.objects:
            return True
        return self.changed_after_ns is not None and ctime_ns >= self.changed_after_ns


def add_received(suspects: Suspects, places: Places, parents: list[Position]) -> None:
    """What this server received and the source never had; before the receive log begins anew.

    `parents`: positions of the source's history, oldest first.
    """
    _add_quietly(suspects, places.receive, parents)


def add_written(
    suspects: Suspects, places: Places, state: TreeState, parents: list[Position]
) -> None:
    """What this server wrote after the newest position that the source shares; may take seconds."""
    _add_quietly(suspects, places.journal, parents)
    if state.state == OPEN:
        last_ns = _last_entry_ns(places.journal)
        suspects.changed_after_ns = max(0, last_ns - MARGIN_NS)


def _add_quietly(suspects: Suspects, directory: Path, parents: list[Position]) -> None:
    try:
        _add_after_fork(suspects, directory, parents)
    except (EverupError, OSError):
        # A damaged log names no objects; the times of change still do.
        return


def _add_after_fork(suspects: Suspects, directory: Path, parents: list[Position]) -> None:
    segments = list_segments(directory)
    if not segments:
        return
    start = segments[0].start
    for parent in reversed(parents):
        if _holds(directory, parent):
            start = suspects.fork = parent
            break
    cursor = Cursor(directory, start)
    try:
        while (batch := cursor.next()) is not None:
            for record in records_of(batch):
                if record.operation not in (Operation.BATCH, Operation.TIMES, Operation.EPOCH):
                    suspects.objects.add((record.tree, record.object_id))
    finally:
        cursor.close()


def _holds(directory: Path, position: Position) -> bool:
    try:
        Cursor(directory, position).close()
    except EverupError:
        return False
    return True


def _last_entry_ns(directory: Path) -> int:
    """Wall clock of the last batch in a log; 0 when there is none."""
    last_ns = 0
    try:
        segments = list_segments(directory)
        if not segments:
            return 0
        cursor = Cursor(directory, segments[-1].start)
        while (batch := cursor.next()) is not None:
            last_ns = max(last_ns, *(record.wall_ns for record in records_of(batch)))
        cursor.close()
    except (EverupError, OSError):
        return last_ns
    return last_ns


class Divergence:
    """One bundle; its directory is made when the first object is kept."""

    def __init__(self, root: Path, suspects: Suspects, door: Door = REAL_DOOR) -> None:
        self._root = root
        self._suspects = suspects
        self._door = door
        self._kept: set[tuple[int, bytes, bytes]] = set()
        self._manifest: list[dict[str, Any]] = []
        self.path: Path | None = None

    def keep(self, tree: int, object_id: bytes, path: bytes, descriptor: int) -> None:
        """Save an object as it is now, durably, if it may hold changes that exist only here.

        Raises Refused when there is no room for it.
        """
        status = os.fstat(descriptor)
        if not self._suspects.includes(tree, object_id, status.st_ctime_ns):
            return
        key = (tree, object_id, path if not object_id else b"")
        if key in self._kept:
            return
        self._kept.add(key)
        bundle = self._bundle()
        entry = self._describe(tree, object_id, path, descriptor, status)
        if S_ISREG(status.st_mode):
            self._check_room(bundle, status.st_blocks * 512)
            entry["file"] = f"files/{len(self._manifest):06d}"
            _copy(descriptor, bundle / str(entry["file"]), status.st_size, self._door)
        self._manifest.append(entry)
        with (bundle / "manifest.jsonl").open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            self._door.fdatasync("divergence", file.fileno())

    def finish(self) -> int:
        """Write the manifest; returns how many objects are in the bundle."""
        if self.path is None:
            return 0
        fork = self._suspects.fork
        manifest = {
            "fork": fork.to_json() if fork else None,
            "objects": self._manifest,
            "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        save_json(self.path / "manifest.json", manifest, operation="divergence", door=self._door)
        (self.path / "manifest.jsonl").unlink(missing_ok=True)
        return len(self._manifest)

    def _bundle(self) -> Path:
        if self.path is None:
            name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.urandom(3).hex()}"
            self.path = self._root / name
            (self.path / "files").mkdir(parents=True, mode=0o700)
            sync_directory(self._root, "divergence", self._door)
            sync_directory(self.path, "divergence", self._door)
        return self.path

    @staticmethod
    def _check_room(bundle: Path, wanted: int) -> None:
        free = shutil.disk_usage(bundle).free
        if free < wanted + FREE_BYTES_MIN:
            raise Refused(
                f"no room to keep what only this server has: {wanted >> 20} MiB more are needed "
                f"in {bundle.parent}",
                remedy="free space there, or remove old bundles (everup divergence)",
                code="no-room-for-divergence",
            )

    @staticmethod
    def _describe(
        tree: int, object_id: bytes, path: bytes, descriptor: int, status: os.stat_result
    ) -> dict[str, Any]:
        return {
            "tree": tree,
            "path": os.fsdecode(path).encode("utf-8", "backslashreplace").decode(),
            "object": object_id.hex(),
            "mode": status.st_mode,
            "uid": status.st_uid,
            "gid": status.st_gid,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "xattrs": {
                os.fsdecode(name): value.hex() for name, value in visible_xattrs(descriptor).items()
            },
        }


def _copy(descriptor: int, path: Path, size: int, door_: Door) -> None:
    source = os.open(door(descriptor), os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for data in data_ranges(source, 0, size):
            at = data.start
            while at < data.end:
                part = read_range(source, at, min(at + COPY_BYTES, data.end))
                if not part:
                    break
                write_all(target, part, at)
                at += len(part)
        os.ftruncate(target, size)
        door_.fsync("divergence", target)
    finally:
        os.close(source)
        os.close(target)
