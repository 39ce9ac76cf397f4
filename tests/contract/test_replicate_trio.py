"""The third server: star and chain, changes of role, absences; nobody is compared anew for them."""

import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import wait_for
from trio import Trio
from workload import Workload

pytestmark = pytest.mark.fuse  # needs root: trusted extended attributes

SEGMENT_MIB = 17
"""More than a segment of the receive log: what is not kept on purpose is gone."""


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    made = Trio(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def work(trio: Trio, seed: int, steps: int = 40) -> None:
    workload = Workload(trio.guard, random.Random(seed))
    for _ in range(steps):
        workload.step()
    for object_id in workload.orphans:
        trio.guard.release(object_id)


def test_star_becomes_a_chain_and_back_while_everything_is_written(trio: Trio) -> None:
    trio.start()
    work(trio, 1)
    compared = trio.comparisons()
    trio.compare()
    assert trio.peer("gamma")["supplied_by"] == "alpha"
    trio.set_feed("chain")
    trio.wait_supplied("gamma", "beta")
    sent = trio.peer("gamma")["bytes_sent"]
    work(trio, 2)
    trio.write("passed-on", 3)
    trio.compare()
    end = trio.guard.end_batch()
    assert trio.peer("gamma")["bytes_sent"] == sent, "alpha sent it itself"
    assert trio.peer("gamma")["acknowledged"] == end.to_json()
    # An fsync that waits for gamma is answered by what beta passes on.
    wait_for(lambda: trio.guard.acknowledged.get("gamma") == end.sequence, 5, "acknowledged")
    wait_for(lambda: trio["gamma"].call("status")["in_sync"], 5, "gamma knows that it is in sync")
    wait_for(lambda: trio.peer("gamma")["send_queue"]["bytes"] == 0, 5, "nothing waits")
    trio.set_feed("star")
    trio.wait_supplied("gamma", "alpha")
    work(trio, 3)
    trio.compare()
    assert trio.comparisons() == compared


def test_the_server_that_passes_on_dies_and_returns(trio: Trio) -> None:
    trio.set_feed("chain", reload=False)
    trio.start()
    trio.wait_supplied("gamma", "beta")
    compared = trio.comparisons()
    work(trio, 4)
    trio["beta"].kill()
    work(trio, 5)
    trio.wait_supplied("gamma", "alpha")
    work(trio, 6)
    trio.compare("gamma")
    trio.revive("beta")
    trio.wait_in_sync("beta")
    trio.wait_supplied("gamma", "beta", 30)
    work(trio, 7)
    trio.compare()
    # The other end of the chain: gamma is away, and beta has kept what it lacks.
    trio["gamma"].kill()
    work(trio, 8)
    trio.revive("gamma")
    trio.wait_in_sync("gamma")
    trio.compare()
    assert trio.comparisons() == compared


def test_the_server_that_passes_on_cannot_write_what_it_receives(trio: Trio) -> None:
    """The third one is supplied past it, and stays so until it can."""
    trio.set_feed("chain", reload=False)
    trio.start()
    trio.wait_supplied("gamma", "beta")
    compared = trio.comparisons()
    beta = trio["beta"].process
    assert beta is not None
    unlimited = resource.prlimit(beta.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(beta.pid, resource.RLIMIT_FSIZE, (1 << 20, unlimited[1]))
    trio.write("more-than-beta-can-write", 4)
    wait_for(lambda: trio.peer("beta")["error"], 10, "beta says what is wrong")
    trio.wait_supplied("gamma", "alpha", 10)
    work(trio, 13)
    trio.compare("gamma")
    # Its relay is at rest too: else it takes the third one's stream away again and again.
    stays_until = time.monotonic() + 2.5
    while time.monotonic() < stays_until:
        peer = trio.peer("gamma")
        assert peer["in_sync"] and peer["supplied_by"] == "alpha", peer
        time.sleep(0.02)
    resource.prlimit(beta.pid, resource.RLIMIT_FSIZE, unlimited)
    trio.wait_in_sync("beta")
    trio.wait_supplied("gamma", "beta")
    trio.compare()
    assert trio.comparisons() == compared


def test_switchovers_of_the_pair_while_the_third_follows(trio: Trio) -> None:
    trio.start()
    compared = trio.comparisons()
    work(trio, 9)
    trio.hand_over("beta")
    work(trio, 10)
    trio.wait_in_sync("alpha", "gamma")
    trio.compare()
    trio.set_feed("chain")
    trio.wait_supplied("gamma", "alpha")
    work(trio, 11)
    trio.hand_over("alpha")
    work(trio, 12)
    trio.wait_in_sync("beta", "gamma")
    trio.wait_supplied("gamma", "beta")
    trio.compare()
    assert trio.comparisons() == compared
    assert trio["gamma"].call("status")["sync"]["state"] == "done"


def test_the_third_is_away_over_two_switchovers_and_is_streamed_to(trio: Trio) -> None:
    """What it lacks lies in the journal of one server and in the receive logs of both."""
    trio.start()
    compared = trio.comparisons()
    trio.settle()
    trio["gamma"].kill()
    trio.write("first", SEGMENT_MIB)
    trio.hand_over("beta")
    trio.write("second", SEGMENT_MIB)
    trio.wait_in_sync("alpha")
    trio.settle("alpha")
    trio.hand_over("alpha")
    trio.write("third", 2)
    trio.revive("gamma")
    trio.wait_in_sync("gamma")
    trio.compare("gamma")
    assert trio.peer("gamma")["code"] == "stream"
    assert trio.comparisons() == compared
    # Once everybody has it, nothing of it is kept.
    trio.wait_in_sync("beta")
    trio.write("fourth", SEGMENT_MIB)
    trio.settle()
    received = trio["beta"].places.receive

    def given_back() -> bool:
        trio.guard.write("fourth", 0, b"a checkpoint follows")
        return len(list(received.glob("*.segment"))) <= 2

    wait_for(given_back, 10, "room is given back")


def test_what_only_the_third_has_received_is_fetched_before_the_second_goes_on(trio: Trio) -> None:
    trio.start()
    compared = trio.comparisons()
    trio.settle()
    trio["beta"].kill()
    trio.write("only-on-gamma", 3)
    end = trio.guard.end_batch()
    wait_for(lambda: trio["gamma"].call("status")["received"] == end.to_json(), 10, "received")
    trio["alpha"].kill()
    trio.guard.stop()
    trio.revive("beta")
    assert not (trio["beta"].lower() / "only-on-gamma").exists()
    trio.promote("beta", ask=("gamma",))
    assert (trio["beta"].lower() / "only-on-gamma").stat().st_size == 3 << 20
    work(trio, 13)
    trio.wait_in_sync("gamma")
    trio.compare("gamma")
    assert trio.comparisons() == compared
    # Then beta is gone, too: the third goes on with everything.
    end = trio.guard.end_batch()
    trio["beta"].kill()
    trio.guard.stop()
    trio.promote("gamma")
    assert trio.guard.journal.position.sequence > end.sequence
    work(trio, 14)
    trio.revive("beta")
    trio.wait_in_sync("beta", seconds=30)
    trio.compare("beta")
