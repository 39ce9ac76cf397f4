"""A damaged journal is named, cut behind its last whole record, or refused; never misread."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from test_journal import END_BYTES, OBJECT, begun, write_some, write_torn

from everup.errors import Corrupt
from everup.journal import operation as op
from everup.journal.aside import forget_aside, load_aside, put_aside
from everup.journal.reader import NEW_CHAIN, Batch, Cursor
from everup.journal.record import HEADER_BYTES, Operation
from everup.journal.segment import HEADER_BYTES as SEGMENT_HEADER_BYTES
from everup.journal.segment import list_segments
from everup.journal.writer import JournalWriter
from everup.model.position import ORIGIN, Position
from everup.replicate.tail import JournalTail

SEGMENT_BYTES = 1500


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Several segments, and at the end two records of a batch that was cut off."""
    directory = tmp_path / "journal"
    directory.mkdir()
    writer = begun(directory, segment_bytes=SEGMENT_BYTES)
    write_some(writer, batches=8)
    write_torn(writer)
    assert len(list_segments(directory)) >= 4
    return directory


def batches_of(directory: Path, after: Position = ORIGIN) -> list[Batch]:
    """What a reader is given before it stops, whatever stops it."""
    found: list[Batch] = []
    try:
        cursor = Cursor(directory, after)
        while (batch := cursor.next()) is not None:
            found.append(batch)
    except Corrupt:
        pass
    return found


def refused(directory: Path) -> Corrupt:
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    with pytest.raises(Corrupt) as caught:
        JournalWriter(directory).recover()
    after = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert before == after, "what is refused is left as it was"
    return caught.value


@pytest.mark.parametrize("number", [1, 2])
def test_a_missing_segment_is_named(journal: Path, number: int) -> None:
    segments = list_segments(journal)
    segments[number].path.unlink()
    problem = refused(journal)
    assert problem.code == "journal-gap"
    assert segments[number - 1].path.name in problem.sentence
    assert segments[number + 1].path.name in problem.sentence


def test_the_oldest_segments_may_have_been_released(journal: Path) -> None:
    segments = list_segments(journal)
    segments[0].path.unlink()
    recovered = JournalWriter(journal).recover()
    assert recovered is not None and len(recovered.loose) == 2
    with pytest.raises(Corrupt) as caught:
        Cursor(journal, ORIGIN)
    assert caught.value.code == "position-unknown"


def test_an_older_segment_that_was_cut_is_named(journal: Path) -> None:
    path = list_segments(journal)[1].path
    path.write_bytes(path.read_bytes()[:-10])
    problem = refused(journal)
    assert problem.code == "journal-gap" and path.name in problem.sentence
    assert "offset" in problem.sentence


@pytest.mark.parametrize("length", [1, HEADER_BYTES, 5000])
def test_a_tail_of_zeros_is_cut(journal: Path, length: int) -> None:
    last = list_segments(journal)[-1]
    with last.path.open("ab") as file:
        file.write(bytes(length))
    again = JournalWriter(journal)
    recovered = again.recover()
    assert recovered is not None and recovered.cut_bytes == length
    assert len(recovered.loose) == 2
    again.close_batch(1)
    assert last.path.stat().st_size == last.byte_count + END_BYTES


def test_whole_records_behind_the_damage_are_not_cut_off(journal: Path) -> None:
    last = list_segments(journal)[-1]
    data = bytearray(last.path.read_bytes())
    data[SEGMENT_HEADER_BYTES + 90] ^= 4
    last.path.write_bytes(data)
    problem = refused(journal)
    assert problem.code == "journal-check"
    assert last.path.name in problem.sentence and "offset 64" in problem.sentence
    assert "is whole" in problem.sentence


def test_a_hole_of_zeros_inside_is_not_cut_off(journal: Path) -> None:
    last = list_segments(journal)[-1]
    data = last.path.read_bytes()
    hole = data[:SEGMENT_HEADER_BYTES] + bytes(150) + data[SEGMENT_HEADER_BYTES:]
    last.path.write_bytes(hole)
    assert refused(journal).code == "journal-hole"


def test_a_copy_under_another_name_is_foreign(journal: Path) -> None:
    second = list_segments(journal)[1].path
    shutil.copy2(second, journal / f"{9999:016x}.segment")
    assert refused(journal).code == "segment-foreign"


@pytest.mark.parametrize("kind", ["text", "link", "directory", "fifo"])
def test_what_only_looks_like_a_segment_is_refused(journal: Path, kind: str) -> None:
    first = list_segments(journal)[0].path
    path = journal / f"{first.stem}0.segment"
    if kind == "text":
        path.write_bytes(b"not a segment at all, but longer than a header of one would be" * 3)
    elif kind == "link":
        path.symlink_to(first)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    problem = refused(journal)
    assert problem.code in ("segment-foreign", "segment-header")
    assert path.name in problem.sentence


