"""Batches that refer to bytes which this server has: find these bytes, in the order of the stream.

What enters: what the source sends. What leaves: whole batches, byte for byte those of the journal,
and which references led nowhere. A batch behind one that waits for its bytes waits too. Owned by
`receiving`, one per stream. What is found is hashed before it is used; that nothing else is
wrong is checked by the chain hash of the batch, as for every batch.
"""

import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from stat import S_ISREG

from everup.errors import EverupError, ProtocolError
from everup.replicate.blocks import hash_bytes, read_range
from everup.replicate.context import Context
from everup.replicate.lean import whole_again
from everup.replicate.lower import LowerTree
from everup.replicate.walk import open_file
from everup.system.treecalls import open_beneath
from everup.wire.frames import BatchFrame
from everup.wire.references import Fill, Need, Reference, SparseBatch, whole
from everup.wire.session import WINDOW_BYTES


@dataclass
class _Waiting:
    """A batch with gaps; `found` holds the bytes of its references, None where they are missing."""

    batch: SparseBatch
    found: list[bytes | None]
    missing: list[int] = field(default_factory=list)


class Fetcher:
    """`close` leaves no tree open."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._trees: dict[int, LowerTree | None] = {}
        self._queue: deque[BatchFrame | _Waiting] = deque()
        self._held_bytes = 0

    def take(self, message: BatchFrame | SparseBatch | Fill) -> Need | None:
        """Put it into its place; what has to be asked for. Raises ProtocolError."""
        if isinstance(message, Fill):
            self._fill(message)
            return None
        if isinstance(message, BatchFrame):
            self._hold(message, len(message.data))
            return None
        found = [self._find(reference) for reference in message.references]
        missing = [index for index, data in enumerate(found) if data is None]
        self._hold(_Waiting(message, found, missing), message.length)
        return Need(message.number, missing) if missing else None

    def ready(self) -> list[BatchFrame]:
        """Batches that are whole, and nothing before them is missing."""
        batches = []
        while self._queue:
            first = self._queue[0]
            if isinstance(first, _Waiting):
                found = [data for data in first.found if data is not None]
                if len(found) < len(first.found):
                    break
                sparse = first.batch
                first = BatchFrame(whole(sparse, found), sparse.end_bytes, sparse.lean)
            self._queue.popleft()
            self._held_bytes -= len(first.data)
            if first.lean:
                first = BatchFrame(whole_again(first.data), first.end_bytes)
            batches.append(first)
        return batches

    def close(self) -> None:
        for tree in self._trees.values():
            if tree is not None:
                tree.close()
        self._trees.clear()

    def _hold(self, entry: BatchFrame | _Waiting, byte_count: int) -> None:
        self._held_bytes += byte_count
        if self._held_bytes > 2 * WINDOW_BYTES:
            raise ProtocolError("more batches came than the window allows", code="window")
        self._queue.append(entry)

    def _fill(self, fill: Fill) -> None:
        for entry in self._queue:
            if isinstance(entry, _Waiting) and entry.missing and entry.batch.number == fill.number:
                at = 0
                for index in entry.missing:
                    length = entry.batch.references[index].length
                    entry.found[index] = fill.data[at : at + length]
                    at += length
                entry.missing = []
                if at == len(fill.data):
                    return
        raise ProtocolError("bytes came that nobody had asked for", code="references")

    def _find(self, reference: Reference) -> bytes | None:
        tree = self._tree(reference.tree)
        if tree is None:
            return None
        try:
            data = _read(tree, reference)
        except OSError:
            return None
        same = len(data) == reference.length and hash_bytes(data) == reference.digest
        return data if same else None

    def _tree(self, tree_id: int) -> LowerTree | None:
        if tree_id not in self._trees:
            self._trees[tree_id] = None
            with suppress(EverupError, OSError):
                self._trees[tree_id] = self._context.open_lower(tree_id)
        return self._trees[tree_id]


def _read(tree: LowerTree, reference: Reference) -> bytes:
    found = open_beneath(tree.root, reference.path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not S_ISREG(os.fstat(found).st_mode):
            return b""
        file = open_file(found)
    finally:
        os.close(found)
    try:
        return read_range(file, reference.offset, reference.offset + reference.length)
    finally:
        os.close(file)
