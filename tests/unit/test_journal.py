"""The journal: what is written is read back whole, and damage is never misread."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everup.errors import Corrupt
from everup.journal import operation as op
from everup.journal.history import add_epoch, load_history
from everup.journal.reader import Cursor, end_of, split_batch
from everup.journal.record import HEADER_BYTES, Operation, decode, encode_head
from everup.journal.segment import list_segments
from everup.journal.writer import CAUSE_AGE, Closed, JournalWriter
from everup.limits import SEGMENT_BYTES
from everup.model.position import ORIGIN, Position

OBJECT = bytes(range(16))
END_BYTES = HEADER_BYTES + len(op.encode_batch_end(op.BatchEnd(0, 0, 0, bytes(16), 0)))


def begun(
    directory: Path,
    epoch: int = 1,
    segment_bytes: int = SEGMENT_BYTES,
    memory: Path | None = None,
) -> JournalWriter:
    writer = JournalWriter(directory, segment_bytes=segment_bytes, memory=memory)
    if writer.recover() is None:
        writer.begin_epoch(op.Epoch(epoch, ORIGIN, "primary", "boot", "founding"))
    return writer


def write_some(writer: JournalWriter, batches: int = 3, records: int = 4) -> None:
    for batch in range(batches):
        for number in range(records):
            arguments = op.encode_write(number * 10, b"base/1/2")
            writer.append(Operation.WRITE, 1, OBJECT, arguments, bytes([batch]) * 100)
        writer.close_batch(CAUSE_AGE, [op.ModifiedTime(1, OBJECT, 123456789)])


def write_torn(writer: JournalWriter) -> None:
    """Two records whose batch end never reached the disk: the power went while it was written."""
    for size in (7, 8):
        truncate = op.encode_truncate(op.Truncate(size, b"f"))
        writer.append(Operation.TRUNCATE, 1, OBJECT, truncate)
    closed = writer.close_batch(CAUSE_AGE)
    os.truncate(closed.segment, closed.offset - END_BYTES)
    for later in closed.segment.parent.glob("*.segment"):
        if later > closed.segment:
            later.unlink()


def test_batches_come_back_as_written(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    write_some(writer)
    cursor = Cursor(tmp_path, ORIGIN)
    batches = []
    while (batch := cursor.next()) is not None:
        batches.append(batch)
    assert [b.records for b in batches] == [1, 5, 5, 5]
    assert batches[-1].end == writer.position
    records, _ = split_batch(batches[1].data, batches[1].start)
    assert op.decode_arguments(records[2]) == op.Write(20, b"base/1/2")
    assert bytes(records[2].payload) == bytes([0]) * 100
    assert op.decode_times(records[-1].payload)[0].mtime_ns == 123456789
    assert op.Epoch.from_payload(split_batch(batches[0].data, ORIGIN)[0][0].payload).epoch == 1


def test_cursor_follows_the_tail_and_starts_anywhere(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    middle = writer.position
    cursor = Cursor(tmp_path, middle)
    assert cursor.next() is None
    write_some(writer, batches=1)
    batch = cursor.next()
    assert batch is not None and batch.start == middle and batch.end == writer.position
    assert cursor.next() is None


def test_cursor_refuses_a_fork(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    write_some(writer, batches=1)
    fork = Position(1, writer.position.sequence, b"x" * 16)
    with pytest.raises(Corrupt) as caught:
        Cursor(tmp_path, fork)
    assert caught.value.code == "position-unknown"


def test_new_segments_begin_at_batch_ends(tmp_path: Path) -> None:
    writer = begun(tmp_path, segment_bytes=2000)
    write_some(writer, batches=6)
    assert len(list_segments(tmp_path)) >= 2
    cursor = Cursor(tmp_path, ORIGIN)
    count = 0
    while cursor.next() is not None:
        count += 1
    assert count == 7 and cursor.position == writer.position
    again = JournalWriter(tmp_path)
    recovered = again.recover()
    assert recovered is not None and recovered.position == writer.position


def test_records_of_an_open_batch_survive_the_process(tmp_path: Path) -> None:
    """They lie in shared memory; the segment holds whole batches only."""
    directory, memory = tmp_path / "journal", tmp_path / "open-batch"
    directory.mkdir()
    writer = begun(directory, memory=memory)
    write_some(writer, batches=1)
    size = list_segments(directory)[-1].byte_count
    for length in (7, 8):
        truncate = op.encode_truncate(op.Truncate(length, b"f"))
        writer.append(Operation.TRUNCATE, 1, OBJECT, truncate)
    assert list_segments(directory)[-1].byte_count == size
    again = JournalWriter(directory, memory=memory)
    recovered = again.resume(Closed(writer.position, list_segments(directory)[-1].path, size))
    assert [r.operation for r in recovered.loose] == [Operation.TRUNCATE] * 2
    assert again.sequence == writer.sequence
    again.append(Operation.TRUNCATE, 1, OBJECT, op.encode_truncate(op.Truncate(9, b"f")))
    again.close_batch(CAUSE_AGE)
    cursor = Cursor(directory, ORIGIN)
    while (batch := cursor.next()) is not None:
        last = batch
    assert cursor.position == again.position and last.records == 3


def test_an_open_batch_is_not_taken_up_behind_another_end(tmp_path: Path) -> None:
    """The process died between the end of a batch and the next: nothing of it comes twice."""
    directory, memory = tmp_path / "journal", tmp_path / "open-batch"
    directory.mkdir()
    writer = begun(directory, memory=memory)
    before = writer.position
    path = list_segments(directory)[-1].path
    offset = path.stat().st_size
    writer.append(Operation.TRUNCATE, 1, OBJECT, op.encode_truncate(op.Truncate(7, b"f")))
    held = memory.read_bytes()
    writer.close_batch(CAUSE_AGE)
    memory.write_bytes(held)
    again = JournalWriter(directory, memory=memory)
    recovered = again.resume(Closed(before, path, offset))
    assert recovered.position == writer.position and recovered.loose == ()
    assert again.open_records == 0


def test_records_behind_the_last_whole_batch_on_the_disk_are_kept(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    write_some(writer, batches=1)
    write_torn(writer)
    again = JournalWriter(tmp_path)
    recovered = again.recover()
    assert recovered is not None
    assert [r.operation for r in recovered.loose] == [Operation.TRUNCATE] * 2
    again.append(Operation.TRUNCATE, 1, OBJECT, op.encode_truncate(op.Truncate(8, b"f")))
    again.close_batch(CAUSE_AGE)
    cursor = Cursor(tmp_path, ORIGIN)
    while cursor.next() is not None:
        pass
    assert cursor.position == again.position


@pytest.mark.parametrize("cut", [1, 50, HEADER_BYTES, HEADER_BYTES + 30])
def test_a_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    writer = begun(tmp_path)
    write_some(writer)
    path = list_segments(tmp_path)[-1].path
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    again = JournalWriter(tmp_path)
    recovered = again.recover()
    assert recovered is not None
    assert recovered.position.sequence < writer.position.sequence
    assert len(recovered.loose) in (4, 5)
    assert path.stat().st_size < len(data)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_never_misread(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("flip")
    writer = begun(directory)
    write_some(writer)
    path = list_segments(directory)[-1].path
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    seen = []
    try:
        cursor = Cursor(directory, ORIGIN)
        while (batch := cursor.next()) is not None:
            seen.append(batch)
    except Corrupt:
        pass
    good = 1 + 3
    assert len(seen) < good, "a batch with a flipped bit was accepted"


def test_a_new_epoch_builds_on_a_received_position(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    writer = begun(old)
    write_some(writer, batches=1)
    successor = JournalWriter(new)
    successor.begin_epoch(op.Epoch(2, writer.position, "secondary", "boot", "failover"))
    assert successor.sequence == writer.position.sequence + 2
    batch = Cursor(new, writer.position).next()
    assert batch is not None and batch.end.epoch == 2
    assert end_of(batch.data, writer.position) == batch.end


def test_a_second_reign_begins_a_journal_of_its_own(tmp_path: Path) -> None:
    """Between the reigns this server was passive: its old segments lead nowhere."""
    writer = begun(tmp_path, segment_bytes=1000)
    write_some(writer, batches=4)
    received = Position(2, writer.position.sequence - 3, b"y" * 16)
    again = JournalWriter(tmp_path)
    assert again.recover() is not None
    again.begin_epoch(op.Epoch(3, received, "primary", "boot", "switchover"))
    write_some(again, batches=1)
    restarted = JournalWriter(tmp_path)
    recovered = restarted.recover()
    assert recovered is not None and recovered.position == again.position
    assert Cursor(tmp_path, received).next() is not None


def test_a_batch_that_never_closed_is_dropped_by_the_next_epoch(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    write_some(writer, batches=1)
    end = writer.position
    writer.append(Operation.TRUNCATE, 1, OBJECT, op.encode_truncate(op.Truncate(7, b"f")))
    writer.begin_epoch(op.Epoch(2, end, "primary", "boot", "start"))
    write_some(writer, batches=1)
    cursor = Cursor(tmp_path, end)
    assert [batch.records for batch in iter(cursor.next, None)] == [1, 5]


def test_history_keeps_each_epoch_once(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    for epoch in (2, 1, 2):
        add_epoch(path, op.Epoch(epoch, ORIGIN, f"server{epoch}", "boot", "test"))
    assert [(e.epoch, e.server) for e in load_history(path)] == [(1, "server1"), (2, "server2")]


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_incomplete(data: bytes) -> None:
    try:
        record = decode(memoryview(data))
    except Corrupt:
        return
    assert record is None


@given(
    name=st.binary(min_size=1, max_size=255),
    hint=st.binary(max_size=4095),
    ids=st.binary(min_size=16, max_size=16),
    number=st.integers(0, 2**32 - 1),
)
def test_every_operation_survives_the_round(
    name: bytes, hint: bytes, ids: bytes, number: int
) -> None:
    values = {
        Operation.CREATE: (op.encode_create, op.Create(ids, number, 1, 2, 3, name, hint)),
        Operation.ORPHAN: (op.encode_orphan, op.Orphan(number, 1, 2)),
        Operation.UNLINK: (op.encode_unlink, op.Unlink(ids, name, hint)),
        Operation.LINK: (op.encode_link, op.Link(ids, name, hint, hint)),
        Operation.RENAME: (
            op.encode_rename,
            op.Rename(ids, ids, ids, number, name, hint, name, hint),
        ),
        Operation.TRUNCATE: (op.encode_truncate, op.Truncate(number, hint)),
        Operation.ALLOCATE: (op.encode_allocate, op.Allocate(number, number, 3, hint)),
        Operation.ATTRIBUTES: (op.encode_attributes, op.Attributes(15, number, 1, 2, -5, hint)),
        Operation.SET_XATTR: (op.encode_xattr, op.SetXattr(name, hint)),
        Operation.REMOVE_XATTR: (op.encode_xattr, op.RemoveXattr(name, hint)),
    }
    for code, (encode, value) in values.items():
        head = encode_head(code, 1, 1, 1, ids, encode(value), b"payload")  # type: ignore[operator]
        record = decode(memoryview(head + b"payload"))
        assert record is not None and op.decode_arguments(record) == value
