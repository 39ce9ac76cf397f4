"""What a peer already has of the bytes that are written here, by hash.

What enters: the batches that go to the peer, and hashes from a proof of equality. What leaves:
references to bytes that the peer has applied. Owned by the pipe of a peer; `learn_blocks` is called
by the thread of a sync. Memory is bounded: the oldest are forgotten.

Pieces are those of the blocks of a sync and a proof: 128 KiB from a multiple of it in the file on,
or what is left of a write from there on. So a file that is copied by any usual tool, which writes
from the begin in large steps, is found again; what is written elsewhere, in small steps or shifted,
is not, and is left to the compression.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from everup.journal.operation import Write, decode_arguments
from everup.journal.reader import Batch
from everup.journal.record import HEADER_BYTES, Operation, decode
from everup.replicate.blocks import BLOCK_BYTES, HASH_BYTES, hash_bytes
from everup.wire.references import REFERENCES_MAX, Reference

ENTRIES_MAX = 1 << 16
"""About 16 MiB of memory, and 8 GiB of content in whole blocks."""
PIECE_BYTES_MIN = 1024
"""Shorter ones cost nearly as much as a reference."""


class Piece(NamedTuple):
    """Bytes of a write that may be found again; they begin at `at` in the batch."""

    at: int
    length: int
    digest: bytes
    tree: int
    path: bytes
    offset: int


class _Where(NamedTuple):
    tree: int
    path: bytes
    offset: int
    length: int
    sequence: int


class Known:
    """For one peer, over all its connections."""

    def __init__(self) -> None:
        self._where: dict[bytes, _Where] = {}
        self._lock = threading.Lock()

    def references(self, pieces: Sequence[Piece], applied_sequence: int) -> list[Reference]:
        """For those pieces that the peer has in its trees at `applied_sequence`."""
        found: list[Reference] = []
        with self._lock:
            for piece in pieces:
                where = self._where.get(piece.digest)
                if where is None or where.length != piece.length:
                    continue
                if where.sequence > applied_sequence or len(found) >= REFERENCES_MAX:
                    continue
                found.append(
                    Reference(
                        piece.at, piece.length, piece.digest, where.tree, where.path, where.offset
                    )
                )
        return found

    def learn(self, pieces: Sequence[Piece], sequence: int) -> None:
        """The peer has these when it has applied everything up to `sequence`."""
        with self._lock:
            for piece in pieces:
                # The newest place is the one that will last longest, but is not to be had yet.
                if piece.path and piece.digest not in self._where:
                    self._put(
                        piece.digest,
                        _Where(piece.tree, piece.path, piece.offset, piece.length, sequence),
                    )

    def learn_blocks(
        self, tree: int, path: bytes, size: int, blocks: Sequence[int], hashes: bytes
    ) -> None:
        """Blocks of a file that both sides have now."""
        with self._lock:
            for index, block in enumerate(blocks):
                offset = block * BLOCK_BYTES
                length = min(BLOCK_BYTES, size - offset)
                if length >= PIECE_BYTES_MIN:
                    digest = hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
                    self._put(digest, _Where(tree, path, offset, length, 0))

    def forget(self, references: Sequence[Reference]) -> None:
        """They led nowhere."""
        with self._lock:
            for reference in references:
                self._where.pop(reference.digest, None)

    def _put(self, digest: bytes, where: _Where) -> None:
        self._where.pop(digest, None)
        self._where[digest] = where
        if len(self._where) > ENTRIES_MAX:
            del self._where[next(iter(self._where))]


def pieces_of(batch: Batch, payloads: Sequence[int] = ()) -> list[Piece]:
    """Everything in a batch that may be found again, in its order.

    `payloads`: where those of each record begin in the form in which it is sent; none: as it is.
    """
    found: list[Piece] = []
    view = memoryview(batch.data)
    offset = number = 0
    while (record := decode(view, offset)) is not None:
        if record.operation == Operation.WRITE and len(record.payload) >= PIECE_BYTES_MIN:
            write = decode_arguments(record)
            assert isinstance(write, Write)
            begin = offset + HEADER_BYTES + len(record.arguments)
            if payloads:
                begin = payloads[number]
            for start, length in _cuts(write.offset, len(record.payload)):
                inner = start - write.offset
                digest = hash_bytes(bytes(record.payload[inner : inner + length]))
                found.append(Piece(begin + inner, length, digest, record.tree, write.hint, start))
        offset += record.length
        number += 1
    return found


def _cuts(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """(offset in the file, length) of the pieces of a write."""
    start = -(-offset // BLOCK_BYTES) * BLOCK_BYTES
    end = offset + length
    while end - start >= PIECE_BYTES_MIN:
        count = min(BLOCK_BYTES, end - start)
        yield start, count
        start += count
