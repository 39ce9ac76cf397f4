"""A sync that is interrupted at any moment ends whole, by itself; what the passive is meanwhile."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from interrupting import Interrupted
from replicating import wait_for

from everup.errors import EverupError

pytestmark = pytest.mark.fuse  # needs root: trusted extended attributes


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Interrupted]:
    made = Interrupted(tmp_path, 21, 16)
    try:
        yield made
    finally:
        made.stop()


def test_an_initial_sync_and_a_resync_are_interrupted_under_load(interrupted: Interrupted) -> None:
    """The short form; 30 of each kind of moment: `make soak PART=interruptions`."""
    interrupted.start()
    interrupted.interrupt(3)
    interrupted.settle()
    interrupted.unfinish()
    interrupted.interrupt(2)
    interrupted.compare()
    assert interrupted.told.during_sync >= 4, interrupted.told
    # By copying, not by chance: nothing had to be found by a later proof.
    assert "sync-unequal" not in interrupted.pair.alpha.log.read_text()


def test_between_begin_and_end_the_passive_is_nothing_that_could_take_over(
    interrupted: Interrupted,
) -> None:
    """In the middle, after a restart there, and with an active server that is gone for good."""
    interrupted.start()
    beta = interrupted.pair.beta
    interrupted.settle()
    interrupted.unfinish()
    state = wait_for(
        lambda: beta.call("status") if b"syncing" in beta.places.tree.read_bytes() else None, 10
    )
    interrupted.pair.alpha.kill()
    for _ in range(2):
        state = beta.call("status")
        assert state["tree"]["state"] == "syncing" and not state["consistent"], state
        assert not state["in_sync"]
        assert beta.call("seal", epoch=5)["position"] is None
        with pytest.raises(EverupError, match="at no position"):
            beta.call("drain")
        beta.kill()
        beta.start()
        beta.call("target")
    # The active server comes back in a newer epoch, and the resync begins anew.
    interrupted.pair.guard.open(6, "alpha")
    interrupted.pair.alpha.start()
    peers = [{"server": "beta", "addresses": ["127.0.0.99"]}]
    interrupted.pair.alpha.call("source", epoch=6, peers=peers)
    interrupted.compare()
