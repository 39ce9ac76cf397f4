"""Write a bundle: objects of this server as they are, before something takes them away.

What enters: open objects, then, at the end, what stands in their place. What leaves: a directory
with their content and a manifest (docs/formats/replicator-state.md). What `keep` returns from is on
the disk. Called by `divergence` and `quarantine`, which choose the objects.
"""

import json
import os
import shutil
import time
from pathlib import Path
from stat import S_ISBLK, S_ISCHR, S_ISLNK, S_ISREG
from typing import Any, NamedTuple

from everup.errors import Refused
from everup.replicate.blocks import data_ranges, read_range, write_all
from everup.replicate.lower import visible_xattrs
from everup.system.files import Door, save_json, sync_directory
from everup.system.kernelcalls import sync_filesystem
from everup.system.treecalls import door as door_of

FREE_BYTES_MIN = 64 << 20
COPY_BYTES = 1 << 20
BEFORE, AFTER = "before", "after"
AFTER_SHARE = 4
AFTER_BYTES_MAX = 64 << 20
"""What stands there instead is also in the tree: its copy may take a quarter of the room, and no
large file holds up the server's return."""
LINES = "manifest.jsonl"
MANIFEST = "manifest.json"

Json = dict[str, Any]


class Key(NamedTuple):
    """One object; those without an id are told apart by their path."""

    tree: int
    object_id: bytes
    path: bytes

    @classmethod
    def of(cls, tree: int, object_id: bytes, path: bytes) -> "Key":
        return cls(tree, object_id, b"" if object_id else path)


