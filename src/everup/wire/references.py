"""Batches whose repeated bytes stay at home (pure).

What enters: a batch, and which of its bytes the target has in a file of its own. What leaves: a
frame that holds the rest and says where to find these bytes, and back. The target hashes what it
finds before it uses it, and the chain hash of the whole batch is checked as always, so what is
stored are the journal's bytes. What it does not find it asks for (NEED, answered by FILL). Called
by `session` and by `replicate`. Format: docs/protocol/replication.md.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Annotated, NamedTuple

import msgspec

from everup.errors import ProtocolError
from everup.limits import BATCH_BYTES_MAX, FRAME_BYTES_MAX
from everup.wire.frames import Kind, Pieces, check_form, encode
from everup.wire.messages import Number
from everup.wire.packing import Packer, Unpacker
from everup.wire.syncmessages import Path, Small

DIGEST_BYTES = 16
REFERENCES_MAX = 4096
"""In one batch."""

Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """`length` bytes at `at` in the batch are those at `offset` in a file of the target."""

    at: Small
    length: Annotated[int, msgspec.Meta(ge=1, le=BATCH_BYTES_MAX)]
    digest: Digest
    """BLAKE3 of these bytes, zeros at the end cut off, as everywhere for blocks."""
    tree: Small
    path: Path
    offset: Number


class SparseBatch(NamedTuple):
    """A batch without the bytes that are referred to (BATCH_SPARSE)."""

    number: int
    """Counts the sparse batches of a connection; NEED and FILL name it."""
    references: list[Reference]
    rest: bytes
    """All other bytes of the batch, in order."""
    length: int
    end_bytes: int
    lean: bool = False
    """`length` and the references are those of the lean form of the batch."""


class Need(msgspec.Struct, frozen=True, array_like=True):
    """Target to source: these references of sparse batch `number` are not to be found here."""

    number: Number
    missing: Annotated[list[Small], msgspec.Meta(min_length=1, max_length=REFERENCES_MAX)]


class Fill(NamedTuple):
    """Source to target: the bytes of everything that was missing, behind each other."""

    number: int
    data: bytes


_SPARSE = Struct("<BBHIIIIQ")
_FILL = Struct("<BBHIQ")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(
    Annotated[list[Reference], msgspec.Meta(max_length=REFERENCES_MAX)]
)


def encode_sparse(
    number: int,
    data: bytes,
    end_bytes: int,
    references: Sequence[Reference],
    packer: Packer,
    *,
    lean: bool = False,
) -> Pieces:
    """`references` in the order of the batch, and none over another."""
    listed = _encoder.encode(references)
    view = memoryview(data)
    parts: Pieces = [listed]
    at = 0
    for reference in references:
        parts.append(view[at : reference.at])
        at = reference.at + reference.length
    parts.append(view[at:])
    raw = b"".join(parts)
    encoding, body = packer.pack(raw)
    head = _SPARSE.pack(encoding, lean, 0, len(data), end_bytes, len(raw), len(listed), number)
    return encode(Kind.BATCH_SPARSE, head, body)


def decode_sparse(payload: bytes, unpacker: Unpacker) -> SparseBatch:
    """Raises ProtocolError."""
    if len(payload) < _SPARSE.size:
        raise ProtocolError("a BATCH_SPARSE frame is too short", code="frame-body")
    encoding, form, _, length, end_bytes, raw_bytes, listed, number = _SPARSE.unpack_from(payload)
    check_form(form, end_bytes, length)
    if not listed <= raw_bytes <= FRAME_BYTES_MAX:
        raise ProtocolError("a BATCH_SPARSE frame has impossible lengths", code="frame-body")
    raw = unpacker.unpack(encoding, memoryview(payload)[_SPARSE.size :], raw_bytes)
    try:
        references = _decoder.decode(memoryview(raw)[:listed])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise ProtocolError(f"references are not readable: {problem}", code="message") from problem
    at = 0
    for reference in references:
        if reference.at < at:
            raise ProtocolError("references lie over each other", code="frame-body")
        at = reference.at + reference.length
    referred = sum(reference.length for reference in references)
    if at > (length if form else length - end_bytes) or raw_bytes - listed + referred != length:
        raise ProtocolError("references do not make up the batch", code="frame-body")
    return SparseBatch(number, references, raw[listed:], length, end_bytes, bool(form))


def whole(batch: SparseBatch, found: Sequence[bytes]) -> bytes:
    """The batch's bytes; `found` are those of its references, each of the right length."""
    rest = memoryview(batch.rest)
    parts: Pieces = []
    at = taken = 0
    for reference, data in zip(batch.references, found, strict=True):
        between = reference.at - at
        parts.append(rest[taken : taken + between])
        parts.append(data)
        taken += between
        at = reference.at + reference.length
    parts.append(rest[taken:])
    return b"".join(parts)


def encode_fill(number: int, parts: Sequence[bytes | memoryview], packer: Packer) -> Pieces:
    """Answer to a Need: the bytes of the missing references, in its order."""
    raw = b"".join(parts)
    encoding, body = packer.pack(raw)
    return encode(Kind.FILL, _FILL.pack(encoding, 0, 0, len(raw), number), body)


def decode_fill(payload: bytes, unpacker: Unpacker) -> Fill:
    """Raises ProtocolError."""
    if len(payload) < _FILL.size:
        raise ProtocolError("a FILL frame is too short", code="frame-body")
    encoding, _, _, length, number = _FILL.unpack_from(payload)
    if length > BATCH_BYTES_MAX:
        raise ProtocolError("a FILL frame has an impossible length", code="frame-body")
    return Fill(number, unpacker.unpack(encoding, memoryview(payload)[_FILL.size :], length))
