"""A clean stop and start of both servers costs no look at the trees, whatever they hold."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID, wait_for
from standin_guard import StandInGuard
from test_replicate_pair import Pair

from everup.replicate.treestate import AT, load_tree_state

pytestmark = pytest.mark.fuse  # mounts
FILES = 100_000
FAST_S = 1.0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    lowers = [server.lower() for server in (made.alpha, made.beta)]
    for path in lowers:
        # In memory: so many files are made and removed in a moment.
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True, timeout=10)
        path.chmod(0o755)
    try:
        yield made
    finally:
        made.stop()
        for path in lowers:
            subprocess.run(["umount", "--lazy", path], check=True, timeout=10)


def fill(root: Path) -> None:
    for number in range(FILES):
        if number % 1000 == 0:
            directory = root / f"d{number}"
            directory.mkdir()
        os.close(os.open(f"{directory}/f{number}", os.O_CREAT | os.O_WRONLY))


def test_fast_check_after_a_clean_stop_of_both(pair: Pair) -> None:
    pair.start()
    pair.guard.create("before")
    pair.wait_in_sync()
    pair.settle()
    end = pair.guard.close()
    wait_for(lambda: pair.beta.call("status")["received"] == end.to_json(), 10)
    pair.beta.call("drain")
    pair.alpha.stop()
    pair.beta.stop()
    pair.guard.stop()
    for server in (pair.alpha, pair.beta):
        assert load_tree_state(server.places.tree).state == AT
        # Behind everybody's back and with new times: whoever looked at the trees would take long.
        fill(server.lower())
    pair.guard = StandInGuard(pair.alpha.places, GROUP_ID)
    pair.guard.open(2, "alpha")
    pair.guard.serve()
    pair.alpha.start()
    pair.beta.start()
    began = time.monotonic()
    pair.beta.call("target")
    pair.source(2)
    pair.wait_in_sync()
    took = time.monotonic() - began
    assert pair.peer()["code"] == "stream" and pair.peer()["sync"] is None
    assert pair.beta.call("status")["sync"]["state"] == "none"
    assert took < FAST_S, took
    pair.guard.create("after")
    pair.settle()
    assert (pair.beta.lower() / "after").exists()
