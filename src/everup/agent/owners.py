"""Owners below a path must have the same name and number on every server.

What enters: paths, and the accounts of a peer. What leaves: sentences about what does not fit.
Called by the protect job, before anything is changed. Ownership is replicated by number; a number
that means somebody else on the peer would give files away at a failover.
"""

import grp
import os
import pwd
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Accounts = dict[str, dict[str, int]]


@dataclass
class Owners:
    """Numbers found below the paths."""

    users: set[int] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)


def owners_below(paths: Iterable[Path]) -> Owners:
    """Walk the directories, without following symbolic links. Raises OSError."""
    found = Owners()
    for path in paths:
        for status in _walk(path):
            found.users.add(status.st_uid)
            found.groups.add(status.st_gid)
    return found


def _walk(top: Path) -> Iterator[os.stat_result]:
    yield os.lstat(top)
    pending = [top]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                try:
                    yield entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # The application still runs and removes files.
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))


def differences(owners: Owners, server: str, theirs: Accounts) -> list[str]:
    """What does not fit on `server`; empty when every owner is the same there."""
    users = {number: _user_name(number) for number in owners.users}
    groups = {number: _group_name(number) for number in owners.groups}
    return [
        *_differences("user", users, server, theirs.get("users", {})),
        *_differences("group", groups, server, theirs.get("groups", {})),
    ]


def _differences(
    kind: str, ours: dict[int, str | None], server: str, theirs: dict[str, int]
) -> list[str]:
    names = {number: name for name, number in theirs.items()}
    found = []
    for number, name in sorted(ours.items()):
        if name is None:
            if number in names:
                found.append(
                    f"{kind} {number} has no name here but is {names[number]!r} on {server}"
                )
        elif name not in theirs:
            found.append(f"{kind} {name!r} does not exist on {server}")
        elif theirs[name] != number:
            found.append(f"{kind} {name!r} is {number} here and {theirs[name]} on {server}")
    return found


def _user_name(number: int) -> str | None:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return None


def _group_name(number: int) -> str | None:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return None
