"""A passive server passes on what is on its own disk, and nothing sooner."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from receiving_alone import Passive, frames_of, written_journal
from replicating import GROUP_ID, HIDDEN, Authority, Server, free_port, wait_for

from everup.config.load import load_group
from everup.model.position import ORIGIN
from everup.replicate.receivelog import ReceiveLog
from everup.replicate.relay import Relay
from everup.replicate.treestate import AT, TreeState, save_tree_state
from everup.system.files import Door

pytestmark = pytest.mark.fuse  # needs root: trusted extended attributes

NAMES = ("alpha", "beta", "gamma")


class SlowDisk(Door):
    """What is appended to the receive log is not on the disk before `let_go`."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.let_go.set()
        self.waiting = threading.Event()

    def fdatasync(self, operation: str, descriptor: int) -> None:
        if operation == "append-receive" and not self.let_go.is_set():
            self.waiting.set()
            self.let_go.wait(20)
        super().fdatasync(operation, descriptor)


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def gamma(authority: Authority, tmp_path: Path) -> Iterator[Server]:
    """The third server, at the beginning of the history."""
    made = Server(tmp_path, "gamma", authority, free_port(), names=NAMES, apart=True)
    lower = made.make_lower()
    os.setxattr(lower, "trusted.everup.group", GROUP_ID.encode())
    (lower / HIDDEN.decode()).mkdir(mode=0o700)
    (made.places.state / "trees.json").write_text("[1]")
    save_tree_state(made.places.tree, TreeState(AT, ORIGIN))
    log = ReceiveLog(made.places.receive)
    log.reset(ORIGIN)
    log.close()
    made.start()
    made.call("target")
    try:
        yield made
    finally:
        made.stop()


def test_what_is_not_durable_here_is_not_passed_on(
    authority: Authority, gamma: Server, tmp_path: Path
) -> None:
    source = written_journal(tmp_path / "alpha", 31, 120)
    disk = SlowDisk()
    beta = Passive(tmp_path / "beta", source, disk)
    authority.equip(beta.places, "beta")
    beta.places.group_settings.write_text(gamma.places.group_settings.read_text())
    beta.context.group = load_group(beta.places.group_settings)
    frames = frames_of(source)
    half = len(frames) // 2
    beta.receive(*(frame for frame, _ in frames[:half]))
    relay = Relay(beta.context, beta.target, "gamma", 1, gamma.port, lambda: None)
    beta.target.on_durable = relay.wake
    relay.start()
    first, last = frames[half - 1][1].to_json(), frames[-1][1].to_json()
    try:
        wait_for(lambda: gamma.call("status")["received"] == first, 10, "what is durable")
        disk.let_go.clear()
        rest = threading.Thread(target=lambda: beta.receive(*(frame for frame, _ in frames[half:])))
        rest.start()
        assert disk.waiting.wait(10)
        relay.wake()
        time.sleep(0.5)
        assert gamma.call("status")["received"] == first, "it was not on the disk of beta"
        disk.let_go.set()
        rest.join()
        wait_for(lambda: gamma.call("status")["received"] == last, 10, "the rest")

        def told() -> bool:
            durable = relay.report.durable
            return durable is not None and durable.position().to_json() == last

        wait_for(told, 5, "and the active server is told")
    finally:
        disk.let_go.set()
        relay.stop()
        beta.stop()
