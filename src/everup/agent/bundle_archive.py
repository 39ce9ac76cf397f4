"""A bundle as a tar archive that standard tools read.

What enters: a bundle's directory and what it holds. What leaves: a pax archive with ID/list.txt,
ID/manifest.json and the trees ID/before and ID/after, every object under its own path with owner,
mode, time, extended attributes, link target, device number and further names. Called by `bundles`.
"""

import io
import json
import os
import tarfile
from pathlib import Path
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG
from typing import IO, Any

from everup.agent.bundle_words import LEGEND

Json = dict[str, Any]

_KINDS = {
    S_IFREG: tarfile.REGTYPE,
    S_IFDIR: tarfile.DIRTYPE,
    S_IFLNK: tarfile.SYMTYPE,
    S_IFIFO: tarfile.FIFOTYPE,
    S_IFCHR: tarfile.CHRTYPE,
    S_IFBLK: tarfile.BLKTYPE,
}


def write_archive(bundle: Path, shown: Json, out: IO[bytes]) -> None:
    """Raises OSError, also when a file of the bundle is shorter than the manifest says."""
    name = bundle.name
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        lines = [LEGEND, *(entry["line"] for entry in shown["objects_kept"])]
        _add_text(archive, f"{name}/list.txt", "\n".join(lines) + "\n")
        _add_text(archive, f"{name}/manifest.json", json.dumps(shown, indent=2) + "\n")
        for entry in shown["objects_kept"]:
            for key in ("before", "after"):
                if entry.get(key) is not None:
                    _add_object(archive, bundle, f"{name}/{key}", entry[key])


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    head = tarfile.TarInfo(name)
    head.size, head.mode = len(data), 0o600
    archive.addfile(head, io.BytesIO(data))


def _add_object(archive: tarfile.TarFile, bundle: Path, top: str, side: Json) -> None:
    kind = _KINDS.get(S_IFMT(int(side["mode"])))
    if kind is None or (kind == tarfile.REGTYPE and "file" not in side):
        return  # A socket, or content for which there was no room: the list has its line.
    path = os.fsdecode(bytes.fromhex(side["raw"])) if "raw" in side else str(side["path"])
    info = _head(top + path, side, kind)
    if kind == tarfile.REGTYPE:
        with (bundle / str(side["file"])).open("rb") as content:
            info.size = int(side["size"])
            archive.addfile(info, content)
    else:
        archive.addfile(info)
    for other in side.get("names", ()):
        if other != side["path"]:
            link = _head(top + other, side, tarfile.LNKTYPE)
            link.linkname = info.name
            archive.addfile(link)


def _head(name: str, side: Json, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = int(side["mode"]) & 0o7777
    info.uid, info.gid = int(side["uid"]), int(side["gid"])
    seconds, rest_ns = divmod(int(side["mtime_ns"]), 1_000_000_000)
    info.mtime = seconds
    info.linkname = str(side.get("target", ""))
    if "device" in side:
        info.devmajor, info.devminor = side["device"]
    info.pax_headers = {
        f"SCHILY.xattr.{key}": bytes.fromhex(value).decode("utf-8", "surrogateescape")
        for key, value in side.get("xattrs", {}).items()
    }
    if seconds >= 0:
        info.pax_headers["mtime"] = f"{seconds}.{rest_ns:09d}"
    return info
