"""Roles that change: switchover without resync, rejoin with a bundle, seals, refusals."""

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID, Authority, Server, differences, free_port, wait_for
from standin_guard import StandInGuard
from test_replicate_pair import Pair, run_workload
from workload import Workload

from everup.errors import EverupError
from everup.journal.unclean import note_unclean_epoch
from everup.journal.writer import CAUSE_FSYNC
from everup.model.position import Position


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def promote_beta(pair: Pair, epoch: int) -> StandInGuard:
    """What the agent does on the passive server: seal, drain, open, source."""
    sealed = pair.beta.call("seal", epoch=epoch)["position"]
    drained = pair.beta.call("drain")["position"]
    assert drained == sealed
    guard = StandInGuard(pair.beta.places, GROUP_ID)

    guard.open(epoch, "beta", Position.from_json(drained))
    guard.serve()
    peers = [{"server": "alpha", "addresses": ["127.0.0.1"]}]
    pair.beta.call("source", epoch=epoch, peers=peers)
    return guard


def wait_back(pair: Pair, guard: StandInGuard) -> dict:
    """alpha is in sync as passive, and has applied everything of beta."""
    wait_for(lambda: pair.beta.call("status")["peers"][0]["in_sync"], 30, "in sync")
    end = guard.end_batch().to_json()
    wait_for(lambda: pair.alpha.call("status")["applied"] == end, 30, "applied")
    return pair.beta.call("status")["peers"][0]


def test_switchover_streams_and_costs_no_resync(pair: Pair) -> None:
    pair.start()
    run_workload(pair, 5, 80)
    pair.wait_in_sync()
    pair.settle()
    final = pair.guard.close()
    wait_for(lambda: pair.beta.call("status")["received"] == final.to_json(), 10)
    pair.alpha.call("stop")
    pair.guard.stop()
    guard = promote_beta(pair, 2)
    try:
        pair.alpha.call("target")
        workload = Workload(guard, random.Random(6))
        for _ in range(80):
            workload.step()
        peer = wait_back(pair, guard)
        assert peer["code"] == "stream" and peer["sync"] is None
        assert pair.alpha.call("status")["sync"]["state"] == "none"
        assert differences(pair.beta.lower(), pair.alpha.lower()) == []
        # ... and back again.
        final = guard.close()
        wait_for(lambda: pair.alpha.call("status")["received"] == final.to_json(), 10)
        pair.beta.call("stop")
        assert pair.alpha.call("seal", epoch=3)["position"] == final.to_json()
        assert pair.alpha.call("drain")["position"] == final.to_json()
    finally:
        guard.stop()


def test_the_same_source_goes_on_in_a_newer_epoch_and_its_peer_lacks_the_tail(pair: Pair) -> None:
    """The lease ended and nobody else won: what is left of the older epoch is streamed too."""
    pair.start()
    run_workload(pair, 7, 60)
    pair.wait_in_sync()
    pair.settle()
    pair.beta.kill()
    run_workload(pair, 8, 60)
    pair.guard.close()
    pair.alpha.call("stop")
    pair.guard.open(2, "alpha")
    run_workload(pair, 9, 60)
    pair.source(2)
    pair.beta.start()
    pair.beta.call("target")
    pair.beta.call("seal", epoch=2)
    pair.beta.call("target")
    pair.wait_in_sync()
    assert pair.peer()["code"] == "stream", pair.peer()
    pair.compare()


