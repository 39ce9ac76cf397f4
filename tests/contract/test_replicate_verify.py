"""Verification between two replicator processes: equality while writes go on, and repair."""

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import wait_for
from test_replicate_pair import Pair
from workload import Workload

from everup.errors import EverupError

Json = dict[str, Any]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """In sync, with a few files."""
    made = Pair(tmp_path)
    root = made.alpha.lower()
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(5):
            (root / name / f"file{number}").write_bytes(os.urandom(200_000))
    try:
        made.start()
        made.wait_in_sync()
        yield made
    finally:
        made.stop()


def verify(pair: Pair, trees: dict[str, str] | None = None) -> Json:
    """Verify with beta, and the result."""
    arguments = {} if trees is None else {"trees": trees}
    number = pair.alpha.call("verify", **arguments)["number"]

    def result() -> Json:
        return dict(pair.alpha.call("status")["verify"]["results"].get("beta") or {})

    wait_for(lambda: result().get("number") == number, 60, "the end of the verification")
    return result()


def test_equal_trees_are_proven_while_everything_is_written(pair: Pair) -> None:
    """No write disturbs it, and it disturbs nobody: the peer stays in sync all the time."""
    stop = threading.Event()
    lost: list[Json] = []
    work = Workload(pair.guard, random.Random(7))

    def write() -> None:
        while not stop.is_set():
            work.step()
            pair.guard.end_batch()

    def watch() -> None:
        while not stop.wait(0.02):
            peer = pair.peer()
            if not peer["in_sync"]:
                lost.append(peer)

    threads = [threading.Thread(target=each) for each in (write, watch)]
    for thread in threads:
        thread.start()
    try:
        results = [verify(pair) for _ in range(2)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for result in results:
        assert result["error"] is None
        assert result["objects"] > 5 and result["bytes"] > 0
        assert result["trees"]["1"]["out_of_sync"] == 0, result
    assert lost == []
    for object_id in work.orphans:
        pair.guard.release(object_id)
    pair.compare()


def test_a_whole_verification_is_noted_as_proof_on_the_passive(pair: Pair) -> None:
    before = pair.beta.call("status")["proven"]
    pair.guard.create("later")
    end = pair.guard.end_batch().to_json()
    result = verify(pair)
    assert (result["whole"], result["position"]) == (True, end)
    wait_for(lambda: pair.beta.call("status")["proven"]["position"] == end, 5, "the note")
    assert pair.beta.call("status")["proven"]["objects"] > before["objects"]
    assert verify(pair, {"1": "a"})["whole"] is False


def flip(path: Path) -> None:
    """One byte in the middle, as a bad disk does it: nobody is told, and the times stay."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(100_000)
        byte = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a byte": (lambda root: flip(root / "a/file1"), "a/file1"),
    "a mode": (lambda root: (root / "b/file2").chmod(0o777), "b/file2"),
    "a missing file": (lambda root: (root / "a/file3").unlink(), "a"),
    "a strange file": (lambda root: (root / "b/strange").write_bytes(b"x") and None, "b"),
    "an owner": (lambda root: os.chown(root / "b", 1234, 1234), "b"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_what_differs_is_named_and_repaired(pair: Pair, damage: str) -> None:
    change, named = DAMAGES[damage]
    change(pair.beta.lower())
    result = verify(pair)
    tree = result["trees"]["1"]
    assert named in tree["paths"], result
    assert tree["out_of_sync"] == len(tree["paths"]) <= 2
    assert tree["synchronized"] >= result["objects"] - 2
    wait_for(lambda: pair.peer()["sync"] is not None, 20, "the repair to begin")
    wait_for(lambda: pair.peer()["in_sync"], 30, "the repair")
    pair.compare()
    assert verify(pair)["trees"]["1"]["out_of_sync"] == 0


def test_only_what_was_asked_for_is_looked_at(pair: Pair) -> None:
    flip(pair.beta.lower() / "a/file1")
    result = verify(pair, {"1": "b"})
    assert result["trees"]["1"]["out_of_sync"] == 0
    assert result["objects"] == 6, "the directory and its files"
    assert verify(pair, {"1": "a/file1"})["trees"]["1"]["paths"] == ["a/file1"]


def test_nothing_to_verify_against_is_refused(pair: Pair) -> None:
    pair.beta.stop()
    wait_for(lambda: not pair.peer()["connected"], 10, "beta away")
    with pytest.raises(EverupError) as caught:
        pair.alpha.call("verify")
    assert caught.value.code == "no-peer-in-sync"


def test_a_peer_that_dies_ends_the_verification_with_a_reason(pair: Pair) -> None:
    for number in range(30):
        pair.guard.create(f"more{number}")
    pair.settle()
    number = pair.alpha.call("verify", gentle=True)["number"]
    pair.beta.kill()
    began = time.monotonic()

    def ended() -> bool:
        found = pair.alpha.call("status")["verify"]["results"].get("beta") or {}
        return found.get("number") == number and found["error"] is not None

    wait_for(ended, 15, "the end")
    assert time.monotonic() - began < 15


def test_a_part_never_takes_the_place_of_the_whole(pair: Pair) -> None:
    whole = verify(pair)
    part = verify(pair, {"1": "a"})
    verify_ = pair.alpha.call("status")["verify"]
    assert verify_["results"]["beta"]["number"] == part["number"]
    assert verify_["whole"]["beta"] == whole
    pair.beta.kill()
    wait_for(lambda: not pair.peer()["connected"], 10, "beta away")
    pair.alpha.stop()
    pair.alpha.start()
    pair.source()
    kept = pair.alpha.call("status")["verify"]
    assert kept["whole"]["beta"] == whole, "also over a restart"


def test_a_path_that_does_not_exist_is_refused(pair: Pair) -> None:
    before = pair.alpha.call("status")["verify"]
    with pytest.raises(EverupError) as caught:
        pair.alpha.call("verify", trees={"1": "a/nothing"})
    assert caught.value.code == "path-missing"
    assert pair.alpha.call("status")["verify"] == before


def test_nobody_waits_for_a_verification_that_nobody_asked_for(pair: Pair) -> None:
    """One that began by itself ends when somebody asks; the other way round it does not begin."""
    for number in range(40):
        (pair.alpha.lower() / f"large{number}").write_bytes(b"")
    slow = pair.alpha.call("verify", scheduled=True)["number"]
    asked = verify(pair)
    assert asked["error"] is None and asked["number"] == slow + 1 and not asked["scheduled"]


def test_an_orphan_on_the_passive_is_told_and_quarantined(pair: Pair) -> None:
    (pair.beta.lower() / "b/strange").write_bytes(b"by hand")
    result = verify(pair)
    assert result["trees"]["1"]["paths"] == ["b"]
    quarantine = pair.beta.places.quarantine
    wait_for(lambda: list(quarantine.glob("*/manifest.json")), 30, "the quarantine")
    wait_for(lambda: pair.peer()["in_sync"], 30, "the repair")
    pair.compare()
    (kept,) = quarantine.glob("*/before/*")
    assert kept.read_bytes() == b"by hand"
    assert "never came from an active server" in pair.beta.log.read_text()
