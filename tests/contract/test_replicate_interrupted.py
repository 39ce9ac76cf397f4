"""A sync that is interrupted at any moment ends whole, by itself; what the passive is meanwhile."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from interrupting import Interrupted
from replicating import wait_for

from everup.errors import EverupError
from everup.journal.writer import JournalWriter

pytestmark = pytest.mark.fuse  # needs root: trusted extended attributes


@pytest.fixture
def interrupted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Interrupted]:
    """8 MiB, or as many as a test asks for."""
    made = Interrupted(tmp_path, 21, getattr(request, "param", 8))
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("interrupted", [16], indirect=True)
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


def test_what_a_copy_reads_again_is_kept_until_it_has_read_it(interrupted: Interrupted) -> None:
    """The stream goes on during a copy and its peer acknowledges it, so nothing else would keep
    the segments in which the copy looks for what was renamed meanwhile."""
    pair = interrupted.pair
    pair.guard.journal = JournalWriter(pair.alpha.places.journal, segment_bytes=1 << 20)
    for number in range(24):
        (pair.alpha.lower() / f"large_more{number}").write_bytes(os.urandom(1 << 20))
    interrupted.start(writing=False)
    journal = pair.alpha.places.journal
    segments = 1
    while not pair.peer()["in_sync"]:
        pair.guard.write("large_more0", 0, os.urandom(256 << 10))
        pair.guard.end_batch()
        segments = max(segments, len(list(journal.glob("*.segment"))))
        time.sleep(0.05)
    assert segments > 3, "something was there to be released"
    wait_for(lambda: len(list(journal.glob("*.segment"))) <= 2, 10, "released")
    interrupted.compare()
    log = pair.alpha.log.read_text()
    assert log.count("resync-started") == 1 and "not in this journal" not in log, log
