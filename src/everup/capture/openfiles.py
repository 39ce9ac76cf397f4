"""Who has files open below a path, and would go on using them behind the gate.

What enters: a path. What leaves: processes by name. Called by `protect` before the gate is made: a
descriptor that was opened before stays outside the gate, also a read-only one (it would read an
inode that nobody writes to any more, once a rename has replaced it).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROCESSES_MAX = 50
_WRITING = os.O_WRONLY | os.O_RDWR


class OpenFile(NamedTuple):
    """A process in the way; `how` is "writes", "reads", "mapped" or "works in"."""

    pid: int
    command: str
    path: str
    how: str


def open_files(path: Path) -> list[OpenFile]:
    """What is open, mapped shared and writable, or a working directory below `path`; at most 50.

    Processes that end while we look are left out.
    """
    found: list[OpenFile] = []
    prefix = os.fsencode(path)
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                found.extend(_open_of(Path("/proc") / name, prefix))
            except OSError:
                continue
        if len(found) >= PROCESSES_MAX:
            break
    return found[:PROCESSES_MAX]


def _below(target: bytes, prefix: bytes) -> bool:
    return target == prefix or target.startswith(prefix + b"/")


def _open_of(process: Path, prefix: bytes) -> Iterator[OpenFile]:
    pid = int(process.name)
    command = (process / "comm").read_text(errors="replace").strip()
    for link in ("cwd", "root"):
        target = os.fsencode(os.readlink(process / link))
        if _below(target, prefix):
            yield OpenFile(pid, command, os.fsdecode(target), "works in")
    seen: set[bytes] = set()
    for descriptor in os.listdir(process / "fd"):
        target = os.fsencode(os.readlink(process / "fd" / descriptor))
        if target in seen or not _below(target, prefix):
            continue
        seen.add(target)
        how = "writes" if _flags(process, descriptor) & _WRITING else "reads"
        yield OpenFile(pid, command, os.fsdecode(target), how)
    for line in (process / "maps").read_bytes().splitlines():
        fields = line.split(None, 5)
        if len(fields) < 6 or fields[1][1:2] != b"w" or fields[1][3:4] != b"s":
            continue
        if _below(fields[5], prefix) and fields[5] not in seen:
            seen.add(fields[5])
            yield OpenFile(pid, command, os.fsdecode(fields[5]), "mapped")


def _flags(process: Path, descriptor: str) -> int:
    for line in (process / "fdinfo" / descriptor).read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8)
    return 0
