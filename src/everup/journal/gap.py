"""The first segment of a chain that begins behind a gap.

What enters: where the journal ended, why it could not go on, and the name of the dirty map that
knows what was changed since. What leaves: a durable segment beside the journal, which the writer
then takes as its newest. Called by the writer, for the guard.

The new chain begins at a position that no batch has ever ended at: the epoch and the sequence of
the last record before the gap, a check sum made from the GAP record. So nobody stands there, and
whoever lacks what the journal lacks cannot be streamed over it: it has to be compared.
"""

import os
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from everup.journal.operation import BatchEnd, Gap, encode_batch_end
from everup.journal.record import Operation, encode_head
from everup.journal.segment import AFTER_GAP, encode_header, segment_path
from everup.model.ids import NO_OBJECT
from everup.model.position import CHECKSUM_BYTES, Position
from everup.system.clock import boottime_ns, wall_ns
from everup.system.files import Door, sync_directory

CAUSE_GAP = 5
GAP_RECORDS = 2
"""Sequences from the last one before a gap to the end of the first batch behind it."""
BESIDE_SUFFIX = ".new"
_DOMAIN = b"everup gap\0"


class NewChain(NamedTuple):
    """A prepared segment: where it lies beside the journal, where it begins and ends."""

    path: Path
    start: Position
    end: Position
    byte_count: int


def gap_start(gap: Gap) -> Position:
    """Where the chain behind a gap begins."""
    digest = blake3(_DOMAIN + gap.since.checksum + gap.to_payload())
    checksum = digest.digest(length=CHECKSUM_BYTES)
    return Position(gap.since.epoch, gap.last_sequence, checksum)


def encode_chain(gap: Gap, wall: int, boot: int) -> tuple[bytes, Position, Position]:
    """Bytes of the segment with its one batch; start and end position."""
    start = gap_start(gap)
    payload = gap.to_payload()
    first = start.sequence + 1

    def head(operation: int, sequence: int, arguments: bytes, body: bytes = b"") -> bytes:
        return encode_head(
            operation, 0, start.epoch, sequence, NO_OBJECT, arguments, body,
            wall_ns=wall, boot_ns=boot,
        )  # fmt: skip

    record = head(Operation.GAP, first, b"", payload) + payload
    checksum = blake3(record).update(start.checksum).digest(length=CHECKSUM_BYTES)
    end = BatchEnd(first, 1, len(record), checksum, CAUSE_GAP)
    batch = record + head(Operation.BATCH, first + 1, encode_batch_end(end))
    data = encode_header(first, start, AFTER_GAP) + batch
    return data, start, Position(start.epoch, start.sequence + GAP_RECORDS, checksum)


def write_new_chain(directory: Path, gap: Gap, door: Door) -> NewChain:
    """Durably write it beside the journal. Raises OSError; then nothing is left behind."""
    data, start, end = encode_chain(gap, wall_ns(), boottime_ns())
    final = segment_path(directory, start.sequence + 1)
    path = final.with_name(final.name + BESIDE_SUFFIX)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[door.write("append-journal", descriptor, view) :]
        door.fdatasync("append-journal", descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    sync_directory(directory, "append-journal", door)
    return NewChain(path, start, end, len(data))
