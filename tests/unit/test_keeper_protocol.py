"""Stories of the keeper: who may hold the lease, and when."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from keeperbench import MS, START_NS, Bench

from everup.keeper.desk import Timing
from everup.keeper.voter import VoteState


def trio() -> Bench:
    """a, b and a witness; a holds the lease."""
    bench = Bench("a", "b", "witness", listed=("a", "b"))
    bench.run(200)
    bench.stand("a")
    bench.run(300)
    assert bench.holders() == ["a"]
    return bench


def test_a_single_voter_renews_by_itself() -> None:
    bench = Bench("a")
    bench.stand("a")
    bench.run(20_000)
    assert bench.holders() == ["a"]
    epoch, deadline_ns = bench.pages["a"]
    assert epoch == 1
    assert deadline_ns - bench.now_ns <= 950 * MS


def test_the_deadline_is_counted_from_before_the_request() -> None:
    bench = trio()
    bench.run(1000)
    _, deadline_ns = bench.pages["a"]
    bench.isolate("a")
    bench.run(2000)
    at_ms, details = bench.last("lease-lost", "a")
    assert details["reason"] == "expired"
    assert START_NS + at_ms * MS == pytest.approx(deadline_ns, abs=MS)


def test_failover_takes_about_one_lease() -> None:
    bench = trio()
    bench.run(1000)
    cut_ms = (bench.now_ns - START_NS) / MS
    bench.stop("a")
    bench.run(450)
    silent_ms, details = bench.last("peer-silent", "b")
    assert details == {"server": "a", "holder": True}
    assert 290 <= silent_ms - cut_ms <= 410
    bench.stand("b")
    bench.run(1000)
    won_ms, _ = bench.last("lease-won", "b")
    assert 740 <= won_ms - cut_ms <= 1010
    free_ms, _ = bench.last("lease-free", "b")
    assert won_ms - free_ms <= 3, "b stood at the moment at which the votes were free"


def test_a_server_that_cannot_win_disturbs_nobody() -> None:
    bench = trio()
    bench.isolate("b")
    bench.stand("b", ms=10_000)
    bench.run(5000)
    bench.heal()
    bench.run(8000)
    assert bench.holders() == ["a"]
    assert bench.keepers["b"].desk.voter.state.promised == 1
    _, details = bench.last("stood", "b")
    assert (details["granted"], details["reason"]) == (False, "granted-elsewhere")


def test_without_a_majority_nobody_wins() -> None:
    bench = trio()
    bench.stop("a")
    bench.stop("witness")
    bench.stand("b", ms=8000)
    bench.run(9000)
    assert bench.holders() == []


def test_only_the_list_may_stand() -> None:
    bench = trio()
    bench.run(500)
    assert bench.propose("a", may_take_over=["a"]) == ""
    bench.run(500)
    bench.stop("a")
    bench.stand("b")
    bench.run(3000)
    assert bench.holders() == []
    assert bench.last("stood", "b")[1]["reason"] == "not-on-list"


def test_a_stale_candidate_learns_the_record_from_the_replies() -> None:
    bench = trio()
    bench.isolate("b")
    bench.run(500)
    assert bench.propose("a", may_take_over=["a"]) == ""
    bench.run(500)
    assert bench.last("proposed", "a")[1]["committed"]
    bench.stop("a")
    bench.heal()
    bench.keepers["b"].desk.voter.state = bench.disks["b"]
    bench.stand("b", ms=5000)
    bench.run(6000)
    assert bench.holders() == []
    assert bench.last("stood", "b")[1]["reason"] == "not-on-list"


def test_release_lets_the_others_stand_at_once() -> None:
    bench = trio()
    bench.run(500)
    bench.do("a", bench.keepers["a"].release(bench.now_ns, silent_already=True))
    assert bench.pages["a"] == (1, 0)
    bench.stand("b")
    bench.run(10)
    assert bench.holders() == ["b"]


def test_a_release_that_is_not_silent_yet_frees_nobody() -> None:
    bench = trio()
    bench.run(500)
    bench.do("a", bench.keepers["a"].release(bench.now_ns, silent_already=False))
    bench.stand("b")
    bench.run(600)
    assert bench.holders() == []
    bench.run(500)
    assert bench.holders() == ["b"]


def test_a_restarted_voter_grants_nobody_anything_new() -> None:
    bench = trio()
    bench.run(1000)
    bench.stop("witness")
    bench.stop("a")
    bench.run(10)
    bench.start("witness")
    began_ns = bench.now_ns
    bench.stand("b", ms=5000)
    bench.run(3000)
    won_ms, _ = bench.last("lease-won", "b")
    assert START_NS + won_ms * MS - began_ns >= 1010 * MS


def test_a_restarted_voter_renews_what_it_had_granted() -> None:
    bench = trio()
    bench.stop("b")
    bench.stop("witness")
    bench.run(10)
    bench.start("witness")
    bench.run(3000)
    assert bench.holders() == ["a"]
    assert "lease-lost" not in bench.kinds("a")


def test_nothing_is_answered_before_it_is_stored() -> None:
    bench = Bench("a", "b", "witness", listed=("a", "b"))
    bench.run(200)
    bench.held_disks.add("witness")
    bench.isolate("b")
    bench.stand("a", ms=5000)
    bench.run(500)
    assert bench.holders() == []
    bench.free_disk("witness")
    bench.run(20)
    assert bench.holders() == ["a"]
    assert bench.disks["witness"].promised == bench.pages["a"][0]


def test_the_candidate_promises_before_it_asks_for_votes() -> None:
    bench = Bench("a", "b", "witness", listed=("a", "b"))
    bench.run(200)
    bench.held_disks.add("a")
    bench.stand("a", ms=5000)
    bench.run(300)
    assert bench.keepers["witness"].desk.voter.state.promised == 0
    bench.free_disk("a")
    bench.run(20)
    assert bench.holders() == ["a"]


def test_renewals_cost_no_disk() -> None:
    bench = trio()
    bench.run(500)
    bench.held_disks |= {"a", "b", "witness"}
    bench.run(5000)
    assert bench.holders() == ["a"]
    assert bench.unsaved == {}


def test_a_restarted_holder_goes_on_from_its_page() -> None:
    bench = trio()
    bench.stop("a", power=False)
    bench.run(150)
    bench.start("a")
    bench.run(2000)
    assert bench.holders() == ["a"]
    assert bench.pages["a"][0] == 1
    assert "lease-lost" not in bench.kinds("a")


def test_a_holder_that_lost_power_needs_a_new_epoch_and_need_not_wait() -> None:
    bench = trio()
    bench.stop("a")
    bench.run(100)
    bench.start("a")
    bench.run(150)
    bench.stand("a")
    bench.run(20)
    assert bench.holders() == ["a"]
    assert bench.pages["a"][0] == 2


def test_a_holder_mints_a_newer_epoch_without_a_gap() -> None:
    bench = trio()
    bench.run(500)
    bench.stand("a", minimum_epoch=7)
    bench.run(50)
    assert bench.holders() == ["a"]
    epoch, deadline_ns = bench.pages["a"]
    assert epoch == 7
    assert deadline_ns > bench.now_ns
    assert "lease-lost" not in bench.kinds("a")
    bench.run(5000)
    assert bench.pages["a"][0] == 7


def test_the_permission_of_the_agent_ends() -> None:
    bench = trio()
    bench.run(29_000)
    assert bench.holders() == ["a"]
    bench.run(2000)
    assert bench.holders() == []
    assert bench.last("lease-lost", "a")[1]["reason"] == "no-permission"


def test_a_newer_promise_is_told_and_does_not_end_the_lease() -> None:
    bench = trio()
    voter = bench.keepers["b"].desk.voter
    voter.state = VoteState(9, "b", voter.state.longest_lease_ns, voter.state.known)
    bench.run(1500)
    assert bench.holders() == ["a"]
    assert bench.last("newer-epoch", "a")[1]["epoch"] == 9


@pytest.mark.parametrize("factor", [0.5, 4])
def test_other_intervals_take_effect_without_a_gap(factor: float) -> None:
    """A grant counts for what its voter was asked for, not for what the settings say now."""
    bench = trio()
    bench.run(1000)
    old = bench.timing
    bench.timing = Timing(
        int(old.heartbeat_ns * factor), int(old.lease_ns * factor), int(old.renew_ns * factor)
    )
    for name in ("a", "b", "witness"):
        keeper = bench.keepers[name]
        bench.do(name, keeper.configure(bench.now_ns, bench.members, bench.timing))
        _, deadline_ns = bench.pages["a"]
        grants = [k.desk.voter.grant for k in bench.keepers.values()]
        kept = [g for g in grants if g is not None and g.until_ns > deadline_ns]
        assert len(kept) >= 2, "a majority of the voters waits longer than the holder acts"
        bench.run(100)
    bench.run(8000)
    assert "lease-lost" not in bench.kinds("a")
    _, deadline_ns = bench.pages["a"]
    left_ms = (deadline_ns - bench.now_ns) / MS
    assert 600 * factor < left_ms < 1000 * factor


def test_two_candidates_at_once_one_wins() -> None:
    bench = Bench("a", "b", "c")
    bench.run(200)
    bench.stand("a")
    bench.stand("b")
    bench.stand("c")
    bench.run(2900)
    assert len(bench.holders()) == 1


def test_after_both_had_no_power_they_come_back() -> None:
    bench = trio()
    bench.stop("a")
    bench.stop("b")
    bench.run(3000)
    bench.start("b")
    bench.run(1100)
    bench.stand("b")
    bench.run(100)
    assert bench.holders() == ["b"]
