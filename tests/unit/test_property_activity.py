"""The activity log: everything that the disk may have lost is named, and nothing from before."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.damaging import FUZZED

from everup.journal import operation as op
from everup.journal.activity import Activity
from everup.journal.record import Operation
from everup.journal.segment import list_segments
from everup.journal.writer import CAUSE_AGE, JournalWriter
from everup.model.position import ORIGIN

EPOCH = op.Epoch(1, ORIGIN, "primary", "boot", "test")


@FUZZED
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    mark=st.integers(0, 6),
    open_records=st.integers(0, 3),
    segment_bytes=st.sampled_from([500, 1 << 20]),
)
def test_everything_behind_the_mark_is_named(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    mark: int,
    open_records: int,
    segment_bytes: int,
) -> None:
    """Over segments, and with the records of a batch whose end was cut off."""
    directory = tmp_path_factory.mktemp("activity")
    writer = JournalWriter(directory, segment_bytes=segment_bytes)
    writer.recover()
    writer.begin_epoch(EPOCH)
    ends, named = [writer.position], [0]

    def append(count: int) -> None:
        for _ in range(count):
            number = writer.sequence.to_bytes(16, "little")
            writer.append(Operation.WRITE, 1, number, op.encode_write(0, b"f"), b"x")

    for size in sizes:
        append(size)
        named.append(named[-1] + size)
        writer.close_batch(CAUSE_AGE)
        ends.append(writer.position)
    if open_records:
        append(open_records)
        path = writer.close_batch(CAUSE_AGE).segment
        os.truncate(path, path.stat().st_size - 1)
        for later in (segment.path for segment in list_segments(directory)):
            if later.name > path.name:
                later.unlink()
    at = mark % len(ends)
    activity = Activity(directory, ends[at])
    found = [r.object_id for r in activity.records() if r.operation == Operation.WRITE]
    assert len(found) == named[-1] - named[at] + open_records
    assert found == sorted(set(found), key=lambda name: int.from_bytes(name, "little"))
    assert all(int.from_bytes(name, "little") >= ends[at].sequence for name in found)
