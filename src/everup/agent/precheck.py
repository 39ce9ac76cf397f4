"""What must be true of a path before it is protected, and who has files open below it.

What enters: absolute paths. What leaves: a refusal that says what is wrong with which path, or the
processes in the way. Called by the protect job before anything is changed. A read of /proc and
/proc/self/mountinfo only: no file of the application is opened.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from everup.errors import Refused
from everup.places import Places

SYSTEM_PATHS = ("/proc", "/sys", "/dev", "/run", "/boot", "/usr", "/bin", "/sbin", "/lib", "/tmp")
PROCESSES_NAMED_MAX = 10


def check_paths(paths: Sequence[str], protected: Sequence[str], places: Places) -> None:
    """Raise Refused with every reason against every path."""
    if not paths and not protected:
        raise Refused("no path was named", remedy="everup protect PATH ...", code="no-path")
    mounts = mount_points(Path("/proc/self/mountinfo").read_text())
    own = (places.etc, places.var, places.run, Path("/opt/everup"))
    reasons: list[str] = []
    for number, path in enumerate(paths):
        others = [*protected, *paths[:number]]
        reasons += _reasons(path, others, mounts, own)
    if reasons:
        raise Refused("; ".join(reasons), remedy="nothing was changed", code="path-refused")


def _reasons(
    path: str, others: Sequence[str], mounts: Sequence[str], own: Sequence[Path]
) -> list[str]:
    if path == "/" or within(path, *SYSTEM_PATHS):
        return [f"{path} is refused: it belongs to the system"]
    if not path.startswith("/") or os.path.normpath(path) != path.rstrip("/"):
        return [f"{path} is refused: it must be absolute, without '.' and '..'"]
    directory = Path(path)
    if not directory.is_dir():
        return [f"{path} is refused: there is no such directory"]
    if Path(os.path.realpath(path)) != directory:
        return [f"{path} is refused: a part of it is a symbolic link to {os.path.realpath(path)}"]
    found = []
    for place in map(str, own):
        if within(place, path) or within(path, place):
            found.append(f"{path} is refused: Everup's own files lie in {place}")
    for other in others:
        if within(other, path) or within(path, other):
            found.append(f"{path} is refused: it and the protected path {other} lie in each other")
    below = sorted({m for m in mounts if m != path and within(m, path)})
    if below:
        found.append(f"{path} is refused: {', '.join(below)} is mounted below it")
    return found


def within(path: str, *places: str) -> bool:
    """Whether `path` is one of `places` or lies below one."""
    return any(path == p or path.startswith(p.rstrip("/") + "/") for p in places)


def mount_points(mountinfo: str) -> list[str]:
    """Mount points of a mountinfo text; escapes such as \\040 are undone."""
    fields = [line.split(" ") for line in mountinfo.splitlines()]
    return [_unescaped(f[4]) for f in fields if len(f) > 4]


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def processes_with_open_files(paths: Sequence[str], proc: Path = Path("/proc")) -> list[str]:
    """ "name (pid): path" of processes that have something below `paths` open, mapped, or as
    working directory. A read-only file counts too: its descriptor would stay outside the gate."""
    found = []
    for directory in sorted(proc.glob("[0-9]*"), key=lambda p: int(p.name)):
        used = _used_below(directory, paths)
        if used:
            found.append(f"{_name(directory)} ({directory.name}): {used}")
        if len(found) >= PROCESSES_NAMED_MAX:
            break
    return found


def _used_below(process: Path, paths: Sequence[str]) -> str:
    links = [process / "cwd", process / "root"]
    try:
        links += sorted((process / "fd").iterdir())
    except OSError:
        pass  # It ended, or it is the kernel's.
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target != "/" and within(target.removesuffix(" (deleted)"), *paths):
            return target
    return _mapped_below(process, paths)


def _mapped_below(process: Path, paths: Sequence[str]) -> str:
    try:
        lines = (process / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        target = line[73:].strip().removesuffix(" (deleted)")
        if target.startswith("/") and within(target, *paths):
            return target
    return ""


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
