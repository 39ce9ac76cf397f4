"""The activity log: its mark as bytes, and what a server that rejoins takes for doubtful."""

import os
from pathlib import Path

import pytest

from everup.journal import operation as op
from everup.journal.activity import (
    MARGIN_NS,
    NAME,
    Activity,
    Mark,
    forget_mark,
    load_mark,
    save_mark,
)
from everup.journal.record import Operation
from everup.journal.segment import list_segments
from everup.journal.unclean import note_unclean_epoch
from everup.journal.writer import CAUSE_AGE, JournalWriter
from everup.limits import AHEAD_BYTES
from everup.model.position import ORIGIN, Position
from everup.places import Places
from everup.replicate.rejoin import find_doubtful, possible_bases
from everup.replicate.treestate import AT, OPEN, SYNCING, TreeState, save_tree_state
from everup.system.clock import wall_ns

GOLDEN = Path(__file__).with_name("activity.golden")
MARK = Mark(Position(3, 4711, bytes([2]) * 16), 1_700_000_000_000_000_000)
BLOCK = 128 << 10


def test_the_mark_is_that_of_the_golden_file(tmp_path: Path) -> None:
    save_mark(tmp_path, MARK)
    assert (tmp_path / NAME).read_text() == GOLDEN.read_text().rstrip("\n")
    assert load_mark(tmp_path) == MARK
    forget_mark(tmp_path)
    assert load_mark(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version":2}', '{"version":1,"wall_ns":1}'])
def test_a_mark_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    assert load_mark(tmp_path) is None


def number(n: int) -> bytes:
    return bytes([n]) * 16


def writer_at(places: Places) -> JournalWriter:
    places.make()
    writer = JournalWriter(places.journal)
    writer.begin_epoch(op.Epoch(1, ORIGIN, "primary", "boot", "founding"))
    return writer


def write(writer: JournalWriter, n: int, *, close: bool = True) -> Position:
    writer.append(Operation.WRITE, 1, number(n), op.encode_write(n * BLOCK, b"f"), b"x" * 100)
    return writer.close_batch(CAUSE_AGE).position if close else writer.position


def cut_the_end(journal: Path) -> None:
    """What a power cut leaves of a batch that was being written: records without their end."""
    path = list_segments(journal)[-1].path
    os.truncate(path, path.stat().st_size - 1)


def left_open(tmp_path: Path) -> tuple[Places, list[Position]]:
    """Objects 0 to 5 were written, the mark lies behind 2, the end of 5's batch was cut off."""
    places = Places.below(tmp_path)
    writer = writer_at(places)
    ends = [write(writer, n) for n in range(5)]
    write(writer, 5)
    cut_the_end(places.journal)
    save_tree_state(places.tree, TreeState(OPEN, epoch=1, server="primary"))
    save_mark(places.state, Mark(ends[2], wall_ns()))
    return places, ends


def test_what_lies_behind_the_mark_is_doubtful(tmp_path: Path) -> None:
    places, ends = left_open(tmp_path)
    doubtful = find_doubtful(places, ends[4])
    assert {n for n in range(7) if (1, number(n)) in doubtful.scope} == {3, 4, 5}
    old = doubtful.changed_after_ns - 1
    ahead = AHEAD_BYTES // BLOCK
    assert doubtful.runs(1, number(4), old) == [(4, ahead + 1)]
    assert doubtful.runs(1, number(1), old) == []
    assert doubtful.runs(1, number(1), doubtful.changed_after_ns) is None
    assert wall_ns() - MARGIN_NS - 10**9 < doubtful.changed_after_ns < wall_ns()


def test_what_nobody_received_is_doubtful_too(tmp_path: Path) -> None:
    places, ends = left_open(tmp_path)
    doubtful = find_doubtful(places, ends[0])
    assert {n for n in range(7) if (1, number(n)) in doubtful.scope} == {1, 2, 3, 4, 5}


def test_without_a_mark_or_a_whole_journal_everything_is(tmp_path: Path) -> None:
    places, ends = left_open(tmp_path)
    mark = load_mark(places.state)
    assert mark is not None
    forget_mark(places.state)
    assert find_doubtful(places, ends[4]).runs(1, number(9), 0) is None
    save_mark(places.state, mark)
    path = list_segments(places.journal)[0].path
    raw = bytearray(path.read_bytes())
    raw[-400] ^= 1
    path.write_bytes(raw)
    doubtful = find_doubtful(places, ends[1])
    assert doubtful.runs(1, number(9), 0) is None or (1, number(5)) not in doubtful.scope


def test_a_clock_that_went_back_makes_everything_doubtful(tmp_path: Path) -> None:
    places, ends = left_open(tmp_path)
    future = wall_ns() + 10 * MARGIN_NS
    save_mark(places.state, Mark(ends[2], future))
    doubtful = find_doubtful(places, ends[4])
    assert doubtful.runs(1, number(9), 0) is None and "clock" in doubtful.sentence


def test_the_clocks_of_the_records_are_compared(tmp_path: Path) -> None:
    places, ends = left_open(tmp_path)
    activity = Activity(places.journal, ends[2])
    list(activity.records())
    assert not activity.clocks.went_back
    for step, went_back in ((-MARGIN_NS, True), (MARGIN_NS, False)):
        activity = Activity(places.journal, ends[2])
        for record in list(activity.records()):
            activity._noted(record._replace(wall_ns=record.wall_ns + step))
        assert activity.clocks.went_back == went_back


def test_bases_are_offered_only_after_an_unclean_stop_of_the_marked_epoch(tmp_path: Path) -> None:
    places, ends = left_open(tmp_path)
    assert possible_bases(places, [ORIGIN, ends[3], Position(9, 9, bytes(16))]) == [
        ends[4],
        ends[3],
        ORIGIN,
    ]
    note_unclean_epoch(places.state, 1)
    assert possible_bases(places, [ORIGIN]) == [ends[4]]
    note_unclean_epoch(places.state, 2)
    assert possible_bases(places, [ORIGIN]) == []
    note_unclean_epoch(places.state, 1)
    for state in (
        TreeState(AT, ends[4]),
        TreeState(OPEN, epoch=2, server="primary"),
        TreeState(SYNCING, begin=ends[4]),
    ):
        save_tree_state(places.tree, state)
        assert possible_bases(places, [ORIGIN]) == []
