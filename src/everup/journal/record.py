"""Bytes of one record: header, check sum, arguments, payload (pure).

What enters: the values of a change. What leaves: its bytes, and back. Called by the writer (guard),
the readers (replicator, recovery) and the applier. Format: docs/formats/journal.md.
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

from everup.errors import Corrupt
from everup.limits import RECORD_BYTES_MAX

MAGIC = b"EVR1"
HEADER = Struct("<4sIIBBHQQQQQ16sII")
HEADER_BYTES = HEADER.size
CHECKED_FROM = 12
FLAG_LATE = 1
_PREFIX = Struct("<4sII")
_CHECKED = Struct("<BBHQQQQQ16sII")

assert HEADER_BYTES == 80 and _PREFIX.size == CHECKED_FROM


class Operation(IntEnum):
    """Codes of the operations; a code is never used again for something else."""

    EPOCH = 1
    BATCH = 2
    ADOPT = 3
    GAP = 4
    CREATE = 10
    ORPHAN = 11
    UNLINK = 12
    LINK = 13
    RENAME = 14
    WRITE = 20
    TRUNCATE = 21
    ALLOCATE = 22
    ATTRIBUTES = 23
    SET_XATTR = 24
    REMOVE_XATTR = 25
    TIMES = 26
    RELEASED = 30


class Record(NamedTuple):
    """One decoded record; `arguments` and `payload` are views into the bytes it came from."""

    operation: int
    flags: int
    tree: int
    epoch: int
    sequence: int
    unique: int
    wall_ns: int
    boot_ns: int
    object_id: bytes
    arguments: memoryview
    payload: memoryview
    length: int


def encode_head(
    operation: int,
    tree: int,
    epoch: int,
    sequence: int,
    object_id: bytes,
    arguments: bytes,
    payload: bytes | bytearray | memoryview = b"",
    *,
    unique: int = 0,
    wall_ns: int = 0,
    boot_ns: int = 0,
    flags: int = 0,
) -> bytes:
    """Header and arguments of a record; the payload follows them and is not copied here."""
    checked = (
        _CHECKED.pack(
            operation,
            flags,
            tree,
            epoch,
            sequence,
            unique,
            wall_ns,
            boot_ns,
            object_id,
            len(arguments),
            0,
        )
        + arguments
    )
    check = crc32c(checked)
    if payload:
        check = crc32c(payload, check)
    length = CHECKED_FROM + len(checked) + len(payload)
    return _PREFIX.pack(MAGIC, length, check) + checked


def decode(data: memoryview, offset: int = 0) -> Record | None:
    """The record that begins at `offset`.

    None when the bytes end before the record does or the data ends here (zero magic): the normal
    end of a file that is still being written. Raises Corrupt when the bytes are not a record.
    """
    available = len(data) - offset
    if available < HEADER_BYTES:
        return None
    (magic, length, check, operation, flags, tree, epoch, sequence, unique, wall_ns, boot_ns,
     object_id, arguments_length, zero) = HEADER.unpack_from(data, offset)  # fmt: skip
    if magic != MAGIC:
        if magic == b"\0\0\0\0":
            return None
        raise Corrupt(f"no record begins at offset {offset}", code="journal-magic")
    if not HEADER_BYTES + arguments_length <= length <= RECORD_BYTES_MAX or zero:
        raise Corrupt(f"record at offset {offset} has an impossible length", code="journal-length")
    if available < length:
        return None
    end = offset + length
    if crc32c(data[offset + CHECKED_FROM : end]) != check:
        raise Corrupt(f"record {sequence} at offset {offset} is damaged", code="journal-check")
    body = offset + HEADER_BYTES
    return Record(
        operation,
        flags,
        tree,
        epoch,
        sequence,
        unique,
        wall_ns,
        boot_ns,
        object_id,
        data[body : body + arguments_length],
        data[body + arguments_length : end],
        length,
    )