def test_what_the_old_active_wrote_alone_is_kept(pair: Pair) -> None:
    pair.start()
    guard = pair.guard
    guard.create("shared")
    guard.write("shared", 0, b"both have this" + bytes(200_000))
    guard.create("doomed")
    guard.write("doomed", 0, b"only alpha changes this again")
    pair.wait_in_sync()
    pair.settle()
    # alpha is cut off: what it writes from here on reaches nobody.
    pair.alpha.kill()
    guard.write("shared", 100_000, b"only alpha wrote this")
    guard.create("lonely")
    guard.write("lonely", 0, b"lonely content")
    guard.end_batch(CAUSE_FSYNC)
    guard.stop()
    other = promote_beta(pair, 2)
    try:
        other.write("shared", 0, b"beta goes on")
        other.unlink("doomed")
        pair.alpha.start()
        pair.alpha.call("target")
        wait_back(pair, other)
        assert differences(pair.beta.lower(), pair.alpha.lower()) == []
        bundles = list(pair.alpha.places.divergence.iterdir())
        assert len(bundles) == 1
        manifest = json.loads((bundles[0] / "manifest.json").read_text())
        sides = [entry["before"] for entry in manifest["objects"] if entry["before"]]
        kept = {side["path"]: side for side in sides}
        assert {"shared", "lonely"} <= kept.keys()
        shared = (bundles[0] / kept["shared"]["file"]).read_bytes()
        assert shared[100_000:100_021] == b"only alpha wrote this"
        assert (bundles[0] / kept["lonely"]["file"]).read_bytes() == b"lonely content"
        assert manifest["fork"]["epoch"] == 1
    finally:
        other.stop()


def test_seal_holds_across_a_kill(pair: Pair) -> None:
    pair.start()
    pair.wait_in_sync()
    sealed = pair.beta.call("seal", epoch=7)["position"]
    pair.guard.create("late")
    pair.guard.end_batch()
    wait_for(lambda: pair.peer()["code"] == "sealed-epoch", 10, "refused")
    pair.beta.kill()
    pair.beta.start()
    assert pair.beta.call("status")["sealed_epoch"] == 7
    assert pair.beta.call("seal", epoch=7)["position"] == sealed
    pair.beta.call("target")
    wait_for(lambda: "promised" in pair.peer()["sentence"], 10)
    assert not (pair.beta.lower() / "late").exists()
    with pytest.raises(EverupError, match="promised"):
        pair.beta.call("source", epoch=6, peers=[])


@pytest.mark.parametrize("case", ["foreign-group", "foreign-certificate", "unknown-server"])
def test_a_stranger_is_refused_and_nothing_changes(tmp_path: Path, case: str) -> None:
    authority, port = Authority(), free_port()
    beta = Server(tmp_path, "beta", authority, port)
    theirs = Authority("another") if case == "foreign-certificate" else authority
    name = "alpha" if case != "unknown-server" else "gamma"
    group = "ee" * 16 if case == "foreign-group" else GROUP_ID
    names = ("alpha", "beta") if name == "alpha" else ("gamma", "beta")
    alpha = Server(tmp_path, name, theirs, port, group_id=group, names=names)
    alpha.make_lower()
    beta.make_lower()
    (beta.lower() / "mine").write_bytes(b"untouched")
    guard = StandInGuard(alpha.places, group)
    guard.open(1, name)
    guard.serve()
    try:
        alpha.start()
        beta.start()
        beta.call("target")
        before = beta.call("status")
        alpha.call("source", epoch=5, peers=[{"server": "beta", "addresses": ["127.0.0.1"]}])
        code = {"foreign-certificate": "not-connected"}.get(case, case)
        peer = wait_for(
            lambda: next((p for p in alpha.call("status")["peers"] if p["code"] == code), None),
            10,
            str(alpha.call("status")["peers"]),
        )
        assert not peer["in_sync"] and peer["sentence"]
        after = beta.call("status")
        assert after == before
        assert os.listdir(beta.lower()) == ["mine"]
    finally:
        alpha.stop()
        beta.stop()
        guard.stop()


def test_an_emptied_source_does_not_empty_the_target(pair: Pair) -> None:
    """The tree of the source is gone (an unmounted disk): its marker is missing, so is the sync."""
    for number in range(300):
        (pair.alpha.lower() / f"file{number}").write_bytes(b"x")
    pair.start()
    pair.wait_in_sync()
    pair.settle()
    pair.alpha.kill()
    pair.beta.kill()
    pair.beta.places.tree.write_text('{"state": "open", "epoch": 1, "server": "beta"}')
    hidden = pair.alpha.base / "hidden"
    pair.alpha.lower().rename(hidden)
    pair.alpha.make_lower()
    pair.alpha.start()
    pair.beta.start()
    pair.beta.call("target")
    pair.source()
    wait_for(lambda: pair.peer()["code"] == "tree-marker", 10, "marker")
    assert len(os.listdir(pair.beta.lower())) == 301
    # With the marker, but nearly empty: a person is asked first.
    os.setxattr(pair.alpha.lower(), "trusted.everup.group", GROUP_ID.encode())
    wait_for(lambda: pair.peer()["code"] == "mass-delete", 20, "mass delete")
    kept = sum(len(files) for _, _, files in os.walk(pair.beta.lower()))
    assert kept == 300
    pair.beta.call("allow_removals")
    wait_for(lambda: pair.peer()["in_sync"], 20, "in sync")
    assert os.listdir(pair.beta.lower()) == [".everup-orphans"]


