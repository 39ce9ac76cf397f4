"""Damaged bytes of the journal: refused as `Corrupt`, or taken for its end, never misread."""

import dataclasses
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.damaging import DEEP, FUZZED, damaged, survives

from everup.errors import Corrupt
from everup.journal import operation as op
from everup.journal.reader import Batch, Cursor, scan, split_batch
from everup.journal.record import HEADER_BYTES, Operation, Record, decode, encode_head
from everup.journal.segment import SegmentInfo, decode_header, list_segments
from everup.journal.writer import CAUSE_AGE, JournalWriter
from everup.model.position import ORIGIN, Position
from everup.replicate.receivelog import Checked

OBJECT, OTHER = bytes(range(16)), bytes(range(1, 17))
EPOCH = op.Epoch(1, ORIGIN, "primary", "boot", "test")
GAP = op.Gap(ORIGIN, 7, "0a1b", "primary", "no space")
ARGUMENTS = {
    Operation.CREATE: op.encode_create(op.Create(OTHER, 0o100644, 1, 2, 0, b"name", b"a/b")),
    Operation.ORPHAN: op.encode_orphan(op.Orphan(0o600, 1, 2)),
    Operation.UNLINK: op.encode_unlink(op.Unlink(OTHER, b"name", b"a/b")),
    Operation.LINK: op.encode_link(op.Link(OTHER, b"name", b"a", b"b/c")),
    Operation.RENAME: op.encode_rename(
        op.Rename(OTHER, OTHER, OBJECT, 2, b"old", b"a", b"new", b"b")
    ),
    Operation.WRITE: op.encode_write(4096, b"a/b/name"),
    Operation.TRUNCATE: op.encode_truncate(op.Truncate(7, b"a")),
    Operation.ALLOCATE: op.encode_allocate(op.Allocate(1, 2, 3, b"a")),
    Operation.ATTRIBUTES: op.encode_attributes(op.Attributes(15, 0o755, 1, 2, -3, b"a")),
    Operation.SET_XATTR: op.encode_xattr(op.SetXattr(b"user.a", b"b")),
    Operation.BATCH: op.encode_batch_end(op.BatchEnd(1, 2, 3, OBJECT, 2)),
}
RECORDS = [
    encode_head(code, 1, 1, 5, OBJECT, arguments, b"payload", wall_ns=1, boot_ns=2) + b"payload"
    for code, arguments in ARGUMENTS.items()
]


def record_of(operation: int, arguments: bytes) -> Record:
    head = encode_head(operation, 1, 1, 1, OBJECT, arguments)
    record = decode(memoryview(head))
    assert record is not None
    return record


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    """Batches of a small journal."""
    directory = tmp_path_factory.mktemp("written")
    writer = JournalWriter(directory)
    writer.recover()
    writer.begin_epoch(EPOCH)
    for number in range(3):
        for code, arguments in ARGUMENTS.items():
            if code != Operation.BATCH:
                writer.append(code, 1, OBJECT, arguments, b"x" * number * 50)
        writer.close_batch(CAUSE_AGE, [op.ModifiedTime(1, OBJECT, 5)])
    cursor = Cursor(directory, ORIGIN)
    found = list(iter(cursor.next, None))
    cursor.close()
    return found


@FUZZED
@given(damaged(RECORDS))
def test_records(data: bytes) -> None:
    found = survives(lambda: decode(memoryview(data)), Corrupt)
    if isinstance(found, tuple):
        assert data.startswith(tuple(RECORDS)), "only a whole record is one"


@FUZZED
@given(st.sampled_from(RECORDS), st.data())
def test_a_flipped_bit_of_a_record_is_refused(record: bytes, data: st.DataObject) -> None:
    """Also outside a batch, where no chain hash would tell; but its length may say `not yet`."""
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    changed = bytearray(record)
    changed[bit // 8] ^= 1 << (bit % 8)
    found = survives(lambda: decode(memoryview(bytes(changed))), Corrupt)
    assert found is None or isinstance(found, Corrupt)
    assert found is not None or 4 <= bit // 8 < 8


@FUZZED
@given(st.sampled_from([*ARGUMENTS, 0, 99]), damaged(list(ARGUMENTS.values())))
def test_arguments(operation: int, arguments: bytes) -> None:
    record = record_of(operation, arguments)
    survives(lambda: op.decode_arguments(record), Corrupt)
    survives(lambda: op.decode_times(record.arguments), Corrupt)


@FUZZED
@given(damaged([EPOCH.to_payload(), GAP.to_payload()]))
def test_payloads_of_marks(payload: bytes) -> None:
    survives(lambda: op.Epoch.from_payload(payload), Corrupt)
    survives(lambda: op.Gap.from_payload(payload), Corrupt)


@pytest.mark.parametrize("payload", DEEP)
def test_a_deep_payload(payload: bytes) -> None:
    for kind in (op.Epoch, op.Gap):
        assert isinstance(survives(lambda kind=kind: kind.from_payload(payload), Corrupt), Corrupt)


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})
)