def test_a_segment_of_somebody_else_is_refused(journal: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = list_segments(journal)[1].path
    os.chown(path, 12345, 12345)
    problem = refused(journal)
    assert problem.code == "segment-owner" and path.name in problem.sentence


def test_a_segment_that_others_may_read_is_made_private(journal: Path) -> None:
    path = list_segments(journal)[1].path
    path.chmod(0o644)
    assert JournalWriter(journal).recover() is not None
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reader_names_damage_in_the_middle(journal: Path) -> None:
    """Recovery does not read old segments whole; whoever reads them finds it."""
    segments = list_segments(journal)
    data = bytearray(segments[1].path.read_bytes())
    data[SEGMENT_HEADER_BYTES + 100] ^= 1
    segments[1].path.write_bytes(data)
    assert JournalWriter(journal).recover() is not None
    cursor = Cursor(journal, segments[1].start)
    with pytest.raises(Corrupt) as caught:
        cursor.next()
    assert segments[1].path.name in caught.value.sentence
    assert f"offset {SEGMENT_HEADER_BYTES}" in caught.value.sentence
    assert f"behind sequence {segments[1].start.sequence}" in caught.value.sentence


@pytest.mark.parametrize("length", [200, 10_000])
def test_a_reader_does_not_take_zeros_in_the_middle_for_the_end(journal: Path, length: int) -> None:
    path = list_segments(journal)[1].path
    data = path.read_bytes()
    keep = len(data) - min(length, len(data) - SEGMENT_HEADER_BYTES)
    path.write_bytes(data[:keep] + bytes(len(data) - keep))
    cursor = Cursor(journal, ORIGIN)
    with pytest.raises(Corrupt) as caught:
        while cursor.next() is not None:
            pass
    assert caught.value.code in ("journal-gap", "journal-check")
    assert path.name in caught.value.sentence


@pytest.mark.parametrize("content", [b"", bytes(30), bytes(300)])
def test_a_segment_whose_header_never_reached_the_disk(journal: Path, content: bytes) -> None:
    writer = JournalWriter(journal)
    writer.recover()
    writer.close_batch(1)
    unborn = journal / f"{writer.sequence + 1:016x}.segment"
    unborn.write_bytes(content)
    again = JournalWriter(journal)
    recovered = again.recover()
    assert recovered is not None and recovered.position == writer.position
    assert not unborn.exists()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_random_damage_is_never_misread(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any damage: refused with a place, or every batch is one that was written, in order,
    without one missing in the middle; and what recovery goes on with is a beginning of it."""
    directory = tmp_path_factory.mktemp("damage")
    writer = begun(directory, segment_bytes=SEGMENT_BYTES)
    write_some(writer, batches=7)
    write_torn(writer)
    written = [batch.data for batch in batches_of(directory)]
    _damage(data, directory)
    read = [batch.data for batch in batches_of(directory)]
    assert read == written[: len(read)]
    again = JournalWriter(directory, segment_bytes=SEGMENT_BYTES)
    try:
        recovered = again.recover()
    except Corrupt as problem:
        assert str(directory) in problem.sentence
        return
    if recovered is None:
        assert not list_segments(directory)
        return
    # What follows a cut is a chain of its own that every reader accepts.
    cut_at = again.position
    again.append(Operation.TRUNCATE, 1, OBJECT, op.encode_truncate(op.Truncate(7, b"f")))
    again.close_batch(1)
    (only,) = batches_of(directory, cut_at)
    assert only.end == again.position
    assert only.records == len(recovered.loose) + 1


def _damage(data: st.DataObject, directory: Path) -> None:
    paths = [info.path for info in list_segments(directory)]
    path = data.draw(st.sampled_from(paths))
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    kind = data.draw(st.sampled_from(["flip", "zero", "cut", "remove", "append", "swap", "insert"]))
    if kind == "remove":
        path.unlink()
        return
    if kind == "flip":
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "zero":
        end = min(len(raw), at + data.draw(st.integers(1, 600)))
        raw[at:end] = bytes(end - at)
    elif kind == "cut":
        del raw[at:]
    elif kind == "append":
        raw += data.draw(st.binary(min_size=1, max_size=300))
    elif kind == "swap":
        raw = bytearray(data.draw(st.sampled_from(paths)).read_bytes())
    else:
        raw[at:at] = data.draw(st.binary(min_size=1, max_size=300))
    path.write_bytes(raw)


def test_what_cannot_be_gone_on_with_is_put_aside_whole(journal: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    segments = list_segments(journal)
    segments[1].path.unlink()
    names = {path.name: path.read_bytes() for path in journal.iterdir()}
    aside = put_aside(journal, state, "segment 2 is missing", 1, 3)
    assert {path.name: path.read_bytes() for path in Path(aside.path).iterdir()} == names
    assert list(journal.iterdir()) == []
    assert load_aside(state) == aside
    assert aside.end.sequence >= segments[-1].start.sequence + 2, "numbers are never used again"
    writer = JournalWriter(journal)
    assert writer.recover() is None
    writer.begin_epoch(op.Epoch(2, aside.end, "primary", "boot", "start"))
    assert Cursor(journal, aside.end).next() is not None
    forget_aside(state)
    assert load_aside(state) is None


def test_only_the_newest_journal_that_was_put_aside_is_kept(tmp_path: Path) -> None:
    journal, state = tmp_path / "journal", tmp_path / "state"
    state.mkdir()
    (tmp_path / "journal.damaged-20200101T000000Z").mkdir()
    journal.mkdir()
    begun(journal)
    aside = put_aside(journal, state, "test", 1, 1)
    assert [path.name for path in tmp_path.glob("journal.damaged-*")] == [Path(aside.path).name]


def test_a_chain_behind_a_gap(journal: Path) -> None:
    """Nobody is streamed over it; the writer goes on, also after a restart."""
    writer = JournalWriter(journal, segment_bytes=SEGMENT_BYTES)
    assert writer.recover() is not None
    since = writer.position
    follower = Cursor(journal, since)
    assert follower.next() is None
    chain = writer.prepare(
        op.Gap(since, writer.behind_everything(), "ab" * 8, "primary", "no space left")
    )
    assert batches_of(journal)[-1].end == since, "prepared is not entered"
    closed = writer.enter(chain)
    assert closed.position == writer.position == chain.end != since
    deadline = time.monotonic() + 5
    with pytest.raises(Corrupt) as caught:
        while time.monotonic() < deadline:
            assert follower.next() is None
    assert caught.value.code == NEW_CHAIN
    for old in (ORIGIN, since):
        with pytest.raises(Corrupt) as caught:
            Cursor(journal, old)
        assert caught.value.code == "position-unknown"
    write_some(writer, batches=2)
    assert [batch.records for batch in batches_of(journal, chain.end)] == [5, 5]
    gap_batch = batches_of(journal, chain.start)[0]
    assert gap_batch.end == chain.end
    again = JournalWriter(journal, segment_bytes=SEGMENT_BYTES)
    recovered = again.recover()
    assert recovered is not None and recovered.position == writer.position


def test_a_reader_in_a_segment_without_a_batch_sees_the_gap(tmp_path: Path) -> None:
    writer = begun(tmp_path, segment_bytes=10)
    follower = Cursor(tmp_path, writer.position)
    assert follower.next() is None
    gap = op.Gap(writer.position, writer.behind_everything(), "ab" * 8, "primary", "no space")
    writer.enter(writer.prepare(gap))
    deadline = time.monotonic() + 5
    with pytest.raises(Corrupt) as caught:
        while time.monotonic() < deadline:
            assert follower.next() is None
    assert caught.value.code == NEW_CHAIN


def test_the_tail_of_a_segment_without_a_record(tmp_path: Path) -> None:
    """It used to open the same empty segment for ever."""
    writer = begun(tmp_path, segment_bytes=10)
    tail = JournalTail(tmp_path)
    assert tail.sequence() == writer.sequence
    write_some(writer, batches=2)
    assert tail.sequence() == writer.sequence
    tail.close()


def test_a_writer_killed_right_after_it_entered_a_chain(journal: Path) -> None:
    """Its successor knows that the journal had failed, and makes the gap once more."""
    writer = JournalWriter(journal)
    assert writer.recover() is not None
    last = writer.close_batch(1)
    writer.append(Operation.TRUNCATE, 1, OBJECT, op.encode_truncate(op.Truncate(9, b"f")))
    sequence = writer.behind_everything()
    gap = op.Gap(last.position, sequence, "cd" * 8, "primary", "no space left")
    entered = writer.enter(writer.prepare(gap))
    again = JournalWriter(journal)
    assert again.resume(last).position == last.position
    gap = op.Gap(last.position, again.behind_everything(), "ef" * 8, "primary", "no space left")
    closed = again.enter(again.prepare(gap))
    assert closed.position.sequence > entered.position.sequence
    write_some(again, batches=1)
    assert JournalWriter(journal).recover() is not None
    assert [batch.end for batch in batches_of(journal, closed.position)] == [again.position]
