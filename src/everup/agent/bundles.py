"""Bundles of this server, kept for a person: divergence (what it wrote and nobody received) and
quarantine (files that never came from an active server).

What enters: the directories of the bundles (the replicator writes there). What leaves: lists for
people, a tar stream with the original names, and the end of a bundle. Called by the API. Reading
only, but for `delete`.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from everup.agent import bundle_words
from everup.agent.bundle_archive import write_archive
from everup.errors import Refused
from everup.replicate.bundle import MANIFEST, read_lines

Json = dict[str, Any]

NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,63}")
SIDES = ("before", "after")


class Bundles:
    """`roots`: where bundles lie; `path_of` gives the protected directory of a tree."""

    def __init__(self, roots: Sequence[Path], server: str, path_of: Callable[[int], str]) -> None:
        self._roots, self._server, self._path_of = tuple(roots), server, path_of

    def short_list(self) -> list[Json]:
        """Oldest first, without their objects."""
        found = [
            entry.name
            for root in self._roots
            if root.is_dir()
            for entry in root.iterdir()
            if entry.is_dir() and NAME.fullmatch(entry.name)
        ]
        return [self._short(name) for name in sorted(found)]

    def show(self, name: str) -> Json:
        """One bundle with the objects in it, each with a line in words."""
        entries = self._entries(self._bundle(name))
        return {
            **self._short(name),
            "objects_kept": [{**entry, "line": bundle_words.line(entry)} for entry in entries],
        }

    def delete(self, name: str) -> None:
        """Remove it for good."""
        shutil.rmtree(self._bundle(name))

    def export(self, name: str, out: IO[bytes]) -> None:
        """A tar archive; raises OSError when it cannot be written or read to its end."""
        bundle = self._bundle(name)
        write_archive(bundle, self.show(name), out)

    def _entries(self, bundle: Path) -> list[Json]:
        return [self._named(entry) for entry in _manifest(bundle)["objects"]]

    def _named(self, entry: Json) -> Json:
        """An entry with paths as applications know them."""
        root = self._path_of(int(entry["tree"])).rstrip("/")
        named = dict(entry)
        for key in SIDES:
            side = entry.get(key)
            if side is not None:
                named[key] = {**side, "path": f"{root}/{side['path']}".rstrip("/")}
                if "names" in side:
                    named[key]["names"] = [f"{root}/{each}" for each in side["names"]]
                if "raw" in side:
                    named[key]["raw"] = f"{root}/".encode().hex() + side["raw"]
        return named

    def _short(self, name: str) -> Json:
        bundle = self._bundle(name)
        found = _manifest(bundle)
        sides = [entry.get("before") or {} for entry in found["objects"]]
        return {
            "id": name,
            "kind": bundle.parent.name,
            "server": self._server,
            "at": found.get("written_at"),
            "complete": found["complete"],
            "fork": found.get("fork"),
            "objects": len(found["objects"]),
            "bytes": sum(int(side["size"]) for side in sides if "file" in side),
        }

    def _bundle(self, name: str) -> Path:
        for root in self._roots:
            if NAME.fullmatch(name) and (root / name).is_dir():
                return root / name
        raise Refused(
            f"there is no bundle {name!r} on {self._server}",
            remedy="everup divergence list",
            code="unknown-bundle",
        )


def _manifest(bundle: Path) -> Json:
    """What is in a bundle; of one that is still being written, what is there so far."""
    try:
        value = json.loads((bundle / MANIFEST).read_text())
        return {**value, "complete": True}
    except (FileNotFoundError, ValueError):
        return {"objects": read_lines(bundle), "complete": False}
