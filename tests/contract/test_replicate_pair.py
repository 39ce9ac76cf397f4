"""Two replicator processes over loopback: sync, stream, kills, refusals."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID, Authority, Server, differences, free_port, wait_for
from standin_guard import StandInGuard


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
