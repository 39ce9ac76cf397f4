"""Batches without what the other side can work out by itself (pure).

What enters: a batch as it stands in the journal. What leaves: the same in columns, the payloads
behind them, and back, byte for byte. Magic, check sums, sequences and epochs are left out, since
they follow from the rest; times, offsets and ids are written as differences and numbers. Worth it
for many short records, which a log or a database writes: a compressor can do nothing about check
sums, and little about times. Called by `pipe` and `fetching`; only on slow links, since it costs
some microseconds for each record. Format: docs/protocol/replication.md.
"""

from struct import Struct
from struct import error as StructError
from typing import NamedTuple

import msgspec

from everup.errors import ProtocolError
from everup.journal.record import HEADER, HEADER_BYTES, Operation, encode_head
from everup.limits import BATCH_BYTES_MAX

_LENGTH = Struct("<I")
_OFFSET = Struct("<Q")
ID_BYTES = 16
_WRITE = int(Operation.WRITE)


class Columns(msgspec.Struct, frozen=True, array_like=True):
    """What is in the heads of the records, one entry for each."""

    epoch: int
    sequence: int
    """Of the first record."""
    kinds: list[int]
    """Operation, flags << 8, tree << 16."""
    arguments: list[int]
    """Numbers in `texts`."""
    texts: list[bytes]
    """Different arguments; those of writes without their offset."""
    offsets: list[int]
    """Of writes: how far behind the end of the object's write before."""
    objects: list[int]
    """Numbers in `ids`."""
    ids: bytes
    payloads: list[int]
    """Lengths."""
    uniques: list[int]
    """Differences to the record before, as the following two."""
    walls: list[int]
    drifts: list[int]
    """Boot clock less wall clock."""


class Lean(NamedTuple):
    """`data`: columns, then payloads; `payloads`: where those of each record begin in it."""

    data: bytes
    payloads: list[int]


_UNREADABLE = (
    msgspec.MsgspecError, ValueError, IndexError, OverflowError, StopIteration, StructError,
    RecursionError,
)  # fmt: skip
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Columns)


def lean(data: bytes) -> Lean | None:
    """None when it does not fit the form (more than one epoch) or would not be shorter.

    `data` was checked when it was read.
    """
    kinds: list[int] = []
    arguments: list[int] = []
    offsets: list[int] = []
    objects: list[int] = []
    payloads: list[int] = []
    uniques: list[int] = []
    walls: list[int] = []
    drifts: list[int] = []
    bodies: list[memoryview] = []
    texts: dict[bytes, int] = {}
    ids: dict[bytes, int] = {}
    ends: dict[int, int] = {}
    at = last_unique = last_wall = last_drift = 0
    first_epoch = first_sequence = -1
    view = memoryview(data)
    while at < len(data):
        (_, length, _, operation, flags, tree, epoch, sequence, unique, wall_ns, boot_ns, object_id,
         arguments_length, _) = HEADER.unpack_from(view, at)  # fmt: skip
        if first_epoch < 0:
            first_epoch, first_sequence = epoch, sequence
        if epoch != first_epoch or sequence != first_sequence + len(kinds):
            return None
        body = at + HEADER_BYTES + arguments_length
        text = data[at + HEADER_BYTES : body]
        size = at + length - body
        number = ids.setdefault(object_id, len(ids))
        if operation == _WRITE:
            (offset,) = _OFFSET.unpack_from(text)
            offsets.append(offset - ends.get(number, 0))
            ends[number] = offset + size
            text = text[_OFFSET.size :]
        kinds.append(operation | flags << 8 | tree << 16)
        arguments.append(texts.setdefault(text, len(texts)))
        objects.append(number)
        payloads.append(size)
        bodies.append(view[body : at + length])
        uniques.append(unique - last_unique)
        walls.append(wall_ns - last_wall)
        drifts.append(boot_ns - wall_ns - last_drift)
        last_unique, last_wall, last_drift = unique, wall_ns, boot_ns - wall_ns
        at += length
    try:
        columns = _encoder.encode(
            Columns(
                first_epoch, first_sequence, kinds, arguments, list(texts), offsets, objects,
                b"".join(ids), payloads, uniques, walls, drifts,
            )
        )  # fmt: skip
    except OverflowError:
        return None
    found = b"".join([_LENGTH.pack(len(columns)), columns, *bodies])
    if len(found) >= len(data):
        return None
    begin, begins = _LENGTH.size + len(columns), []
    for size in payloads:
        begins.append(begin)
        begin += size
    return Lean(found, begins)


def whole_again(found: bytes) -> bytes:
    """The batch's bytes. Raises ProtocolError for what `lean` never made."""
    try:
        (length,) = _LENGTH.unpack_from(found)
        columns = _decoder.decode(memoryview(found)[_LENGTH.size : _LENGTH.size + length])
        return _rebuilt(columns, found, _LENGTH.size + length)
    except _UNREADABLE as problem:
        raise ProtocolError(f"a lean batch is not readable: {problem}", code="frame-body") from None


def _rebuilt(columns: Columns, found: bytes, at: int) -> bytes:
    texts, ids = columns.texts, columns.ids
    offsets = iter(columns.offsets)
    ends: dict[int, int] = {}
    unique = wall_ns = drift = total = 0
    sequence = columns.sequence
    view = memoryview(found)
    parts: list[bytes | memoryview] = []
    rows = zip(
        columns.kinds, columns.arguments, columns.objects, columns.payloads,
        columns.uniques, columns.walls, columns.drifts, strict=True,
    )  # fmt: skip
    for kind, argument, number, size, unique_step, wall_step, drift_step in rows:
        unique, wall_ns, drift = unique + unique_step, wall_ns + wall_step, drift + drift_step
        text = texts[argument]
        operation = kind & 0xFF
        if operation == _WRITE:
            offset = ends.get(number, 0) + next(offsets)
            ends[number] = offset + size
            text = _OFFSET.pack(offset) + text
        total += HEADER_BYTES + len(text) + size
        if size < 0 or total > BATCH_BYTES_MAX:
            raise ProtocolError("a lean batch is longer than allowed", code="frame-body")
        payload = view[at : at + size]
        head = encode_head(
            operation, kind >> 16, columns.epoch, sequence,
            ids[number * ID_BYTES : (number + 1) * ID_BYTES], text, payload,
            unique=unique, wall_ns=wall_ns, boot_ns=wall_ns + drift, flags=kind >> 8 & 0xFF,
        )  # fmt: skip
        parts += [head, payload]
        sequence += 1
        at += size
    if at != len(found):
        raise ProtocolError("a lean batch has a wrong length", code="frame-body")
    return b"".join(parts)
