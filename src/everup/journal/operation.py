"""Arguments of each operation as values (pure).

What enters: names, ids and numbers of a change. What leaves: the argument bytes of its record, and
back. Called by capture (encode) and by the applier (decode). Format: docs/formats/journal.md.
"""

import json
from struct import Struct, error
from typing import Any, NamedTuple

from everup.errors import Corrupt
from everup.journal.record import Operation, Record
from everup.model.position import Position

MASK_MODE = 1
MASK_UID = 2
MASK_GID = 4
MASK_MTIME = 8

_LENGTH = Struct("<H")
_CREATE = Struct("<16sIIIQ")
_ORPHAN = Struct("<III")
_DIRECTORY = Struct("<16s")
_RENAME = Struct("<16s16s16sI")
_NUMBER = Struct("<Q")
_ALLOCATE = Struct("<QQI")
_ATTRIBUTES = Struct("<IIIIq")
_BATCH = Struct("<QII16sB")
_TIMES = Struct("<H16sq")
_TIME_NS_MIN, _TIME_NS_MAX = -(1 << 63), (1 << 63) - 1


class Create(NamedTuple):
    """File, directory, symbolic link or special file, by `mode`; a link's target is the payload."""

    directory_id: bytes
    mode: int
    uid: int
    gid: int
    device: int
    name: bytes
    directory_hint: bytes


class Orphan(NamedTuple):
    mode: int
    uid: int
    gid: int


class Unlink(NamedTuple):
    directory_id: bytes
    name: bytes
    directory_hint: bytes


class Link(NamedTuple):
    directory_id: bytes
    name: bytes
    directory_hint: bytes
    hint: bytes


class Rename(NamedTuple):
    old_directory_id: bytes
    new_directory_id: bytes
    replaced_id: bytes
    flags: int
    old_name: bytes
    old_directory_hint: bytes
    new_name: bytes
    new_directory_hint: bytes


class Write(NamedTuple):
    offset: int
    hint: bytes


class Truncate(NamedTuple):
    size: int
    hint: bytes


class Allocate(NamedTuple):
    offset: int
    length: int
    mode: int
    hint: bytes


class Attributes(NamedTuple):
    mask: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    hint: bytes


class SetXattr(NamedTuple):
    name: bytes
    hint: bytes


class RemoveXattr(NamedTuple):
    name: bytes
    hint: bytes


class ModifiedTime(NamedTuple):
    """One entry of a TIMES record."""

    tree: int
    object_id: bytes
    mtime_ns: int


class BatchEnd(NamedTuple):
    first_sequence: int
    records: int
    byte_count: int
    checksum: bytes
    cause: int


class Epoch(NamedTuple):
    """The first record of an epoch: who writes from here on, building on which position."""

    epoch: int
    parent: Position
    server: str
    boot_id: str
    reason: str

    def to_payload(self) -> bytes:
        value = {**self._asdict(), "parent": self.parent.to_json()}
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_payload(cls, payload: bytes | memoryview) -> "Epoch":
        """Raises Corrupt."""
        try:
            value: dict[str, Any] = json.loads(bytes(payload))
            parent = Position.from_json(value["parent"])
            return cls(
                int(value["epoch"]), parent, value["server"], value["boot_id"], value["reason"]
            )
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise Corrupt(f"an EPOCH record is not readable: {problem}") from problem


class Gap(NamedTuple):
    """The only record of the first batch behind a gap: what was changed between `since` and here
    is not in the journal. Nobody applies it: no stream leads over it."""

    since: Position
    last_sequence: int
    """Not less than any that was given before the gap, in a batch that may never have ended."""
    gap_id: str
    """Names the dirty map that knows what was changed; unique."""
    server: str
    sentence: str
    """Why the journal could not be written."""

    def to_payload(self) -> bytes:
        value = {**self._asdict(), "since": self.since.to_json()}
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_payload(cls, payload: bytes | memoryview) -> "Gap":
        """Raises Corrupt."""
        try:
            value: dict[str, Any] = json.loads(bytes(payload))
            since = Position.from_json(value["since"])
            last, gap_id = int(value["last_sequence"]), str(value["gap_id"])
            return cls(since, last, gap_id, str(value["server"]), str(value["sentence"]))
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise Corrupt(f"a GAP record is not readable: {problem}") from problem


