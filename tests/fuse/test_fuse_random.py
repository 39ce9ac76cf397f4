"""Random operations of several threads on the same few names, with and without kills of the worker:
whatever succeeded or failed, the journal describes exactly the lower tree."""

import os
import random
import stat
import threading
import time
from collections.abc import Callable

import pytest
from guarding import GuardProcess

from everup.system.kernelcalls import RENAME_EXCHANGE, allocate, rename

pytestmark = pytest.mark.fuse
NAMES = (b"a", b"b", b"c", b"d" * 90)
SECONDS = 3.0
FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK


class Actor:
    """One thread: picks an operation and names, and does not mind errors of the file system."""

    def __init__(self, root: bytes, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = root
        self.held: list[int] = []
        self.done = 0
        self.unexpected: list[str] = []
        self.operations: tuple[Callable[[bytes, bytes], object], ...] = (
            self.create, self.create, self.write, self.write_held, self.hold, self.release,
            self.resize, self.reserve, self.attributes, self.sync,
            lambda p, _: os.mkdir(p), lambda p, _: os.mkdir(p),
            lambda p, q: os.symlink(q[-50:], p),
            lambda p, q: os.link(p, q, follow_symlinks=False),
            lambda p, _: os.unlink(p), lambda p, _: os.rmdir(p),
            os.rename, os.rename,
            lambda p, q: rename(-100, p, -100, q, RENAME_EXCHANGE),
            lambda p, _: os.mknod(p, stat.S_IFSOCK | 0o600),
            lambda p, _: os.listdir(p),
        )  # fmt: skip

    def path(self) -> bytes:
        count = self.random.randint(1, 3)
        return b"/".join([self.root, *(self.random.choice(NAMES) for _ in range(count))])

    def run(self, end: float) -> None:
        while time.monotonic() < end:
            try:
                self.random.choice(self.operations)(self.path(), self.path())
                self.done += 1
            except OSError as error:
                if error.errno in (5, 107, 116):
                    self.unexpected.append(str(error))
        for descriptor in self.held:
            os.close(descriptor)

    def create(self, path: bytes, _: bytes) -> None:
        flags = os.O_CREAT | os.O_RDWR | self.random.choice([0, os.O_EXCL, os.O_TRUNC])
        descriptor = os.open(path, flags, self.random.choice([0o600, 0o644, 0o4755]))
        os.write(descriptor, self.random.randbytes(self.random.choice([0, 1, 5000, 70000])))
        os.close(descriptor)

    def write(self, path: bytes, _: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | FLAGS)
        os.pwrite(descriptor, self.random.randbytes(4096), self.random.randint(0, 50000))
        os.close(descriptor)

    def hold(self, path: bytes, _: bytes) -> None:
        self.held.append(os.open(path, os.O_RDWR | FLAGS))

    def write_held(self, *_: bytes) -> None:
        if self.held:
            os.pwrite(self.random.choice(self.held), b"held" * 99, self.random.randint(0, 9999))

    def release(self, *_: bytes) -> None:
        if self.held:
            os.close(self.held.pop(self.random.randrange(len(self.held))))

    def resize(self, path: bytes, _: bytes) -> None:
        os.truncate(path, self.random.randint(0, 30000))

    def reserve(self, path: bytes, _: bytes) -> None:
        descriptor = os.open(path, os.O_RDWR | FLAGS)
        allocate(descriptor, self.random.choice([0, 1, 3, 16]), self.random.randint(0, 9999), 8000)
        os.close(descriptor)

    def attributes(self, path: bytes, _: bytes) -> None:
        choice = self.random.randint(0, 4)
        if choice == 0:
            os.chmod(path, self.random.choice([0o600, 0o755, 0o2755, 0o1777]))
        elif choice == 1:
            os.chown(path, self.random.randint(0, 3), 1, follow_symlinks=False)
        elif choice == 2:
            times = (self.random.randint(0, 10**18), self.random.randint(0, 10**18))
            os.utime(path, ns=times, follow_symlinks=False)
        elif choice == 3:
            os.setxattr(path, b"user.x", self.random.randbytes(10))
        else:
            os.removexattr(path, b"user.x")

    def sync(self, path: bytes, _: bytes) -> None:
        descriptor = os.open(path, os.O_RDONLY | FLAGS)
        os.fsync(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize("kills", [0, 5])
def test_random_operations(guard: GuardProcess, kills: int) -> None:
    end = time.monotonic() + SECONDS
    actors = [Actor(os.fsencode(guard.tree), seed) for seed in range(6)]
    threads = [threading.Thread(target=actor.run, args=(end,), daemon=True) for actor in actors]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        time.sleep(SECONDS / (kills + 1))
        guard.kill_worker()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    guard.wait_served()
    assert [actor.unexpected for actor in actors] == [[]] * len(actors)
    assert sum(actor.done for actor in actors) > 100
    # Also after kills: what a killed worker told the kernel, or forgot, is counted once.
    guard.forgotten()
    guard.compare()
