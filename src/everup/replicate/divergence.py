"""Keep what this server wrote and nobody received, before a resync overwrites it.

What enters: objects that are about to change. What leaves: a bundle below divergence/ID with the
object as it was, for a person to look at, and an event. Called by the target of a sync. When there
is no room for it the sync stops: nothing is overwritten silently.
"""

import json
import os
import shutil
import time
from pathlib import Path
from stat import S_ISREG
from typing import Any

from everup.errors import Refused
from everup.limits import DIVERGENCE_BYTES_MAX
from everup.replicate.blocks import data_ranges, read_range, write_all
from everup.replicate.lower import visible_xattrs
from everup.replicate.suspects import Suspects
from everup.system.files import REAL_DOOR, Door, save_json, sync_directory
from everup.system.treecalls import door

FREE_BYTES_MIN = 64 << 20
COPY_BYTES = 1 << 20


class Divergence:
    """One bundle; its directory is made when the first object is kept."""

    def __init__(
        self,
        root: Path,
        suspects: Suspects,
        door: Door = REAL_DOOR,
        quota_bytes: int = DIVERGENCE_BYTES_MAX,
    ) -> None:
        self._root = root
        self._left_bytes = quota_bytes - _bytes_below(root)
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

    def _check_room(self, bundle: Path, wanted: int) -> None:
        self._left_bytes -= wanted
        if self._left_bytes < 0:
            raise Refused(
                f"the bundles in {bundle.parent} have used up their quota, and what only this "
                "server has must be kept before it is overwritten",
                remedy="look at the bundles there and delete those that nobody needs; the sync "
                "begins again by itself",
                code="no-room-for-divergence",
            )
        free = shutil.disk_usage(bundle).free
        if free < wanted + FREE_BYTES_MIN:
            raise Refused(
                f"no room to keep what only this server has: {wanted >> 20} MiB more are needed "
                f"in {bundle.parent}",
                remedy="free space there, or move old bundles away",
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


def _bytes_below(root: Path) -> int:
    """Space that the files below take; what vanishes meanwhile takes none."""
    used = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                used += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return used


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
