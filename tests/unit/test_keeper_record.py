"""Stories of the record: how it changes, what is kept of a change that broke off."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from keeperbench import Bench

from everup.keeper.record import Known, Record
from everup.keeper.voter import VoteState


def alone() -> Bench:
    """a is the only voter and holds the lease; b and the witness are there."""
    bench = Bench("a", "b", "witness", voters=("a",), listed=("a",))
    bench.run(200)
    bench.stand("a")
    bench.run(200)
    assert bench.holders() == ["a"]
    return bench


def trio() -> Bench:
    bench = alone()
    assert bench.propose("a", voters=["a", "b", "witness"], may_take_over=["a", "b"]) == ""
    bench.run(200)
    assert bench.last("proposed", "a")[1]["committed"]
    return bench


def test_a_change_is_stored_by_both_majorities_and_counts_as_a_lease() -> None:
    bench = trio()
    for name in bench.members:
        known = bench.disks[name].known
        assert known is not None
        assert known.record.voters == ("a", "b", "witness")
    bench.run(5000)
    assert bench.holders() == ["a"]
    assert "lease-lost" not in bench.kinds("a")


def test_everybody_learns_that_it_is_committed() -> None:
    bench = trio()
    bench.run(300)
    for name in bench.members:
        known = bench.disks[name].known
        assert known is not None
        assert known.committed, name


def test_shrunk_voters_leave_the_others_without_a_vote() -> None:
    bench = trio()
    bench.stop("b")
    bench.run(1000)
    assert bench.propose("a", voters=["a"], may_take_over=["a"]) == ""
    bench.run(300)
    assert bench.last("proposed", "a")[1]["committed"]
    bench.stop("witness")
    bench.run(5000)
    assert bench.holders() == ["a"], "a second loss does not stop the active"
    bench.stop("a")
    bench.start("b")
    bench.start("witness")
    bench.stand("b", ms=4000)
    bench.run(5000)
    assert bench.holders() == [], "the witness knows that b may not"


def test_a_voter_that_dies_while_it_is_added_does_not_stop_the_active() -> None:
    bench = alone()
    bench.held_disks |= {"b", "witness"}
    assert bench.propose("a", voters=["a", "b", "witness"]) == ""
    bench.run(100)
    bench.stop("b")
    bench.stop("witness")
    bench.run(3000)
    assert bench.holders() == ["a"]
    assert "lease-lost" not in bench.kinds("a")
    _, details = bench.last("proposed", "a")
    assert (details["committed"], details["reason"]) == (False, "no-majority")
    known = bench.keepers["a"].known
    assert known is not None
    assert known.committed
    assert known.record.voters == ("a",)


def test_voters_that_are_away_are_not_added() -> None:
    bench = alone()
    bench.isolate("a")
    bench.run(1000)
    assert bench.propose("a", voters=["a", "b", "witness"]) == "not-reachable"
    known = bench.keepers["a"].known
    assert known is not None
    assert known.committed


def test_one_change_at_a_time() -> None:
    bench = trio()
    bench.held_disks |= {"b", "witness"}
    assert bench.propose("a", mode="async") == ""
    assert bench.propose("a", mode="durable") == "in-progress"
    bench.free_disk("b")
    bench.run(100)
    assert bench.last("proposed", "a")[1]["committed"]


def test_what_is_refused() -> None:
    bench = trio()
    assert bench.propose("b", mode="async") == "not-the-holder"
    assert bench.propose("a", mode="durable") == "same"
    assert bench.propose("a", mode="often").startswith("bad-record")
    assert bench.propose("a", voters=["a", "x"]).startswith("bad-record: x is not a member")
    assert bench.propose("a", voters=["b"]).startswith("bad-record: the holder")
    assert bench.propose("a", voters=[]).startswith("bad-record")
    assert bench.propose("a", voter=["a"]).startswith("bad-record: unknown field")


def test_a_successor_finishes_what_it_finds() -> None:
    bench = trio()
    bench.run(300)
    bench.held_disks.add("witness")
    assert bench.propose("a", mode="async") == ""
    bench.stop("a")
    bench.free_disk("witness")
    bench.run(1000)
    bench.stand("b")
    bench.run(1500)
    assert bench.holders() == ["b"]
    known = bench.keepers["b"].known
    assert known is not None
    assert known.committed


def test_an_unfinished_addition_to_the_list_does_not_elect() -> None:
    """The active does not wait for a server before its addition is committed."""
    bench = trio()
    assert bench.propose("a", may_take_over=["a"]) == ""
    bench.run(300)
    bench.held_disks.add("witness")
    bench.blocked.add(("b", "a"))
    assert bench.propose("a", may_take_over=["a", "b"]) == ""
    bench.stop("a")
    bench.heal()
    bench.free_disk("witness")
    bench.run(1200)
    bench.stand("b")
    bench.run(3500)
    assert bench.holders() == []


def test_a_voter_without_memory_does_not_elect() -> None:
    bench = trio()
    bench.run(300)
    bench.stop("witness")
    bench.stop("a")
    bench.disks["witness"] = VoteState()
    bench.start("witness")
    bench.stand("b", ms=4000)
    bench.run(5000)
    assert bench.holders() == []
    assert bench.last("stood", "b")[1]["reason"] == "unknown-voter"


def test_a_voter_without_memory_votes_again_under_a_record_made_for_it() -> None:
    bench = trio()
    bench.run(300)
    before = bench.keepers["a"].known
    bench.stop("witness")
    bench.disks["witness"] = VoteState()
    bench.start("witness")
    bench.run(1500)
    after = bench.keepers["a"].known
    assert before is not None
    assert after is not None
    assert after.committed
    assert after.record.version == before.record.version + 1
    assert after.record.voters == before.record.voters
    bench.stop("b")
    bench.run(3000)
    assert bench.holders() == ["a"]


def test_a_new_voter_that_was_away_while_it_was_added_votes_in_the_end() -> None:
    bench = Bench("a", "b", "witness", voters=("a",), listed=("a",))
    bench.disks["witness"] = VoteState()
    bench.stop("witness")
    bench.run(100)
    bench.stand("a")
    bench.run(100)
    assert bench.propose("a", voters=["a", "b", "witness"]) == ""
    bench.run(500)
    bench.start("witness")
    bench.run(2000)
    bench.stop("b")
    bench.run(3000)
    assert bench.holders() == ["a"]


def test_force_makes_the_only_voter_and_the_old_holder_yields() -> None:
    bench = trio()
    bench.run(300)
    bench.isolate("b")
    bench.run(2000)
    bench.stand("b", ms=4000)
    bench.run(4500)
    assert bench.holders() == ["a"]
    bench.stand("b", ms=4000, force=True)
    bench.run(4500)
    assert sorted(bench.holders()) == ["a", "b"], "a person was asked and has said so"
    forced = bench.last("forced", "b")[1]
    assert forced["record"]["voters"] == ["b"]
    assert forced["epoch"] >= 1000
    bench.heal()
    bench.run(300)
    assert bench.holders() == ["b"]
    assert bench.last("lease-lost", "a")[1]["reason"].startswith("newer-epoch")
    known = bench.keepers["a"].known
    assert known is not None
    assert known.record.voters == ("b",)


def test_force_is_not_used_when_a_majority_agrees() -> None:
    bench = trio()
    bench.stop("a")
    bench.stand("b", ms=6000, force=True)
    bench.run(3000)
    assert bench.holders() == ["b"]
    assert bench.last("stood", "b")[1]["forced"] is False


def test_force_while_the_holder_is_heard_is_refused() -> None:
    bench = trio()
    bench.stand("b", ms=3000, force=True)
    bench.run(4000)
    assert bench.holders() == ["a"]
    assert bench.last("stood", "b")[1]["granted"] is False


def test_order_of_records() -> None:
    older = Record(9, 1, ("a",), ("a",), "async")
    newer = Record(2, 2, ("a",), ("a",), "async")
    assert newer.key > older.key
    joint = Known(newer, Record(1, 1, ("a", "b", "c"), ("a",), "async"))
    assert joint.quorum({"a", "b"})
    assert not joint.quorum({"a"})
    assert not joint.quorum({"b", "c"})
    assert joint.settled().quorum({"a"})


def test_a_lone_active_that_lost_power_while_it_added_voters_comes_back() -> None:
    bench = Bench("a", "b", "witness", voters=("a",), listed=("a",))
    for name in ("b", "witness"):
        bench.stop(name)
        bench.disks[name] = VoteState()
        bench.start(name)
    bench.run(1200)
    bench.stand("a")
    bench.run(200)
    bench.held_disks |= {"b", "witness"}
    assert bench.propose("a", voters=["a", "b", "witness"]) == ""
    bench.stop("a")
    for name in ("b", "witness"):
        bench.stop(name)
        bench.held_disks.discard(name)
        bench.start(name)
    bench.run(1500)
    bench.start("a")
    known = bench.keepers["a"].known
    assert known is not None
    assert not known.committed
    bench.run(1500)
    bench.stand("a")
    bench.run(3000)
    assert bench.holders() == ["a"]
    known = bench.keepers["a"].known
    assert known is not None
    assert known.committed
    assert known.record.voters == ("a", "b", "witness")


def test_a_change_is_not_told_before_it_is_stored_as_committed() -> None:
    bench = trio()
    assert bench.propose("a", mode="async") == ""
    bench.run(300)
    assert bench.last("proposed", "a")[1]["committed"]
    known = bench.disks["a"].known
    assert known is not None
    assert known.committed
    bench.run(300)
    assert bench.propose("a", mode="durable") == ""
    bench.held_disks.add("a")
    bench.run(400)
    assert bench.last("record-changed", "a")[1]["record"]["mode"] == "async"
    bench.free_disk("a")
    bench.run(100)
    assert bench.last("record-changed", "a")[1]["record"]["mode"] == "durable"
