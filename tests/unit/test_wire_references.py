"""Batches with references: byte for byte the same, refused when they do not fit, filled."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_wire_session import connected, frames

from everup.errors import ProtocolError
from everup.journal.operation import BatchEnd, encode_batch_end, encode_write
from everup.journal.reader import Batch
from everup.journal.record import Operation, encode_head
from everup.model.position import ORIGIN, Position
from everup.replicate.blocks import BLOCK_BYTES, hash_bytes
from everup.replicate.known import ENTRIES_MAX, PIECE_BYTES_MIN, Known, pieces_of
from everup.wire.frames import FrameDecoder
from everup.wire.packing import Packer, Unpacker
from everup.wire.references import (
    Fill,
    Need,
    Reference,
    SparseBatch,
    decode_sparse,
    encode_sparse,
    whole,
)

DIGEST = bytes(16)
OBJECT = bytes(range(16))


def reference(at: int, length: int) -> Reference:
    return Reference(at, length, DIGEST, 1, b"a/b", 0)


@st.composite
def batches(draw: st.DrawFn) -> tuple[bytes, int, list[Reference]]:
    data = draw(st.binary(min_size=1, max_size=600))
    end_bytes = draw(st.integers(1, len(data)))
    cuts = sorted(draw(st.sets(st.integers(0, len(data) - end_bytes), max_size=9)))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return data, end_bytes, [reference(begin, end - begin) for begin, end in pairs]


@given(batches())
def test_reference_batches_come_back_whole(made: tuple[bytes, int, list[Reference]]) -> None:
    data, end_bytes, references = made
    pieces = encode_sparse(9, data, end_bytes, references, Packer())
    (frame,) = FrameDecoder().feed(b"".join(pieces))
    sparse = decode_sparse(frame.payload, Unpacker())
    assert (sparse.number, sparse.length, sparse.end_bytes) == (9, len(data), end_bytes)
    assert len(sparse.rest) == len(data) - sum(each.length for each in references)
    found = [data[each.at : each.at + each.length] for each in references]
    assert whole(sparse, found) == data


@pytest.mark.parametrize(
    "references",
    [
        [reference(0, 50), reference(40, 10)],
        [reference(50, 10), reference(0, 10)],
        [reference(95, 10)],
        [reference(85, 10)],
        [reference(1 << 31, 1)],
    ],
)
def test_reference_lists_that_do_not_fit_are_refused(references: list[Reference]) -> None:
    """Over each other, in disorder, behind the end, over the end record."""
    pieces = encode_sparse(1, bytes(100), 10, references, Packer())
    (frame,) = FrameDecoder().feed(b"".join(pieces))
    with pytest.raises(ProtocolError):
        decode_sparse(frame.payload, Unpacker())


def test_reference_bytes_that_are_missing_are_asked_for() -> None:
    source, target = connected(("context", "sparse"))
    data = bytes(range(200)) * 5
    references = [reference(10, 300), reference(400, 100)]
    (frame,) = frames(source.batch(data, 20, 41, 2, 0, references))
    sparse = target.receive(frame)
    assert isinstance(sparse, SparseBatch)
    (frame,) = frames(target.need(Need(sparse.number, [1])))
    need = source.receive(frame)
    assert isinstance(need, Need)
    for missing in ([1] * 4096, [1, 0]):
        with pytest.raises(ProtocolError):
            source.fill(Need(sparse.number, missing))  # a frame of any size could be asked for
    pieces, wanted = source.fill(need)
    assert wanted == references[1:]
    (frame,) = frames(pieces)
    assert target.receive(frame) == Fill(sparse.number, data[400:500])
    (frame,) = frames(target.acknowledge(Position(3, 41, bytes(16)), None))
    source.receive(frame)
    with pytest.raises(ProtocolError):
        source.fill(need)  # it was acknowledged: nobody can lack it
    with pytest.raises(ProtocolError):
        source.fill(Need(99, [0]))


def batch_of(*writes: tuple[bytes, int, bytes]) -> Batch:
    data = b""
    for number, (path, offset, payload) in enumerate(writes):
        arguments = encode_write(offset, path)
        data += encode_head(Operation.WRITE, 1, 1, number + 1, OBJECT, arguments, payload) + payload
    end = encode_batch_end(BatchEnd(1, len(writes), len(data), bytes(16), 0))
    data += encode_head(Operation.BATCH, 0, 1, len(writes) + 1, bytes(16), end)
    position = Position(1, len(writes) + 1, bytes(16))
    return Batch(data, ORIGIN, position, len(writes), 0)


def test_reference_pieces_are_whole_blocks_and_what_is_left() -> None:
    noise = random.Random(1).randbytes(3 * BLOCK_BYTES)
    batch = batch_of(
        (b"a", 0, noise[: 2 * BLOCK_BYTES + 5000]),
        (b"b", 100, noise[:5000]),
        (b"c", BLOCK_BYTES - 10, noise[: BLOCK_BYTES + 10]),
        (b"d", 0, noise[: PIECE_BYTES_MIN - 1]),
    )
    pieces = pieces_of(batch)
    assert [(p.path, p.offset, p.length) for p in pieces] == [
        (b"a", 0, BLOCK_BYTES),
        (b"a", BLOCK_BYTES, BLOCK_BYTES),
        (b"a", 2 * BLOCK_BYTES, 5000),
        (b"c", BLOCK_BYTES, BLOCK_BYTES),
    ]
    for piece in pieces:
        assert hash_bytes(batch.data[piece.at : piece.at + piece.length]) == piece.digest


def test_reference_only_to_what_the_peer_has_applied() -> None:
    known = Known()
    noise = random.Random(1).randbytes(9000)
    pieces = pieces_of(batch_of((b"a", 0, noise)))
    assert known.references(pieces, 100) == []
    known.learn(pieces, 50)
    again = pieces_of(batch_of((b"copy", 0, noise)))
    assert known.references(again, 49) == []
    (found,) = known.references(again, 50)
    assert (found.path, found.offset, found.length, found.digest) == (
        b"a", 0, 9000, hash_bytes(noise),
    )  # fmt: skip
    known.forget([found])
    assert known.references(again, 50) == []


def test_reference_blocks_of_a_proof_are_found_by_what_is_written() -> None:
    known = Known()
    noise = random.Random(1).randbytes(BLOCK_BYTES + 3000)
    hashes = hash_bytes(noise[:BLOCK_BYTES]) + hash_bytes(noise[BLOCK_BYTES:])
    known.learn_blocks(1, b"a", len(noise), [0, 1], hashes)
    pieces = pieces_of(batch_of((b"copy", 0, noise)))
    found = known.references(pieces, 0)
    assert [(each.offset, each.length) for each in found] == [(0, BLOCK_BYTES), (BLOCK_BYTES, 3000)]


def test_reference_memory_is_bounded_and_the_oldest_go() -> None:
    known = Known()
    for number in range(ENTRIES_MAX + 10):
        known.learn_blocks(1, b"a", BLOCK_BYTES, [0], hash_bytes(b"%d" % number))
    assert len(known._where) == ENTRIES_MAX
    assert hash_bytes(b"0") not in known._where and hash_bytes(b"10") in known._where
