"""Frames between two replicators: bytes to frames and back (pure).

What enters: the payload of a frame and its kind. What leaves: bytes for the connection, and back.
A frame that is too long, of an unknown kind or damaged raises ProtocolError: that costs the
connection, never data. Called by `session` and `transport`. Format: docs/protocol/replication.md.
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

from everup.errors import ProtocolError
from everup.limits import BATCH_BYTES_MAX, FRAME_BYTES_MAX
from everup.wire.packing import Packer, Unpacker

HEADER = Struct("<BBHII")
HEADER_BYTES = HEADER.size
MESSAGE_BYTES_MAX = 1 << 20
"""Largest frame of every kind but those that carry batches or files."""

_BATCH = Struct("<BBHII")


class Kind(IntEnum):
    """Kinds of frames; a number is never used again for something else."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    START = 4
    BATCH = 5
    ACKNOWLEDGE = 6
    IDLE = 7
    STATE = 8
    BATCH_SPARSE = 9
    NEED = 10
    FILL = 11
    SYNC = 20
    BLOCKS = 21
    SYNC_PACKED = 22


BULKY = frozenset((Kind.BATCH, Kind.BATCH_SPARSE, Kind.FILL, Kind.BLOCKS))
_KINDS = {int(kind): kind for kind in Kind}


Pieces = list[bytes | memoryview]


class Frame(NamedTuple):
    kind: Kind
    payload: bytes


class BatchFrame(NamedTuple):
    """One whole batch as it stands in the journal, and the length of its last record (BATCH)."""

    data: bytes
    end_bytes: int
    lean: bool = False
    """`data` is the lean form of the batch (`replicate.lean`)."""


def encode(kind: Kind, *parts: bytes | memoryview) -> Pieces:
    """Pieces of one frame, to be sent in this order; `parts` are not copied."""
    length = 0
    check = 0
    for part in parts:
        length += len(part)
        check = crc32c(part, check)
    _check_length(kind, length)
    return [HEADER.pack(kind, 0, 0, length, check), *parts]


def _check_length(kind: Kind, length: int) -> None:
    if length > (FRAME_BYTES_MAX if kind in BULKY else MESSAGE_BYTES_MAX):
        raise ProtocolError(
            f"a {kind.name} frame of {length} bytes is longer than allowed", code="frame-length"
        )


class FrameDecoder:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = HEADER_BYTES

    @property
    def held_bytes(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Every frame that is whole now. Raises ProtocolError; the decoder is then useless."""
        self._buffer += data
        frames: list[Frame] = []
        offset = 0
        buffer = self._buffer
        while len(buffer) - offset >= self._need:
            kind_code, flags, zero, length, check = HEADER.unpack_from(buffer, offset)
            kind = _known(kind_code, flags, zero)
            _check_length(kind, length)
            end = offset + HEADER_BYTES + length
            if len(buffer) < end:
                self._need = HEADER_BYTES + length
                break
            self._need = HEADER_BYTES
            with memoryview(buffer) as view:
                payload = bytes(view[offset + HEADER_BYTES : end])
            if crc32c(payload) != check:
                raise ProtocolError(f"a {kind.name} frame is damaged", code="frame-check")
            frames.append(Frame(kind, payload))
            offset = end
        if offset:
            del buffer[:offset]
        return frames


def _known(kind_code: int, flags: int, zero: int) -> Kind:
    kind = _KINDS.get(kind_code)
    if kind is None or flags or zero:
        raise ProtocolError(
            f"a frame of the unknown kind {kind_code} (flags {flags})", code="frame-kind"
        )
    return kind


def encode_batch(
    data: bytes | memoryview, end_bytes: int, packer: Packer, *, lean: bool = False
) -> Pieces:
    """BATCH frame for the bytes of one batch whose BATCH record is `end_bytes` long."""
    encoding, body = packer.pack(data)
    return encode(Kind.BATCH, _BATCH.pack(encoding, lean, 0, len(data), end_bytes), body)


def decode_batch(payload: bytes, unpacker: Unpacker) -> BatchFrame:
    """Raises ProtocolError."""
    if len(payload) < _BATCH.size:
        raise ProtocolError("a BATCH frame is too short", code="frame-body")
    encoding, form, _, length, end_bytes = _BATCH.unpack_from(payload)
    check_form(form, end_bytes, length)
    data = unpacker.unpack(encoding, memoryview(payload)[_BATCH.size :], length)
    return BatchFrame(data, end_bytes, bool(form))


def check_form(form: int, end_bytes: int, length: int) -> None:
    """Raises ProtocolError for a batch that cannot be; a lean one may be shorter than its end."""
    possible = 0 < end_bytes <= BATCH_BYTES_MAX and 0 < length <= BATCH_BYTES_MAX
    if form > 1 or not possible or (not form and end_bytes > length):
        raise ProtocolError("a batch has impossible lengths", code="frame-body")


_BLOCKS = Struct("<QQIBBHI")


class BlocksFrame(NamedTuple):
    """Bytes of a file on their way to the peer during a sync; the handle names the file."""

    handle: int
    offset: int
    data: bytes


def encode_blocks(handle: int, offset: int, data: bytes | memoryview, packer: Packer) -> Pieces:
    encoding, body = packer.pack(data)
    return encode(Kind.BLOCKS, _BLOCKS.pack(handle, offset, len(data), encoding, 0, 0, 0), body)


def decode_blocks(payload: bytes, unpacker: Unpacker) -> BlocksFrame:
    """Raises ProtocolError."""
    if len(payload) < _BLOCKS.size:
        raise ProtocolError("a BLOCKS frame is too short", code="frame-body")
    handle, offset, length, encoding, _, _, _ = _BLOCKS.unpack_from(payload)
    if length > BATCH_BYTES_MAX:
        raise ProtocolError("a BLOCKS frame has an impossible length", code="frame-body")
    data = unpacker.unpack(encoding, memoryview(payload)[_BLOCKS.size :], length)
    return BlocksFrame(handle, offset, data)


_PACKED = Struct("<BBHI")


def encode_sync(message: bytes, packer: Packer) -> Pieces:
    """A message of the sync channel, packed (SYNC_PACKED) with a peer that knows contexts."""
    if not packer.in_context:
        return encode(Kind.SYNC, message)
    encoding, body = packer.pack(message)
    return encode(Kind.SYNC_PACKED, _PACKED.pack(encoding, 0, 0, len(message)), body)


def decode_sync(payload: bytes, unpacker: Unpacker) -> bytes:
    """The message in a SYNC_PACKED frame. Raises ProtocolError."""
    if len(payload) < _PACKED.size:
        raise ProtocolError("a SYNC_PACKED frame is too short", code="frame-body")
    encoding, _, _, length = _PACKED.unpack_from(payload)
    if length > MESSAGE_BYTES_MAX:
        raise ProtocolError("a SYNC_PACKED frame has an impossible length", code="frame-body")
    return unpacker.unpack(encoding, memoryview(payload)[_PACKED.size :], length)
