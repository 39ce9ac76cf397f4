"""A random application: any operation on any object, by seed.

What enters: a stand-in guard and a random generator. What leaves: changes of its tree, all of them
journaled. It looks at the tree itself for what exists, so it can go on after anything. Used by the
tests of replication.
"""

import os
import random
import stat
from pathlib import Path

from standin_guard import StandInGuard

NAMES = ["a", "b", "c", "d", "e", "f"]
EXCHANGE = 2


class Workload:
    """`step` does one operation; what the system refuses (a busy name, a full disk) is no error."""

    def __init__(self, guard: StandInGuard, random_: random.Random, *, depth: int = 3) -> None:
        self.guard = guard
        self.random = random_
        self.depth = depth
        self.orphans: list[bytes] = []

    def paths(self) -> list[str]:
        root = self.guard.root
        found = []
        for directory, directories, files in os.walk(root):
            if ".everup-orphans" in directories:
                directories.remove(".everup-orphans")
            found += [str(Path(directory, n).relative_to(root)) for n in directories + files]
        return found

    def step(self) -> None:
        paths = self.paths()
        kinds = {path: os.lstat(self.guard.root / path).st_mode for path in paths}
        files = [path for path in paths if stat.S_ISREG(kinds[path])]
        directories = [""] + [
            path for path in paths if stat.S_ISDIR(kinds[path]) and path.count("/") < self.depth - 1
        ]
        try:
            self._one(paths, files, directories)
        except OSError:
            pass
        if self.random.random() < 0.15:
            self.guard.end_batch()

    def _new(self, directories: list[str]) -> str:
        directory = self.random.choice(directories)
        name = self.random.choice(NAMES)
        return f"{directory}/{name}" if directory else name

    def _one(self, paths: list[str], files: list[str], directories: list[str]) -> None:
        guard, pick = self.guard, self.random.choice
        action = self.random.choices(
            ["create", "write", "truncate", "hole", "rename", "exchange", "link", "unlink",
             "attributes", "xattr", "unxattr", "orphan"],
            [22, 22, 5, 3, 16, 4, 6, 14, 6, 5, 2, 3],
        )[0]  # fmt: skip
        if action == "create":
            self._create(self._new(directories))
        elif action == "rename" and paths:
            guard.rename(pick(paths), self._new(directories))
        elif action == "exchange" and len(paths) > 1:
            guard.rename(pick(paths), pick(paths), EXCHANGE)
        elif action == "unlink" and paths:
            guard.unlink(pick(paths))
        elif action == "link" and files:
            guard.link(pick(files), self._new(directories))
        elif action == "attributes" and paths:
            self._attributes(pick(paths))
        elif action == "xattr" and files:
            guard.set_xattr(pick(files), f"user.{pick(NAMES)}", self.random.randbytes(20))
        elif action == "unxattr" and files:
            guard.remove_xattr(pick(files), f"user.{pick(NAMES)}")
        elif action == "orphan":
            self._orphan(directories)
        elif files:
            self._content(action, pick(files))

    def _create(self, path: str) -> None:
        kind = self.random.choices(["file", "directory", "link", "fifo"], [10, 6, 2, 1])[0]
        if kind == "file":
            self.guard.create(path, 0o100000 | self.random.choice([0o644, 0o600, 0o4755]))
        elif kind == "directory":
            self.guard.create(path, 0o40000 | self.random.choice([0o755, 0o700, 0o2775]))
        elif kind == "link":
            self.guard.create(path, 0o120777, target=self.random.choice(NAMES))
        else:
            self.guard.create(path, 0o010644)

    def _attributes(self, path: str) -> None:
        choice = self.random.randrange(3)
        is_link = (self.guard.root / path).is_symlink()
        if choice == 0 and not is_link:
            self.guard.attributes(path, mode=self.random.choice([0o600, 0o755, 0o644]))
        elif choice == 1:
            self.guard.attributes(path, owner=(self.random.randrange(5), self.random.randrange(5)))
        else:
            self.guard.attributes(path, mtime_ns=self.random.randrange(10**18))

    def _content(self, action: str, path: str) -> None:
        if action == "write":
            size = self.random.choice([10, 500, 8192, 70_000])
            self.guard.write(path, self.random.randrange(300_000), self.random.randbytes(size))
        elif action == "truncate":
            self.guard.truncate(path, self.random.randrange(200_000))
        elif action == "hole":
            self.guard.allocate(path, 3, self.random.randrange(100_000), 50_000)

    def _orphan(self, directories: list[str]) -> None:
        if not self.orphans or self.random.random() < 0.4:
            self.orphans.append(self.guard.orphan(self.random.randbytes(100)))
            return
        object_id = self.random.choice(self.orphans)
        if self.random.random() < 0.5:
            self.guard.adopt(object_id, self._new(directories))
        else:
            self.guard.release(object_id)
        self.orphans.remove(object_id)