class Bundle:
    """One bundle below `root`; its directory is made when the first object is kept.

    `kind` and `words` name what it is for (code and sentence of a refusal). With the `name` of one
    that was not finished it goes on with that one: what it holds is not kept again.
    """

    def __init__(
        self, root: Path, kind: str, words: str, quota_bytes: int, door: Door, name: str = ""
    ) -> None:
        self._root, self._kind, self._words, self._door = root, kind, words, door
        self._left_bytes = quota_bytes - bytes_below(root)
        self._entries: dict[Key, Json] = {}
        self._files = 0
        self.path: Path | None = None
        if name and (root / name / LINES).exists():
            self.path = root / name
            self._read_lines()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def keep(self, key: Key, path: bytes, descriptor: int, names: list[bytes]) -> None:
        """Save an object as it is now, durably; once only, further names are added.

        `names`: every path of a file that has several. Raises Refused when there is no room.
        """
        if key in self._entries:
            self._add_name(key, path)
            return
        bundle = self._directory()
        side = describe(descriptor, path, names)
        if S_ISREG(side["mode"]):
            self._claim(bundle, os.fstat(descriptor).st_blocks * 512)
            side["file"] = self._copy(descriptor, BEFORE, side["size"])
        self._entries[key] = {**_head(key), BEFORE: side, AFTER: None}
        self._line({**_head(key), BEFORE: side})

    def before(self, key: Key) -> Json:
        """What `keep` has noted of an object."""
        side: Json = self._entries[key][BEFORE]
        return side

    def was_at(self, key: Key, path: bytes) -> bool:
        """Whether `path` was one of its names; then it is called by that one."""
        side = self.before(key)
        if path_text(path) in side.get("names", ()):
            side.pop("raw", None)
            side.update(_called(path))
        return raw_path(side) == path

    def kept(self) -> list[Key]:
        return list(self._entries)

    def settle(self, key: Key, change: str, path: bytes | None, descriptor: int | None) -> None:
        """Note what has become of an object: open where it is now, or None when it is nowhere.

        Its content is copied as long as there is plenty of room.
        """
        entry = self._entries.setdefault(key, {**_head(key), BEFORE: None, AFTER: None})
        entry["change"] = change
        if path is None or descriptor is None:
            return
        self._directory()
        side = entry[AFTER] = describe(descriptor, path, [])
        if S_ISREG(side["mode"]):
            size = os.fstat(descriptor).st_blocks * 512
            room = min(AFTER_BYTES_MAX, self._left_bytes // AFTER_SHARE)
            if size <= room and self._is_free(AFTER_SHARE * size):
                self._left_bytes -= size
                side["file"] = self._copy(descriptor, AFTER, side["size"])

    def finish(self, more: Json) -> int:
        """Write the manifest, with `more` at its head; returns how many objects are in it."""
        if self.path is None:
            return 0
        manifest = {
            "kind": self._kind,
            "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "objects": list(self._entries.values()),
            **more,
        }
        self._sync_after()
        save_json(self.path / MANIFEST, manifest, operation=self._kind, door=self._door)
        (self.path / LINES).unlink(missing_ok=True)
        return len(self._entries)

    def _sync_after(self) -> None:
        """All copies of what stands there instead at once: until now nothing depended on them."""
        descriptor = os.open(self._directory() / AFTER, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_filesystem(descriptor)
        finally:
            os.close(descriptor)

    def _directory(self) -> Path:
        if self.path is None:
            name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.urandom(3).hex()}"
            path = self._root / name
            self._root.mkdir(mode=0o700, exist_ok=True)
            for directory in (path, path / BEFORE, path / AFTER):
                directory.mkdir(mode=0o700)
            sync_directory(self._root, self._kind, self._door)
            sync_directory(path, self._kind, self._door)
            self.path = path
        return self.path

    def _add_name(self, key: Key, path: bytes) -> None:
        side = self._entries[key][BEFORE]
        name = path_text(path)
        if side is None or name == side["path"] or name in side.get("names", ()):
            return
        side.setdefault("names", [side["path"]]).append(name)
        self._line({**_head(key), "name": name})

    def _line(self, value: Json) -> None:
        with (self._directory() / LINES).open("ab") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps(value).encode() + b"\n")
            file.flush()
            self._door.fdatasync(self._kind, file.fileno())

    def _read_lines(self) -> None:
        assert self.path is not None
        for entry in read_lines(self.path):
            object_id = bytes.fromhex(entry["object"])
            path = raw_path(entry[BEFORE])
            self._entries[Key.of(int(entry["tree"]), object_id, path)] = {**entry, AFTER: None}
        self._files = sum(1 for _ in self.path.glob("*/*"))

    def _claim(self, bundle: Path, wanted: int) -> None:
        self._left_bytes -= wanted
        if self._left_bytes < 0:
            raise Refused(
                f"the bundles in {bundle.parent} have used up their quota, and {self._words}",
                remedy="look at them (everup divergence list) and delete those that nobody needs; "
                "the sync begins again by itself",
                code=f"no-room-for-{self._kind}",
            )
        if not self._is_free(wanted):
            raise Refused(
                f"no room in {bundle.parent}: {wanted >> 20} MiB more are needed, "
                f"since {self._words}",
                remedy="free space there, or delete old bundles (everup divergence list)",
                code=f"no-room-for-{self._kind}",
            )

    def _is_free(self, wanted: int) -> bool:
        assert self.path is not None
        return shutil.disk_usage(self.path).free >= wanted + FREE_BYTES_MIN

    def _copy(self, descriptor: int, side: str, size: int) -> str:
        """Name of the copy within the bundle."""
        assert self.path is not None
        name = f"{side}/{self._files:06d}"
        self._files += 1
        source = os.open(door_of(descriptor), os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(self.path / name, flags, 0o600)
        try:
            for data in data_ranges(source, 0, size):
                for at in range(data.start, data.end, COPY_BYTES):
                    write_all(target, read_range(source, at, min(at + COPY_BYTES, data.end)), at)
            os.ftruncate(target, size)
            if side == BEFORE:
                self._door.fsync(self._kind, target)
        finally:
            os.close(source)
            os.close(target)
        return name


def describe(descriptor: int, path: bytes, names: list[bytes]) -> Json:
    """Everything about an open object (also O_PATH) but the content of a file."""
    status = os.fstat(descriptor)
    side: Json = {
        **_called(path),
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "xattrs": {path_text(k): v.hex() for k, v in visible_xattrs(descriptor).items()},
    }
    if len(names) > 1:
        side["names"] = [path_text(name) for name in names]
    if S_ISLNK(status.st_mode):
        side["target"] = path_text(os.readlink(b"", dir_fd=descriptor))
    if S_ISCHR(status.st_mode) or S_ISBLK(status.st_mode):
        side["device"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    return side


def _called(path: bytes) -> Json:
    text = path_text(path)
    return {"path": text} if text.encode() == path else {"path": text, "raw": path.hex()}


def path_text(path: bytes) -> str:
    """A path as JSON can hold it; one that is not UTF-8 has its bytes beside it."""
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode()


def raw_path(side: Json) -> bytes:
    """The path of one side of an entry, byte for byte."""
    return bytes.fromhex(side["raw"]) if "raw" in side else str(side["path"]).encode()


def read_lines(bundle: Path) -> list[Json]:
    """What an unfinished bundle holds so far."""
    try:
        lines = (bundle / LINES).read_text().splitlines()
    except FileNotFoundError:
        return []
    found: dict[tuple[int, str, str], Json] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # The last line, cut by a power loss: nothing was changed after it.
        if BEFORE in entry:
            path = "" if entry["object"] else entry[BEFORE]["path"]
            found[entry["tree"], entry["object"], path] = entry
        elif (known := found.get((entry["tree"], entry["object"], ""))) is not None:
            side = known[BEFORE]
            side.setdefault("names", [side["path"]]).append(entry["name"])
    return list(found.values())


def bytes_below(root: Path) -> int:
    """Space that the files below take; what vanishes meanwhile takes none."""
    used = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                used += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return used


def _head(key: Key) -> Json:
    return {"tree": key.tree, "object": key.object_id.hex()}