def test_a_copy_that_was_not_proven_is_proven_before_it_counts(pair: Pair) -> None:
    (pair.alpha.lower() / "file").write_bytes(bytes(range(256)) * 1000)
    pair.start()
    pair.wait_in_sync()
    assert not (pair.beta.places.state / "unproven.json").exists()
    pair.settle()
    pair.beta.kill()
    (pair.beta.places.state / "proven.json").unlink()
    (pair.beta.places.state / "unproven.json").write_text("{}")
    pair.beta.start()
    pair.beta.call("target")
    wait_for(lambda: (pair.beta.places.state / "proven.json").exists(), 20, "proven")
    pair.wait_in_sync()
    assert not (pair.beta.places.state / "unproven.json").exists()


def test_a_silently_changed_passive_is_found_by_the_proof(pair: Pair) -> None:
    """The proof can fail: a block that differs is never called in sync."""
    (pair.alpha.lower() / "file").write_bytes(bytes(range(256)) * 1000)
    pair.start()
    pair.wait_in_sync()
    pair.settle()
    pair.beta.kill()
    times = os.stat(pair.beta.lower() / "file")
    with (pair.beta.lower() / "file").open("r+b") as file:
        file.seek(130_000)
        file.write(b"rot")
    os.utime(pair.beta.lower() / "file", ns=(times.st_atime_ns, times.st_mtime_ns))
    (pair.beta.places.state / "unproven.json").write_text("{}")
    pair.beta.start()
    pair.beta.call("target")
    wait_for(lambda: pair.peer()["code"] == "sync-unequal", 30, "found")
    assert not pair.peer()["in_sync"]
    # ... and it is repaired by a comparison of everything.
    pair.wait_in_sync()
    assert differences(pair.alpha.lower(), pair.beta.lower()) == []


def test_a_peer_from_before_an_unclean_stop_is_compared(pair: Pair) -> None:
    pair.guard.open(1, "alpha")
    pair.guard.create("file")
    pair.guard.write("file", 0, b"on the disk of beta")
    pair.guard.serve()
    pair.alpha.start()
    pair.beta.start()
    pair.beta.call("target")
    pair.source()
    pair.wait_in_sync()
    pair.settle()
    pair.alpha.kill()
    # A power cut: what was not synced is gone from alpha's tree, beta still has it.
    (pair.alpha.lower() / "file").write_bytes(b"on the ")
    note_unclean_epoch(pair.alpha.places.state, 2)
    pair.guard.end_batch()
    pair.guard.open(2, "alpha")
    pair.alpha.start()
    pair.source(2)
    pair.wait_in_sync()
    pair.compare()
    assert (pair.beta.lower() / "file").read_bytes() == b"on the "


def test_a_tree_that_somebody_changed_stops_the_apply_and_is_repaired(pair: Pair) -> None:
    guard = pair.guard
    pair.start()
    guard.create("file")
    pair.wait_in_sync()
    pair.settle()
    proven = pair.beta.call("status")["proven"]
    (pair.beta.lower() / "other").write_bytes(b"somebody was here")
    guard.create("other")
    guard.write("other", 0, b"mine")
    guard.end_batch()
    error = wait_for(lambda: pair.beta.call("status")["apply_error"], 10, "stopped")
    assert error["code"] == "apply-conflict" and "other" in error["sentence"]
    assert not pair.peer()["in_sync"]
    # Also a restart does not talk it away.
    pair.beta.kill()
    pair.beta.start()
    pair.beta.call("target")
    wait_for(lambda: pair.beta.call("status")["proven"] != proven, 60, "compared and proven")
    pair.wait_in_sync()
    pair.compare()
