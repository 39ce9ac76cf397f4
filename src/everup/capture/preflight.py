"""Why a path may not be protected.

What enters: a path, and what is protected already. What leaves: refusals, each with a stable code,
a sentence and a remedy. Called by `protect` before anything is changed. It looks
into the directory itself, so it must not be used on a path whose gate is open.
"""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from everup.capture.gate import FUSE_KIND
from everup.capture.nodes import pack_handle
from everup.errors import Refused
from everup.model.ids import GROUP_XATTR
from everup.places import Places
from everup.system.kernelcalls import HandleCalls, open_by_handle
from everup.system.mounts import mount_points
from everup.system.objectid import read_id, write_id

SYSTEM_PATHS = ("/proc", "/sys", "/dev", "/run", "/boot", "/etc/everup", "/usr", "/bin", "/sbin",
                "/lib", "/lib64")  # fmt: skip
WHOLE_SYSTEM = ("/", "/etc", "/var", "/var/lib", "/opt", "/root")
PROBE_NAME = ".everup-probe"
NAMED_MAX = 5
"""File systems mounted below a path that are named one by one."""


def refusals(path: Path, protected: list[Path], places: Places) -> list[Refused]:
    """Every reason against protecting `path`; empty when it may be protected."""
    if not path.is_absolute() or path != Path(os.path.normpath(path)):
        return [
            Refused(
                f"{path} is not an absolute path without links and dots",
                remedy="give the path from / on",
                code="path-not-absolute",
            )
        ]
    try:
        status = os.lstat(path)
    except OSError as error:
        return [
            Refused(
                f"{path} does not exist: {error.strerror}",
                remedy="create the directory, or mount its file system, first",
                code="path-missing",
            )
        ]
    if stat.S_ISLNK(status.st_mode) or Path(os.path.realpath(path)) != path:
        return [
            Refused(
                f"{path} leads over a symbolic link to {os.path.realpath(path)}",
                remedy="protect the path that the link leads to",
                code="path-link",
            )
        ]
    if not stat.S_ISDIR(status.st_mode):
        return [
            Refused(
                f"{path} is not a directory",
                remedy="protect the directory that holds it",
                code="path-not-directory",
            )
        ]
    # Of the system's own directories nothing below can be protected instead.
    found = list(_place_refusals(path, places))
    if not found:
        found = [*_neighbour_refusals(path, protected), *_mount_refusals(path)]
    return found or list(_file_system_refusals(path))


def _place_refusals(path: Path, places: Places) -> Iterator[Refused]:
    if path in map(Path, WHOLE_SYSTEM) or _inside(path, map(Path, SYSTEM_PATHS)):
        yield Refused(
            f"{path} belongs to the operating system itself",
            remedy="protect the directories of your application's data",
            code="path-system",
        )
    own = [places.etc, places.var, places.run, Path(sys.prefix), Path(sys.base_prefix)]
    for place in own:
        if place.is_relative_to(path) or path.is_relative_to(place):
            yield Refused(
                f"{path} holds or lies in {place}, which Everup itself needs",
                remedy="protect the directories of your application's data",
                code="path-own",
            )
            return


def _inside(path: Path, places: Iterator[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _neighbour_refusals(path: Path, protected: list[Path]) -> Iterator[Refused]:
    for other in protected:
        if path == other:
            yield Refused(
                f"{path} is protected already", remedy="everup status", code="path-protected"
            )
        elif path.is_relative_to(other):
            yield Refused(
                f"{path} lies in {other}, which is protected already",
                remedy="nothing is needed: it is protected with it",
                code="path-inside",
            )
        elif other.is_relative_to(path):
            yield Refused(
                f"{path} contains {other}, which is protected already",
                remedy=f"everup unprotect {other} first",
                code="path-contains",
            )


def _mount_refusals(path: Path) -> Iterator[Refused]:
    points = mount_points()
    below = {p.path for p in points if p.path != path and p.path.is_relative_to(path)}
    for mounted in sorted(below)[:NAMED_MAX]:
        yield Refused(
            f"{mounted} is another file system mounted below {path}",
            remedy=f"protect {mounted} as a path of its own, or unmount it",
            code="path-mount-below",
        )
    if len(below) > NAMED_MAX:
        more = len(below) - NAMED_MAX
        yield Refused(
            f"{more} more file systems are mounted below {path}",
            remedy="findmnt shows them all",
            code="path-mount-below",
        )
    for point in points:
        if path.is_relative_to(point.path) and point.kind == FUSE_KIND:
            yield Refused(
                f"{point.path} is an open gate of Everup", remedy="everup status", code="gate-open"
            )


def _file_system_refusals(path: Path) -> Iterator[Refused]:
    """Whether objects of every kind can carry ids and be found by handles."""
    try:
        _probe(path)
    except (OSError, ValueError) as error:
        kind = next((p.kind for p in reversed(mount_points()) if path.is_relative_to(p.path)), "?")
        yield Refused(
            f"the file system of {path} ({kind}) cannot carry object ids: {error}",
            remedy="put the directory on ext4, or on XFS of up to 2 TiB",
            code="path-file-system",
        )


def _probe(path: Path) -> None:
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    before = os.fstat(root)
    marker = os.getxattr(root, GROUP_XATTR) if GROUP_XATTR in os.listxattr(root) else b""
    try:
        os.setxattr(root, GROUP_XATTR, marker or b"probe")
        if not marker:
            os.removexattr(root, GROUP_XATTR)
        for kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO):
            _probe_kind(root, kind)
    finally:
        os.utime(root, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.close(root)


def _probe_kind(root: int, kind: int) -> None:
    calls = HandleCalls()
    name = PROBE_NAME
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=root)
    elif kind == stat.S_IFLNK:
        os.symlink("nowhere", name, dir_fd=root)
    else:
        os.mknod(name, kind | 0o600, dir_fd=root)
    try:
        handle = calls.of(root, name.encode())
        pack_handle(handle)
        descriptor = open_by_handle(root, handle, os.O_PATH | os.O_NOFOLLOW)
        try:
            write_id(descriptor, handle, bytes(range(16)), path_only=True)
            if read_id(descriptor, handle, path_only=True) != bytes(range(16)):
                raise OSError(5, "an id was not kept")
        finally:
            os.close(descriptor)
    finally:
        if kind == stat.S_IFDIR:
            os.rmdir(name, dir_fd=root)
        else:
            os.unlink(name, dir_fd=root)
