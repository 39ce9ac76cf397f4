"""Frames between two replicators: bytes to frames and back (pure).

What enters: the payload of a frame and its kind. What leaves: bytes for the connection, and back.
A frame that is too long, of an unknown kind or damaged raises ProtocolError: that costs the
connection, never data. Called by `session` and `transport`. Format: docs/protocol/replication.md.
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

import zstandard
from crc32c import crc32c

from everup.errors import ProtocolError
from everup.limits import BATCH_BYTES_MAX, FRAME_BYTES_MAX

HEADER = Struct("<BBHII")
HEADER_BYTES = HEADER.size
MESSAGE_BYTES_MAX = 1 << 20
"""Largest frame of every kind but BATCH and BLOCKS."""

ENCODING_RAW = 0
ENCODING_ZSTD = 1
COMPRESSION_LEVELS = ((256 << 10, -5), (2 << 20, 1), (1 << 62, 3))
"""(bytes that wait for the link, up to which the level is used; zstd level)."""
COMPRESSED_FROM_BYTES = 256
"""Shorter bodies are not worth the call."""
PAYS_ABOVE = 1.05
"""Compressed only when raw / compressed is at least this."""

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
    SYNC = 20
    BLOCKS = 21


BULKY = frozenset((Kind.BATCH, Kind.BLOCKS))
_KINDS = {int(kind): kind for kind in Kind}


Packed = tuple[int, bytes | memoryview]


class Frame(NamedTuple):
    kind: Kind
    payload: bytes


class BatchFrame(NamedTuple):
    """One whole batch as it stands in the journal, and the length of its last record (BATCH)."""

    data: bytes
    end_bytes: int


def encode(kind: Kind, *parts: bytes | memoryview) -> list[bytes | memoryview]:
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


class Packer:
    """Compresses bodies when it pays; keeps the compressors between calls. One thread at a time.

    The level follows what waits for the link: a link that keeps up gets the fastest level, since
    processor time is worth more than bytes there; the fuller the pipe, the more is compressed.
    After bodies that did not pay it skips the attempt for a while (up to 16 bodies), since random
    or already compressed data tends to come in runs.
    """

    def __init__(self) -> None:
        self._compressors = [
            (up_to, zstandard.ZstdCompressor(level=level, write_content_size=True))
            for up_to, level in COMPRESSION_LEVELS
        ]
        self._skip = 0
        self._skip_next = 1

    def pack(self, data: bytes | memoryview, waiting_bytes: int = 0) -> Packed:
        """(encoding, body); `waiting_bytes` are on their way and not yet acknowledged."""
        if len(data) < COMPRESSED_FROM_BYTES:
            return ENCODING_RAW, data
        if self._skip:
            self._skip -= 1
            return ENCODING_RAW, data
        compressor = next(c for up_to, c in self._compressors if waiting_bytes <= up_to)
        packed = compressor.compress(data)
        if len(packed) * PAYS_ABOVE <= len(data):
            self._skip_next = 1
            return ENCODING_ZSTD, packed
        self._skip = self._skip_next
        self._skip_next = min(16, self._skip_next * 2)
        return ENCODING_RAW, data


class Unpacker:
    """Undoes `Packer`. One thread at a time."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)

    def unpack(self, encoding: int, body: memoryview, length: int) -> bytes:
        """The raw bytes, exactly `length` of them. Raises ProtocolError."""
        if encoding == ENCODING_RAW:
            raw = bytes(body)
        elif encoding == ENCODING_ZSTD:
            try:
                parameters = zstandard.get_frame_parameters(body)
                if parameters.content_size != length:
                    raise ProtocolError("a compressed body has a wrong size", code="frame-body")
                raw = self._decompressor.decompress(body, max_output_size=length)
            except zstandard.ZstdError as problem:
                raise ProtocolError(
                    f"a compressed body is not readable: {problem}", code="frame-body"
                ) from problem
        else:
            raise ProtocolError(f"unknown encoding {encoding}", code="frame-encoding")
        if len(raw) != length:
            raise ProtocolError("a body has a wrong size", code="frame-body")
        return raw


def encode_batch(
    data: bytes | memoryview, end_bytes: int, packer: Packer, waiting_bytes: int = 0
) -> list[bytes | memoryview]:
    """BATCH frame for the bytes of one batch whose BATCH record is `end_bytes` long."""
    encoding, body = packer.pack(data, waiting_bytes)
    return encode(Kind.BATCH, _BATCH.pack(encoding, 0, 0, len(data), end_bytes), body)


def decode_batch(payload: bytes, unpacker: Unpacker) -> BatchFrame:
    """Raises ProtocolError."""
    if len(payload) < _BATCH.size:
        raise ProtocolError("a BATCH frame is too short", code="frame-body")
    encoding, _, _, length, end_bytes = _BATCH.unpack_from(payload)
    if not 0 < end_bytes <= length <= BATCH_BYTES_MAX:
        raise ProtocolError("a BATCH frame has impossible lengths", code="frame-body")
    data = unpacker.unpack(encoding, memoryview(payload)[_BATCH.size :], length)
    return BatchFrame(data, end_bytes)


_BLOCKS = Struct("<QQIBBHI")


class BlocksFrame(NamedTuple):
    """Bytes of a file on their way to the peer during a sync; the handle names the file."""

    handle: int
    offset: int
    data: bytes


def encode_blocks(
    handle: int,
    offset: int,
    data: bytes | memoryview,
    packer: Packer,
    waiting_bytes: int = 0,
) -> list[bytes | memoryview]:
    encoding, body = packer.pack(data, waiting_bytes)
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
