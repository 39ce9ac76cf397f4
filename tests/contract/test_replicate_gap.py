"""What the journal lacks, a peer gets by comparison: a gap, damage, and segments that are gone."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import wait_for
from test_replicate_pair import Pair

from everup.journal.segment import HEADER_BYTES, list_segments
from everup.journal.writer import JournalWriter

pytestmark = pytest.mark.fuse  # needs root: mounts, trusted extended attributes


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    made.guard.journal = JournalWriter(made.alpha.places.journal, segment_bytes=1 << 20)
    try:
        yield made
    finally:
        made.stop()


def busy(pair: Pair, name: str, mebibytes: int = 3) -> None:
    pair.guard.create(name)
    for number in range(mebibytes):
        pair.guard.write(name, number << 20, os.urandom(1 << 20))
        pair.guard.end_batch()


def test_nobody_is_streamed_over_a_gap(pair: Pair) -> None:
    """And only what was changed meanwhile is compared: the dirty map knows it."""
    pair.start()
    pair.wait_in_sync()
    busy(pair, "before", 6)
    pair.settle()
    whole = pair.beta.call("status")["proven"]["position"]
    with pair.guard.journal_failing():
        pair.guard.write("before", 100, b"not recorded")
        pair.guard.create("new")
        pair.guard.write("new", 0, b"not recorded either")
        pair.guard.rename("before", "moved")
    busy(pair, "after", 1)
    pair.settle(40)
    pair.compare()
    assert pair.peer()["code"] == "stream", pair.peer()
    log = pair.alpha.log.read_text()
    assert "the content of 2 objects is compared" in log or "of 3 objects" in log, log
    proven = pair.beta.call("status")["proven"]
    assert proven["position"] == whole, "the whole tree was not looked at again"
    assert proven["touched"]["bytes"] < 3 << 20, proven
    assert "divergence" not in pair.beta.log.read_text(), "nothing was there only"


def test_a_peer_that_was_away_during_two_gaps(pair: Pair) -> None:
    """From the journal, a map, the journal, another map, and what follows."""
    pair.start()
    pair.wait_in_sync()
    for name in ("one", "two", "three", "untouched"):
        busy(pair, name)
    pair.settle()
    pair.beta.kill()
    pair.guard.write("one", 100, b"recorded")
    with pair.guard.journal_failing():
        pair.guard.write("two", 100, b"not recorded")
    pair.guard.write("one", 200, b"recorded between")
    with pair.guard.journal_failing():
        pair.guard.truncate("three", 70_000)
    busy(pair, "after", 1)
    pair.beta.start()
    pair.beta.call("target")
    pair.settle(40)
    pair.compare()
    assert "the content of 4 objects is compared" in pair.alpha.log.read_text()


@pytest.mark.parametrize("loss", ["removed", "damaged", "overflow"])
def test_without_a_dirty_map_everything_is_compared(pair: Pair, loss: str) -> None:
    pair.start()
    pair.wait_in_sync()
    busy(pair, "before")
    pair.settle()
    pair.beta.kill()
    with pair.guard.journal_failing():
        pair.guard.write("before", 100, b"not recorded")
        if loss == "overflow":
            pair.guard.lose_dirty_map()
    maps = list((pair.alpha.places.state / "dirty").glob("*.map"))
    assert len(maps) == (0 if loss == "overflow" else 1)
    for path in maps:
        if loss == "removed":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"x")
    pair.beta.start()
    pair.beta.call("target")
    pair.settle(40)
    pair.compare()
    assert "objects is compared" not in pair.alpha.log.read_text()


def test_damage_inside_the_journal_costs_a_comparison(pair: Pair) -> None:
    """A peer that stands before it cannot be streamed; it is said where, and the link goes on."""
    pair.start()
    pair.wait_in_sync()
    pair.beta.kill()
    busy(pair, "file", 4)
    pair.guard.end_batch()
    segment = list_segments(pair.alpha.places.journal)[-3].path
    data = bytearray(segment.read_bytes())
    data[HEADER_BYTES + 200] ^= 1
    segment.write_bytes(data)
    pair.beta.start()
    pair.beta.call("target")
    pair.settle(40)
    pair.compare()
    log = pair.alpha.log.read_text()
    assert "cannot be read from there on" in log and segment.name in log


def test_what_waits_is_known_while_the_peer_is_away(pair: Pair) -> None:
    """Bytes, operations and age, also after the replicator was killed and started again."""
    pair.start()
    pair.wait_in_sync()
    busy(pair, "before")
    pair.settle()
    wait_for(lambda: pair.peer()["send_queue"]["bytes"] == 0, 5, "nothing waits")
    assert pair.peer()["send_queue"] == {
        "bytes": 0,
        "operations": 0,
        "oldest_ms": 0,
        "memory_bytes": 0,
    }
    pair.beta.kill()
    wait_for(lambda: not pair.peer()["connected"], 10)
    busy(pair, "while-away", 5)
    first = pair.peer()["send_queue"]
    assert 5 << 20 < first["bytes"] < 5.1 * (1 << 20), first
    assert 6 <= first["operations"] <= 30
    later = wait_for(
        lambda: (q := pair.peer()["send_queue"])["oldest_ms"] > first["oldest_ms"] + 300 and q, 5
    )
    assert later["bytes"] == first["bytes"]
    pair.alpha.kill()
    pair.alpha.start()
    pair.source()
    again = pair.peer()
    assert again["send_queue"]["bytes"] == first["bytes"]
    assert again["send_queue"]["oldest_ms"] >= later["oldest_ms"]
    pair.beta.start()
    pair.beta.call("target")
    pair.settle()
    wait_for(lambda: pair.peer()["send_queue"]["bytes"] == 0, 5, "nothing waits")
    pair.compare()


def test_what_was_acknowledged_does_not_wait(tmp_path: Path) -> None:
    """Within one segment, which retention leaves alone."""
    pair = Pair(tmp_path)
    try:
        pair.start()
        pair.wait_in_sync()
        busy(pair, "before", 2)
        pair.settle()
        wait_for(lambda: pair.peer()["send_queue"]["bytes"] == 0, 5, "nothing waits")
        pair.beta.kill()
        busy(pair, "while-away", 1)
        assert 1 << 20 < pair.peer()["send_queue"]["bytes"] < 2 << 20
    finally:
        pair.stop()


def test_a_peer_of_which_nothing_is_known_lacks_everything(pair: Pair) -> None:
    pair.guard.open(1, "alpha")
    pair.guard.serve()
    busy(pair, "file", 2)
    pair.alpha.start()
    pair.source()
    assert pair.peer()["send_queue"]["bytes"] > 2 << 20


def test_what_the_quota_drops_is_said_and_compared(tmp_path: Path) -> None:
    """Overflow of the queue on disk: the source goes on, warns on the way, and names the peer."""
    pair = Pair(tmp_path)
    settings = pair.alpha.places.group_settings
    try:
        settings.write_text(settings.read_text().replace(str(4 << 30), str(8 << 20)))
        pair.guard.journal = JournalWriter(pair.alpha.places.journal, segment_bytes=1 << 20)
        untouched = 40 << 20
        (pair.alpha.lower() / "untouched").write_bytes(os.urandom(untouched))
        pair.start()
        pair.wait_in_sync()
        pair.settle()
        pair.beta.kill()
        busy(pair, "first", 7)
        log = pair.alpha.log
        wait_for(lambda: "journal-quota: the journal holds" in log.read_text(), 10, "a warning")
        busy(pair, "second", 12)
        wait_for(lambda: "queue-dropped" in log.read_text(), 10, "the drop is said")

        def kept() -> int:
            return sum(info.byte_count for info in list_segments(pair.alpha.places.journal))

        wait_for(lambda: kept() <= 10 << 20, 10, "the journal keeps to its quota")
        # Raised live: nothing more is dropped.
        settings.write_text(settings.read_text().replace(str(8 << 20), str(1 << 30)))
        pair.alpha.call("reload")
        wait_for(lambda: pair.guard.quota_bytes == 1 << 30, 10, "the guard knows it")
        pair.beta.start()
        pair.beta.call("target")
        pair.settle(40)
        pair.compare()
        assert "beta lacks" in log.read_text()
        # Looked through before it went: only what was changed in there is compared.
        sync = pair.beta.call("status")["sync"]
        assert "what was changed since is known" in log.read_text(), log.read_text()
        assert sync["compared_bytes"] < 25 << 20 and untouched > 30 << 20, sync
    finally:
        pair.stop()


def test_a_narrowed_copy_that_is_broken_off_stays_narrowed(pair: Pair) -> None:
    """By a kill on either side: what was changed since is still known, the rest still equal."""
    untouched = 60 << 20
    (pair.alpha.lower() / "untouched").write_bytes(os.urandom(untouched))
    pair.start()
    pair.wait_in_sync()
    busy(pair, "before", 2)
    pair.settle()
    with pair.guard.journal_failing():
        pair.guard.create("new")
        for number in range(24):
            pair.guard.write("new", number << 20, os.urandom(1 << 20))
    told = pair.beta.log
    for begun, victim in ((2, pair.beta), (3, pair.alpha)):
        wait_for(lambda n=begun: told.read_text().count("resync-started") == n, 20, "copying")
        victim.kill()
        assert b"until" not in pair.beta.places.tree.read_bytes(), "the copy was through already"
        victim.start()
        pair.beta.call("target") if victim is pair.beta else pair.source()
    pair.settle(40)
    pair.compare()
    log = pair.alpha.log.read_text()
    assert log.count("holds an unfinished copy on top of") == 2, log
    assert pair.beta.call("status")["sync"]["compared_bytes"] < untouched
    assert log.count("its trees are compared") == 1, "only the first copy"
