"""Divergence bundles of this server: what it wrote and nobody received, kept for a person.

What enters: the directory of the bundles (the replicator writes there). What leaves: lists for
people, a tar stream with the original names, and the end of a bundle. Called by the API. Reading
only, but for `delete`.
"""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, Any

from everup.errors import Refused

Json = dict[str, Any]

NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,63}")


class Bundles:
    """`path_of` gives the protected directory of a tree."""

    def __init__(self, root: Path, server: str, path_of: Callable[[int], str]) -> None:
        self._root, self._server, self._path_of = root, server, path_of

    def list(self) -> list[Json]:
        """Oldest first, without their objects."""
        if not self._root.is_dir():
            return []
        names = sorted(entry.name for entry in self._root.iterdir() if entry.is_dir())
        return [self._short(name) for name in names if NAME.fullmatch(name)]

    def show(self, name: str) -> Json:
        """One bundle with the objects in it."""
        bundle = self._bundle(name)
        objects = [
            {**entry, "path": self._whole_path(entry)} for entry in _manifest(bundle)["objects"]
        ]
        return {**self._short(name), "objects_kept": objects}

    def delete(self, name: str) -> None:
        """Remove it for good."""
        shutil.rmtree(self._bundle(name))

    def export(self, name: str, out: IO[bytes]) -> None:
        """A tar archive (pax): the manifest, and every file under its own name, owner and times."""
        bundle = self._bundle(name)
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            manifest = json.dumps(self.show(name), indent=2).encode()
            head = tarfile.TarInfo(f"{name}/manifest.json")
            head.size = len(manifest)
            archive.addfile(head, io.BytesIO(manifest))
            for entry in _manifest(bundle)["objects"]:
                self._add(archive, bundle, name, entry)

    def _add(self, archive: tarfile.TarFile, bundle: Path, name: str, entry: Json) -> None:
        info = tarfile.TarInfo(f"{name}/files{self._whole_path(entry)}")
        info.mode = int(entry["mode"]) & 0o7777
        info.uid, info.gid = int(entry["uid"]), int(entry["gid"])
        info.mtime = int(entry["mtime_ns"]) // 1_000_000_000
        info.pax_headers = {
            f"SCHILY.xattr.{key}": bytes.fromhex(value).decode("utf-8", "surrogateescape")
            for key, value in entry.get("xattrs", {}).items()
        }
        if S_ISDIR(int(entry["mode"])):
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        elif S_ISREG(int(entry["mode"])) and entry.get("file"):
            with (bundle / str(entry["file"])).open("rb") as content:
                info.size = (bundle / str(entry["file"])).stat().st_size
                archive.addfile(info, content)

    def _whole_path(self, entry: Json) -> str:
        """Where the object lay, as applications know it."""
        return f"{self._path_of(int(entry['tree']))}/{entry['path']}".rstrip("/")

    def _short(self, name: str) -> Json:
        bundle = self._root / name
        found = _manifest(bundle)
        return {
            "id": name,
            "server": self._server,
            "at": found.get("written_at"),
            "complete": found["complete"],
            "fork": found.get("fork"),
            "objects": len(found["objects"]),
            "bytes": sum(int(entry.get("size") or 0) for entry in found["objects"]),
        }

    def _bundle(self, name: str) -> Path:
        bundle = self._root / name
        if not NAME.fullmatch(name) or not bundle.is_dir():
            raise Refused(
                f"there is no divergence bundle {name!r} on {self._server}",
                remedy="everup divergence list",
                code="unknown-bundle",
            )
        return bundle


def _manifest(bundle: Path) -> Json:
    """What is in a bundle; of one that is still being written, what is there so far."""
    try:
        value = json.loads((bundle / "manifest.json").read_text())
        return {**value, "complete": True}
    except (FileNotFoundError, ValueError):
        pass
    try:
        lines = (bundle / "manifest.jsonl").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    objects = []
    for line in lines:
        try:
            objects.append(json.loads(line))
        except ValueError:
            continue  # The last line, cut by a power loss; its file is complete all the same.
    return {"objects": objects, "complete": False}