@FUZZED
@given(st.sampled_from(["epoch", "sequence", "checksum"]), VALUES)
def test_a_position_of_other_values(key: str, value: object) -> None:
    known = Position(3, 4, OBJECT).to_json()
    text = json.dumps({**known, key: value})
    found = survives(lambda: Position.from_json(json.loads(text)), ValueError, KeyError)
    assert isinstance(found, Position | ValueError)
    payload = json.dumps({**json.loads(EPOCH.to_payload()), "parent": json.loads(text)})
    survives(lambda: op.Epoch.from_payload(payload.encode()), Corrupt)


@FUZZED
@given(data=st.data())
def test_batches(written: list[Batch], data: st.DataObject) -> None:
    """Neither as they stand in the journal nor as they come over the wire."""
    whole = [batch.data for batch in written]
    bytes_ = data.draw(damaged(whole))
    start = data.draw(st.sampled_from([batch.start for batch in written]))
    end_bytes = data.draw(st.integers(1, max(1, len(bytes_))) | st.just(HEADER_BYTES + 33))
    right = any(b.data == bytes_ and b.start == start for b in written)
    found = survives(lambda: split_batch(bytes_, start), Corrupt)
    assert right or isinstance(found, Corrupt)
    received = survives(lambda: Checked(bytes_, end_bytes, start), Corrupt)
    assert right or isinstance(received, Corrupt)


@FUZZED
@given(data=st.data())
def test_segments(
    written: list[Batch], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A scan stops where the damage is, a cursor gives only batches that were written."""
    directory = tmp_path_factory.mktemp("segment")
    writer = JournalWriter(directory)
    writer.recover()
    writer.begin_epoch(EPOCH)
    path = list_segments(directory)[0].path
    header = path.read_bytes()[:64]
    body = b"".join(batch.data for batch in written)
    path.write_bytes(data.draw(damaged([header + body])))
    survives(lambda: decode_header(path, path.read_bytes()[:64]), Corrupt)
    info = SegmentInfo(path, 1, ORIGIN, path.stat().st_size)
    result = scan(info)
    assert result.end in [ORIGIN, *(batch.end for batch in written)]
    read: list[Batch] = []

    def read_all() -> None:
        cursor = Cursor(directory, ORIGIN)
        try:
            read.extend(iter(cursor.next, None))
        finally:
            cursor.close()

    survives(read_all, Corrupt)
    assert [batch.end for batch in read] == [batch.end for batch in written[: len(read)]]


@FUZZED
@given(data=st.data())
def test_a_torn_tail_is_written_over(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever a power cut has cut the last segment: what is appended then is read behind it."""
    directory = tmp_path_factory.mktemp("torn")
    writer = JournalWriter(directory)
    writer.recover()
    writer.begin_epoch(EPOCH)
    epoch_end = writer.position
    for _ in range(2):
        writer.append(Operation.WRITE, 1, OBJECT, ARGUMENTS[Operation.WRITE], b"x" * 50)
        writer.close_batch(CAUSE_AGE)
    path = list_segments(directory)[0].path
    whole = path.read_bytes()
    kept = data.draw(st.integers(len(whole) - 400, len(whole)))
    path.write_bytes(
        whole[:kept] + data.draw(st.sampled_from([b"", bytes(7), b"EVR1", b"junk" * 9]))
    )
    again = JournalWriter(directory)
    again.recover()
    again.append(Operation.TRUNCATE, 1, OBJECT, ARGUMENTS[Operation.TRUNCATE])
    again.close_batch(CAUSE_AGE)
    cursor = Cursor(directory, epoch_end)
    batches = list(iter(cursor.next, None))
    cursor.close()
    assert batches[-1].end == again.position


def test_the_damage_is_real() -> None:
    """Control: the same frame lets an undeclared error out."""

    def broken() -> None:
        raise IndexError

    with pytest.raises(IndexError):
        survives(broken, Corrupt)
    with pytest.raises(AssertionError, match="MiB"):
        survives(lambda: bytearray(100 << 20))
    call: Callable[[], object] = lambda: dataclasses.asdict(ORIGIN)  # noqa: E731
    assert survives(call) == dataclasses.asdict(ORIGIN)
