"""A busy file tree: every kind of change, at random, without end. Runs inside a lab server.

What enters: a directory, a seed, and perhaps a number of changes per second. What leaves: a tree
that is never at rest. Without a rate it works as fast as it can and ends with an errno on its
output when the directory refuses (the server is not active any more); with a rate it waits then,
and begins again when the server is active. Standard library only.
"""

import os
import random
import sys
import time
from pathlib import Path

ENTRIES_MAX = 400
_ACTIVE = Path("/run/everup/active")
_REFUSED_WAIT_S = 0.3


class Churn:
    """`step` makes one random change below `root`."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root = root
        self._chance = random.Random(seed)
        self._number = 0

    def step(self) -> None:
        """One change; what a name allows decides itself: wrong kinds of objects are passed over."""
        changes = [
            *(self._write, self._write, self._append, self._create, self._create, self._rename),
            *(self._rename, self._unlink, self._link, self._symlink, self._truncate, self._chmod),
            *(self._xattr, self._directory, self._remove_directory, self._times, self._punch),
            *(self._unlink_open, self._exchange_by_rename, self._sync),
        ]
        try:
            self._chance.choice(changes)()
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError):
            pass
        except OSError as error:
            if error.errno not in (39, 16, 22, 40, 1, 31):  # not empty, busy, into itself, ...
                raise

    def _directories(self) -> list[Path]:
        return [
            self._root,
            *(p for p in self._root.rglob("*") if p.is_dir() and not p.is_symlink()),
        ]

    def _any(self) -> Path:
        entries = list(self._root.rglob("*"))
        if not entries:
            raise FileNotFoundError
        return self._chance.choice(entries)

    def _file(self) -> Path:
        path = self._any()
        if path.is_symlink() or not path.is_file():
            raise IsADirectoryError
        return path

    def _new(self) -> Path:
        self._number += 1
        name = f"{self._chance.randrange(60)}-{'ü' * self._chance.randrange(3)}"
        return self._chance.choice(self._directories()) / name

    def _bytes(self) -> bytes:
        return os.urandom(self._chance.choice((1, 100, 4096, 10_000, 200_000)))

    def _create(self) -> None:
        path = self._new()
        if len(list(self._root.rglob("*"))) > ENTRIES_MAX:
            return self._unlink()
        with path.open("xb") as file:
            file.write(self._bytes())

    def _write(self) -> None:
        with self._file().open("r+b") as file:
            file.seek(self._chance.randrange(300_000))
            file.write(self._bytes())

    def _append(self) -> None:
        with self._file().open("ab") as file:
            file.write(self._bytes())

    def _rename(self) -> None:
        self._any().rename(self._new())

    def _exchange_by_rename(self) -> None:
        one, other, between = self._file(), self._file(), self._new()
        if between.exists():
            return
        one.rename(between)
        other.rename(one)
        between.rename(other)

    def _unlink(self) -> None:
        self._any().unlink()

    def _unlink_open(self) -> None:
        path = self._file()
        with path.open("r+b") as file:
            path.unlink()
            file.write(self._bytes())
            os.fsync(file.fileno())

    def _link(self) -> None:
        os.link(self._file(), self._new())

    def _symlink(self) -> None:
        self._new().symlink_to("../" * self._chance.randrange(3) + "somewhere")

    def _truncate(self) -> None:
        os.truncate(self._file(), self._chance.randrange(100_000))

    def _punch(self) -> None:
        with self._file().open("r+b") as file:
            os.posix_fallocate(file.fileno(), self._chance.randrange(50_000), 8192)

    def _chmod(self) -> None:
        path = self._any()
        if not path.is_symlink():
            path.chmod(self._chance.choice((0o600, 0o644, 0o755, 0o700)))
        os.chown(path, self._chance.randrange(3), self._chance.randrange(3), follow_symlinks=False)

    def _xattr(self) -> None:
        path = self._file()
        name = f"user.{self._chance.randrange(3)}"
        if name in os.listxattr(path) and self._chance.random() < 0.4:
            os.removexattr(path, name)
        else:
            os.setxattr(path, name, self._bytes()[:200])

    def _times(self) -> None:
        moment = self._chance.randrange(1, 10**18)
        os.utime(self._any(), ns=(moment, moment), follow_symlinks=False)

    def _directory(self) -> None:
        if len(self._directories()) < 25:
            self._new().mkdir()

    def _remove_directory(self) -> None:
        directory = self._chance.choice(self._directories()[1:] or [self._root / "none"])
        if self._chance.random() < 0.3:
            for path in sorted(directory.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        directory.rmdir()

    def _sync(self) -> None:
        descriptor = os.open(self._any(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def work(churn: Churn, rate: float) -> None:
    """Change after change, until the directory refuses (OSError)."""
    steps = 0
    while True:
        churn.step()
        steps += 1
        if steps % 100 == 0:
            print(steps, flush=True)
        if rate:
            time.sleep(1 / rate)


def main(root: Path, seed: int, rate: float = 0.0) -> None:
    """Until the directory refuses, or for ever when a rate is given."""
    churn = Churn(root, seed)
    while True:
        if rate and not _ACTIVE.exists():
            time.sleep(_REFUSED_WAIT_S)
            continue
        try:
            root.mkdir(exist_ok=True)
            work(churn, rate)
        except OSError as error:
            print("refused", error.errno, flush=True)
        if not rate:
            return
        time.sleep(_REFUSED_WAIT_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *(float(word) for word in sys.argv[3:]))
