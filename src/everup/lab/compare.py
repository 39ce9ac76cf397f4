"""Are two directory trees the same? An independent judge of replication.

What enters: two directories on the host. What leaves: how many entries and bytes were compared, and
every difference as a sentence. It shares no code with the replicator on purpose: a mistake there
must not hide itself here. Compared are names, types, content, sizes, holes read as zeros, owners,
modes, modification times in nanoseconds, extended attributes (access control lists among them),
link targets, device numbers, and which names are links to the same file. Not compared: access and
change times, inode numbers, and what Everup keeps for itself in a tree.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_OWN_ATTRIBUTES = "trusted.everup."
_OWN_DIRECTORY = ".everup-orphans"
_BLOCK = 1 << 20
_MOST_DIFFERENCES = 200


@dataclass
class Comparison:
    """What was found."""

    entries: int = 0
    bytes: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        return not self.differences

    def add(self, sentence: str) -> None:
        if len(self.differences) < _MOST_DIFFERENCES:
            self.differences.append(sentence)

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(
            self.entries + other.entries,
            self.bytes + other.bytes,
            [*self.differences, *other.differences],
        )


def compare_trees(one: Path, other: Path, *, names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Compare the directory `one` with `other`, their roots included. Symlinks are not followed."""
    found = Comparison()
    links = _Links(), _Links()
    pending = [""]
    while pending:
        relative = pending.pop()
        below = _compare_entry(one / relative, other / relative, relative or ".", names, found)
        for side, path in zip(links, (one / relative, other / relative), strict=True):
            side.note(path, relative)
        if below:
            pending += _common_names(one / relative, other / relative, relative, names, found)
    for group, match in _differing_groups(*links):
        found.add(f"hard links: {_group_words(group)} in {names[0]}, {match} in {names[1]}")
    return found


class _Links:
    """Which names lead to the same file."""

    def __init__(self) -> None:
        self.by_inode: dict[tuple[int, int], set[str]] = defaultdict(set)
        self.inode_of: dict[str, tuple[int, int]] = {}

    def note(self, path: Path, relative: str) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            inode = status.st_dev, status.st_ino
            self.by_inode[inode].add(relative)
            self.inode_of[relative] = inode

    def group(self, relative: str) -> frozenset[str]:
        inode = self.inode_of.get(relative)
        return frozenset(self.by_inode[inode]) if inode else frozenset({relative})


def _differing_groups(one: _Links, other: _Links) -> Iterator[tuple[frozenset[str], str]]:
    """Each group of names once, when the other side ties them together otherwise."""
    seen: set[frozenset[str]] = set()
    for relative in sorted({*one.inode_of, *other.inode_of}):
        here, there = one.group(relative), other.group(relative)
        if here != there and here not in seen:
            seen.add(here)
            yield here, _group_words(there)


def _group_words(group: frozenset[str]) -> str:
    return " = ".join(sorted(group)[:6])


def _common_names(
    one: Path, other: Path, relative: str, names: tuple[str, str], found: Comparison
) -> list[str]:
    """Names in both directories; a name in one alone is a difference."""
    here, there = _listing(one, relative), _listing(other, relative)
    for missing, side, where in ((here - there, *names), (there - here, names[1], names[0])):
        for name in sorted(missing):
            found.add(f"{_join(relative, name)} is in {side} but not in {where}")
    return [_join(relative, name) for name in sorted(here & there)]


def _listing(directory: Path, relative: str) -> set[str]:
    hidden = {_OWN_DIRECTORY} if relative == "" else set()
    return set(os.listdir(directory)) - hidden


def _join(relative: str, name: str) -> str:
    return f"{relative}/{name}" if relative else name


def _compare_entry(
    one: Path, other: Path, name: str, names: tuple[str, str], found: Comparison
) -> bool:
    """Compare one entry; True when both are directories."""
    here, there = one.lstat(), other.lstat()
    found.entries += 1
    if stat.S_IFMT(here.st_mode) != stat.S_IFMT(there.st_mode):
        mine, theirs = _kind(here.st_mode), _kind(there.st_mode)
        found.add(f"{name} is a {mine} in {names[0]}, a {theirs} in {names[1]}")
        return False

    def differ(what: str, mine: object, theirs: object) -> None:
        if mine != theirs:
            found.add(f"{name}: {what} is {mine} in {names[0]}, {theirs} in {names[1]}")

    differ("mode", oct(stat.S_IMODE(here.st_mode)), oct(stat.S_IMODE(there.st_mode)))
    differ("owner", (here.st_uid, here.st_gid), (there.st_uid, there.st_gid))
    differ("modification time", here.st_mtime_ns, there.st_mtime_ns)
    kept = _attributes(one), _attributes(other)
    for attribute in sorted({*kept[0], *kept[1]}):
        differ(f"attribute {attribute}", kept[0].get(attribute), kept[1].get(attribute))
    if stat.S_ISLNK(here.st_mode):
        differ("target", os.readlink(one), os.readlink(other))
    elif stat.S_ISBLK(here.st_mode) or stat.S_ISCHR(here.st_mode):
        differ("device", here.st_rdev, there.st_rdev)
    elif stat.S_ISREG(here.st_mode):
        differ("size", here.st_size, there.st_size)
        _compare_content(one, other, name, found)
    return stat.S_ISDIR(here.st_mode)


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISDIR, "directory"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISREG, "file"),
    ):
        if test(mode):
            return word
    return "device"


def _attributes(path: Path) -> dict[str, bytes]:
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith(_OWN_ATTRIBUTES):
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def _compare_content(one: Path, other: Path, name: str, found: Comparison) -> None:
    """Byte by byte; the first difference of a file is told with its place."""
    with one.open("rb", buffering=0) as mine, other.open("rb", buffering=0) as theirs:
        offset = 0
        while True:
            left, right = mine.read(_BLOCK), theirs.read(_BLOCK)
            found.bytes += len(left)
            if left != right:
                found.add(f"{name}: content differs at byte {offset + _first(left, right)}")
                return
            if not left:
                return
            offset += len(left)


def _first(left: bytes, right: bytes) -> int:
    """Index of the first byte that differs."""
    for index, (mine, theirs) in enumerate(zip(left, right, strict=False)):
        if mine != theirs:
            return index
    return min(len(left), len(right))
