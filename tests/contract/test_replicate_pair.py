"""Two replicator processes over loopback: sync, stream, kills, refusals."""

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID, Authority, Server, differences, free_port, object_ids, wait_for
from standin_guard import StandInGuard
from workload import Workload


class Pair:
    """alpha is the source with a stand-in guard, beta the target."""

    def __init__(self, base: Path) -> None:
        self.authority = Authority()
        self.port = free_port()
        self.alpha = Server(base, "alpha", self.authority, self.port)
        self.beta = Server(base, "beta", self.authority, self.port)
        self.alpha.make_lower()
        self.beta.make_lower()
        self.guard = StandInGuard(self.alpha.places, GROUP_ID)

    def start(self, epoch: int = 1) -> None:
        self.guard.open(epoch, "alpha")
        self.guard.serve()
        self.alpha.start()
        self.beta.start()
        self.beta.call("target")
        self.source(epoch)

    def source(self, epoch: int = 1) -> None:
        peers = [{"server": "beta", "addresses": ["127.0.0.1"]}]
        self.alpha.call("source", epoch=epoch, peers=peers)

    def peer(self) -> dict:
        return self.alpha.call("status")["peers"][0]

    def wait_in_sync(self, seconds: float = 30) -> None:
        wait_for(lambda: self.peer()["in_sync"], seconds, "in sync")

    def settle(self, seconds: float = 30) -> None:
        """Everything that was done is applied on beta."""
        end = self.guard.end_batch().to_json()
        wait_for(
            lambda: self.beta.call("status")["applied"] == end and self.peer()["in_sync"],
            seconds,
            f"applied {end}: {self.beta.call('status')}",
        )

    def compare(self) -> None:
        self.settle()
        assert differences(self.alpha.lower(), self.beta.lower()) == []

    def stop(self) -> None:
        self.alpha.stop()
        self.beta.stop()
        self.guard.stop()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def test_initial_sync_then_stream(pair: Pair) -> None:
    root = pair.alpha.lower()
    (root / "before").mkdir()
    (root / "before/data").write_bytes(os.urandom(300_000))
    (root / "before/small").write_bytes(b"small")
    os.symlink("data", root / "before/link")
    os.link(root / "before/data", root / "hard")
    pair.start()
    pair.wait_in_sync()
    assert differences(root, pair.beta.lower()) == []
    guard = pair.guard
    guard.create("file")
    guard.write("file", 0, os.urandom(8192))
    guard.create("directory", 0o40755)
    guard.rename("file", "directory/moved")
    guard.set_xattr("directory/moved", "user.note", b"value")
    guard.attributes("directory/moved", mode=0o4711, owner=(7, 8))
    pair.compare()


def run_workload(pair: Pair, seed: int, steps: int, pause: float = 0.001) -> None:
    workload = Workload(pair.guard, random.Random(seed))
    for _ in range(steps):
        workload.step()
        time.sleep(pause)
    for object_id in workload.orphans:
        pair.guard.release(object_id)


def fill(root: Path, seed: int, count: int = 60) -> None:
    """A tree that nobody journaled: what was there before it was protected."""
    chooser = random.Random(seed)
    directories = [root]
    for number in range(count):
        parent = chooser.choice(directories)
        kind = chooser.random()
        path = parent / chooser.choice([f"n{number}", chr(97 + number % 6)])
        if path.exists() or path.is_symlink():
            continue
        if kind < 0.2:
            path.mkdir(mode=0o750)
            directories.append(path)
        elif kind < 0.3:
            path.symlink_to("nowhere")
        elif kind < 0.4:
            with path.open("wb") as file:
                file.seek(chooser.randrange(3 << 20))
                file.write(b"end")
        else:
            path.write_bytes(chooser.randbytes(chooser.choice([0, 10, 5000, 400_000])))
            os.setxattr(path, "user.seed", str(number).encode())
            path.chmod(chooser.choice([0o600, 0o644, 0o4755]))


def test_an_idle_source_learns_what_its_peer_has_applied(pair: Pair) -> None:
    """Nothing is written after the copy or after a reconnection: a switchover asks for it."""
    (pair.alpha.lower() / "file").write_bytes(b"content")
    pair.start()
    pair.wait_in_sync()
    end = pair.guard.end_batch().to_json()
    wait_for(lambda: pair.peer()["applied"] == end, 10, "applied after the copy")
    pair.beta.kill()
    pair.beta.start()
    pair.beta.call("target")
    wait_for(lambda: pair.beta.call("status")["applied"] == end, 10, "beta knows its position")
    wait_for(lambda: pair.peer()["connected"] and pair.peer()["in_sync"], 10, "in sync again")
    wait_for(lambda: pair.peer()["applied"] == end, 10, "applied after the reconnection")


@pytest.mark.parametrize("seed", range(4))
def test_sync_of_a_busy_tree_onto_another_one(pair: Pair, seed: int) -> None:
    """The target has other data under the same names; the source is written all the time."""
    fill(pair.alpha.lower(), seed)
    fill(pair.beta.lower(), seed + 1000)
    pair.start()
    run_workload(pair, seed, 300, 0.004)
    pair.wait_in_sync()
    run_workload(pair, seed + 50, 60)
    pair.compare()
    assert "apply-stopped" not in pair.beta.log.read_text()
    ids = object_ids(pair.alpha.lower()), object_ids(pair.beta.lower())
    assert all(ids[1][path] == object_id for path, object_id in ids[0].items() if object_id)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_any_moment_leave_identical_trees(pair: Pair, seed: int) -> None:
    """SIGKILL of either replicator, also in the middle of the first sync, under a writing load."""
    fill(pair.alpha.lower(), seed, 40)
    pair.start()
    chooser = random.Random(seed + 77)
    stop = threading.Event()

    def write() -> None:
        workload = Workload(pair.guard, random.Random(seed))
        while not stop.is_set():
            workload.step()
            time.sleep(0.003)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            time.sleep(chooser.uniform(0.05, 1.5))
            if chooser.random() < 0.4:
                pair.alpha.kill()
                pair.alpha.start()
                pair.source()
            else:
                pair.beta.kill()
                pair.beta.start()
                pair.beta.call("target")
    finally:
        stop.set()
        writer.join()
    pair.wait_in_sync()
    pair.compare()
    # ... by applying, not by a repair afterwards.
    assert "apply-stopped" not in pair.beta.log.read_text()
    assert "sync-unequal" not in pair.alpha.log.read_text()


def test_a_write_to_a_hard_link_whose_name_the_source_forgot_is_applied(pair: Pair) -> None:
    """The guard knows one name of an object; when that one goes, its records carry no path."""
    pair.start()
    pair.wait_in_sync()
    guard = pair.guard
    guard.create("first")
    guard.write("first", 0, b"a" * 5000)
    guard.link("first", "second")
    guard.unlink("first")
    pair.settle()
    time.sleep(1.5)  # a checkpoint, so that nothing of this is replayed
    pair.beta.kill()
    pair.beta.start()
    pair.beta.call("target")
    guard._hint = lambda path: b""  # type: ignore[method-assign]
    guard.write("second", 100, b"b" * 5000)
    guard.truncate("second", 4000)
    pair.compare()
