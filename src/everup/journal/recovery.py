"""What a journal holds after a crash, and whether it may be gone on with.

What enters: a directory of segments. What leaves: where the newest segment ends, or an error that
names the place (segment, offset, sequence). Called by the writer when it opens a journal.

Only headers and last records of the older segments are read, and the newest segment whole: each
segment is made durable before the next one begins, so a crash can only have torn the newest one.
What is wrong inside an older one is found by whoever reads it, since a reader checks every byte.
"""

import mmap
import os
from itertools import pairwise
from pathlib import Path
from stat import S_IMODE
from typing import NamedTuple

from everup.errors import Corrupt
from everup.journal.operation import BatchEnd, decode_arguments, encode_batch_end
from everup.journal.reader import Scan, scan, view_of
from everup.journal.record import HEADER_BYTES, MAGIC, Operation, Record, decode
from everup.journal.segment import SUFFIX, SegmentInfo, list_segments
from everup.model.position import Position

END_BYTES = HEADER_BYTES + len(encode_batch_end(BatchEnd(0, 0, 0, bytes(16), 0)))
"""Length of a BATCH record: the last one of every segment but the newest."""
PRIVATE = 0o600


class Found(NamedTuple):
    """The newest segment, and what lies behind the first thing in it that is not whole."""

    last: SegmentInfo
    result: Scan
    stranded: Record | None
    """A whole record behind the damage: then this is no torn tail."""


def examine(directory: Path) -> Found | None:
    """None: no journal here yet. Raises Corrupt when it may not be gone on with, OSError."""
    segments = list_segments(directory)
    _remove_unborn(directory, segments)
    if not segments:
        return None
    for info in segments:
        _check_owner(info.path)
    for before, after in pairwise(segments):
        if not after.after_gap:
            _check_joint(before, after)
    last = segments[-1]
    result = scan(last)
    stranded = None
    if result.loose_end_offset < last.byte_count:
        known = result.loose[-1].sequence if result.loose else result.end.sequence
        stranded = _whole_record_behind(last.path, result.loose_end_offset, known)
    return Found(last, result, stranded)


def _remove_unborn(directory: Path, segments: list[SegmentInfo]) -> None:
    """A newest segment whose header never reached the disk holds nothing; it would stand in the
    way of the next one. Raises Corrupt when it does hold something."""
    known = {info.path for info in segments}
    for path in directory.glob(f"*{SUFFIX}"):
        if path in known:
            continue
        stranded = _whole_record_behind(path, 0, 0) if path.stat().st_size else None
        if stranded is not None:
            raise Corrupt(
                f"segment {path} has no header, but holds record {stranded.sequence}",
                code="segment-header",
            )
        path.unlink()


def stranded_problem(path: Path, result: Scan, stranded: Record) -> Corrupt:
    """Why a newest segment is not cut although it is not whole."""
    first = result.problem or Corrupt(
        f"{path} is damaged at offset {result.loose_end_offset}: nothing is written there",
        code="journal-hole",
    )
    return Corrupt(
        f"{first.sentence}; record {stranded.sequence} behind it is whole", code=first.code
    )


def _check_owner(path: Path) -> None:
    """Only this server's own user may have written it; others have no business reading it."""
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise Corrupt(
            f"segment {path} belongs to user {status.st_uid}, who is not the guard's",
            code="segment-owner",
        )
    if S_IMODE(status.st_mode) != PRIVATE:
        path.chmod(PRIVATE)


def _check_joint(before: SegmentInfo, after: SegmentInfo) -> None:
    """The last record of a segment ends at the very position at which the next one begins."""
    end = _last_end(before)
    if end != after.start:
        found = "no end of a batch" if end is None else f"{end.epoch}/{end.sequence}"
        raise Corrupt(
            f"{before.path} ends (offset {before.byte_count}) with {found}, but {after.path} goes "
            f"on at {after.start.epoch}/{after.start.sequence}",
            code="journal-gap",
        )


def _last_end(info: SegmentInfo) -> Position | None:
    with info.path.open("rb") as file:
        file.seek(max(0, info.byte_count - END_BYTES))
        data = file.read(END_BYTES)
    try:
        record = decode(memoryview(data))
        if record is None or record.operation != Operation.BATCH:
            return None
        end = decode_arguments(record)
    except Corrupt:
        return None
    assert isinstance(end, BatchEnd)
    return Position(record.epoch, record.sequence, end.checksum)


def _whole_record_behind(path: Path, offset: int, sequence: int) -> Record | None:
    """The first whole record after `offset` that was written after `sequence`."""
    view = view_of(path)
    data = view.obj
    assert isinstance(data, mmap.mmap)
    at = data.find(MAGIC, offset + 1)
    while at >= 0:
        try:
            record = decode(view, at)
        except Corrupt:
            record = None
        if record is not None and record.sequence > sequence:
            return record._replace(arguments=memoryview(b""), payload=memoryview(b""))
        at = data.find(MAGIC, at + 1)
    return None