Arguments = (
    Create | Orphan | Unlink | Link | Rename | Write | Truncate | Allocate | Attributes
    | SetXattr | RemoveXattr | BatchEnd
)  # fmt: skip


def strings(*values: bytes) -> bytes:
    """Byte strings with their lengths before them."""
    return b"".join([_LENGTH.pack(len(value)) + value for value in values])


def encode_create(value: Create) -> bytes:
    return _CREATE.pack(*value[:5]) + strings(*value[5:])


def encode_orphan(value: Orphan) -> bytes:
    return _ORPHAN.pack(*value)


def encode_unlink(value: Unlink) -> bytes:
    return _DIRECTORY.pack(value[0]) + strings(*value[1:])


def encode_link(value: Link) -> bytes:
    return _DIRECTORY.pack(value[0]) + strings(*value[1:])


def encode_rename(value: Rename) -> bytes:
    return _RENAME.pack(*value[:4]) + strings(*value[4:])


def encode_write(offset: int, hint: bytes) -> bytes:
    """The hot one: no tuple in between."""
    return _NUMBER.pack(offset) + _LENGTH.pack(len(hint)) + hint


def encode_truncate(value: Truncate) -> bytes:
    return _NUMBER.pack(value[0]) + strings(value[1])


def encode_allocate(value: Allocate) -> bytes:
    return _ALLOCATE.pack(*value[:3]) + strings(value[3])


def encode_attributes(value: Attributes) -> bytes:
    return _ATTRIBUTES.pack(*value[:4], _storable(value[4])) + strings(value[5])


def encode_xattr(value: SetXattr | RemoveXattr) -> bytes:
    return strings(*value)


def encode_batch_end(value: BatchEnd) -> bytes:
    return _BATCH.pack(*value)


def encode_times(entries: list[ModifiedTime]) -> bytes:
    """Payload of a TIMES record."""
    return b"".join([_TIMES.pack(*entry[:2], _storable(entry[2])) for entry in entries])


def _storable(time_ns: int) -> int:
    """A file system may hold times beyond the year 2262, a record does not."""
    return min(max(time_ns, _TIME_NS_MIN), _TIME_NS_MAX)


def decode_times(payload: memoryview) -> list[ModifiedTime]:
    if len(payload) % _TIMES.size:
        raise Corrupt("a TIMES record has a broken entry", code="journal-arguments")
    return [ModifiedTime(*entry) for entry in _TIMES.iter_unpack(payload)]


_LAYOUT: dict[int, tuple[Struct | None, int, type[Any]]] = {
    Operation.CREATE: (_CREATE, 2, Create),
    Operation.ORPHAN: (_ORPHAN, 0, Orphan),
    Operation.UNLINK: (_DIRECTORY, 2, Unlink),
    Operation.LINK: (_DIRECTORY, 3, Link),
    Operation.RENAME: (_RENAME, 4, Rename),
    Operation.WRITE: (_NUMBER, 1, Write),
    Operation.TRUNCATE: (_NUMBER, 1, Truncate),
    Operation.ALLOCATE: (_ALLOCATE, 1, Allocate),
    Operation.ATTRIBUTES: (_ATTRIBUTES, 1, Attributes),
    Operation.SET_XATTR: (None, 2, SetXattr),
    Operation.REMOVE_XATTR: (None, 2, RemoveXattr),
    Operation.BATCH: (_BATCH, 0, BatchEnd),
}


def decode_arguments(record: Record) -> Arguments:
    """Arguments of a record, by its operation. Raises Corrupt, also for an unknown operation."""
    layout = _LAYOUT.get(record.operation)
    if layout is None:
        raise Corrupt(
            f"record {record.sequence} has the unknown operation {record.operation}",
            code="journal-operation",
        )
    fixed, count, kind = layout
    data = record.arguments
    try:
        values: list[Any] = list(fixed.unpack_from(data)) if fixed else []
        offset = fixed.size if fixed else 0
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(data, offset)
            offset += 2
            if offset + length > len(data):
                raise Corrupt(f"record {record.sequence} has a cut string")
            values.append(bytes(data[offset : offset + length]))
            offset += length
    except error as problem:
        raise Corrupt(f"record {record.sequence} has broken arguments: {problem}") from problem
    if offset != len(data):
        raise Corrupt(f"record {record.sequence} has {len(data) - offset} bytes too many")
    value: Arguments = kind(*values)
    return value
