"""The source's side of a proof: every object of every tree, equal at a common position.

What enters: the lower trees of the active server while applications write to them. What leaves:
digests with the sequence at which each was taken; the target pauses applying shortly before and
compares exactly there. What was written at that very moment differs and is looked at again; what
never agrees is reported. Called by `resync`.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from stat import S_ISDIR, S_ISREG
from typing import TypeVar

from everup.errors import EverupError, NotConnected, ProtocolError
from everup.replicate.blocks import BLOCK_BYTES, block_count, hash_block
from everup.replicate.known import Known
from everup.replicate.lower import LowerTree
from everup.replicate.proof import digest_of
from everup.replicate.scan import ABSENT
from everup.replicate.scope import Scope
from everup.replicate.syncchannel import SyncChannel
from everup.replicate.tail import JournalTail
from everup.replicate.treecopy import join
from everup.replicate.walk import IdGiver, look, open_file, walk
from everup.wire.syncmessages import Failure, Held, Hold, ProofItem, Prove, Proved

SLICE_ITEMS = 512
SLICE_BYTES = 32 << 20
ITEM_BLOCKS = 256
TIMELESS_FROM = 5
"""From this attempt on the time of an object that is written all the time is not compared."""
ATTEMPTS_MAX = 60
ATTEMPT_PAUSE_SECONDS = 0.02
ANSWER_SECONDS_MAX = 120.0

Answer = TypeVar("Answer", Held, Proved)


@dataclass
class _Again:
    """Something that differed and is to be looked at once more."""

    tree: LowerTree
    path: bytes
    object_id: bytes
    digest: bool
    blocks: list[int]
    attempt: int


class ProofSource:
    """`run` once. Raises EverupError (`sync-unequal`) when an object stays different."""

    def __init__(
        self,
        channel: SyncChannel,
        trees: list[LowerTree],
        tail: JournalTail,
        stopped: Callable[[], bool],
        scope: Scope | None = None,
        known: Known | None = None,
    ) -> None:
        """`scope`: whose content is compared; None: everybody's. All else is compared always.
        `known` learns where the target has which content."""
        self._channel = channel
        self._trees = trees
        self._tail = tail
        self._stopped = stopped
        self._scope = scope
        self.known = known
        self._ids = IdGiver()
        self.objects = 0
        self.proven_bytes = 0

    def run(self) -> None:
        items = self._all_items()
        again: list[_Again] = []
        more = True
        while more or again:
            self._hold()
            if again:
                slice_, sources = self._retries(again)
            else:
                slice_, sources, more = self._take_slice(items)
            self._channel.send(Prove(slice_))
            failures = self._await(Proved).failures
            again = self._next_attempts(sources, failures)
            if again:
                time.sleep(ATTEMPT_PAUSE_SECONDS)

    def _hold(self) -> None:
        """Wait until the target applies consistently, and pause it."""
        while True:
            self._channel.send(Hold(True))
            if self._await(Held).position is not None:
                return
            self._pause(0.1)

    def _pause(self, seconds: float) -> None:
        if self._stopped():
            raise NotConnected("the sync was stopped")
        time.sleep(seconds)

    def _await(self, kind: type[Answer]) -> Answer:
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while time.monotonic() < deadline:
            if self._stopped():
                raise NotConnected("the sync was stopped")
            for message in self._channel.poll(200):
                if not isinstance(message, kind):
                    raise ProtocolError("another answer was expected", code="sync-order")
                return message
        raise NotConnected("the target does not answer the proof")

    # what is compared

    def _take_slice(
        self, items: Iterator[tuple[ProofItem, _Again]]
    ) -> tuple[list[ProofItem], list[_Again], bool]:
        slice_: list[ProofItem] = []
        sources: list[_Again] = []
        size = 0
        for item, source in items:
            slice_.append(item)
            sources.append(source)
            size += len(item.blocks) * BLOCK_BYTES
            if len(slice_) >= SLICE_ITEMS or size >= SLICE_BYTES:
                return slice_, sources, True
        return slice_, sources, False

    def _all_items(self) -> Iterator[tuple[ProofItem, _Again]]:
        for tree in self._trees:
            for visited in walk(tree, self._ids):
                source = _Again(tree, visited.path, visited.object_id, True, [], 0)
                item = self._item(source)
                if item is not None:
                    yield item, source
                for seen in visited.entries:
                    mode, size = seen.status.st_mode, seen.status.st_size
                    os.close(seen.descriptor)
                    if S_ISDIR(mode):
                        continue
                    path = join(visited.path, seen.name)
                    yield from self._object_items(tree, path, seen.object_id, mode, size)

    def _object_items(
        self, tree: LowerTree, path: bytes, object_id: bytes, mode: int, size: int
    ) -> Iterator[tuple[ProofItem, _Again]]:
        self.objects += 1
        count = block_count(size) if S_ISREG(mode) else 0
        compared: Sequence[int] = range(count)
        if self._scope is not None:
            compared = self._scope.blocks(tree.tree_id, object_id, count)
        self.proven_bytes += min(size, len(compared) * BLOCK_BYTES)
        first = True
        for start in range(0, max(len(compared), 1), ITEM_BLOCKS):
            blocks = list(compared[start : start + ITEM_BLOCKS])
            source = _Again(tree, path, object_id, first, blocks, 0)
            first = False
            item = self._item(source)
            if item is None:
                return
            yield item, source

    def _item(self, source: _Again) -> ProofItem | None:
        """State of an object right now; None when it is not there any more (the stream tells)."""
        try:
            return self._item_now(source)
        except OSError as problem:
            if problem.errno in ABSENT:
                return None
            raise

    def _item_now(self, source: _Again) -> ProofItem | None:
        tree, path = source.tree, source.path
        seen = look(self._ids, tree.root, path)
        if seen is None:
            return None
        try:
            if path and seen.object_id != source.object_id:
                return None
            with_time = source.attempt < TIMELESS_FROM
            digest = b""
            if source.digest:
                digest = digest_of(seen.descriptor, with_time=with_time, is_root=not path)
            hashes = b""
            if source.blocks and S_ISREG(seen.status.st_mode):
                hashes = _hash(seen.descriptor, source.blocks)
                if self.known is not None:
                    size = seen.status.st_size
                    self.known.learn_blocks(tree.tree_id, path, size, source.blocks, hashes)
            sequence = self._tail.sequence()
            blocks = source.blocks if hashes else []
            return ProofItem(
                tree.tree_id, path, source.object_id, sequence, with_time, digest, blocks, hashes
            )
        finally:
            os.close(seen.descriptor)

    # what differed

    def _retries(self, again: list[_Again]) -> tuple[list[ProofItem], list[_Again]]:
        slice_, sources = [], []
        for source in again:
            item = self._item(source)
            if item is not None:
                slice_.append(item)
                sources.append(source)
        return slice_, sources

    def _next_attempts(self, sources: list[_Again], failures: list[Failure]) -> list[_Again]:
        """One look per block, so that each is as short as can be."""
        again = []
        for failure in failures:
            if failure.number >= len(sources):
                raise ProtocolError("a failure of no item was reported", code="sync-order")
            source = sources[failure.number]
            attempt = source.attempt + 1
            if attempt > ATTEMPTS_MAX:
                raise EverupError(
                    f"{os.fsdecode(source.path) or '/'} in tree {source.tree.tree_id} is not equal "
                    "on both servers after the sync",
                    remedy="the sync begins again by itself; if this repeats, check the disks",
                    code="sync-unequal",
                )
            parts = [(False, [block]) for block in failure.blocks if block in source.blocks]
            if failure.digest and source.digest:
                parts.append((True, []))
            for digest, blocks in parts:
                again.append(
                    _Again(source.tree, source.path, source.object_id, digest, blocks, attempt)
                )
        return again


def _hash(descriptor: int, blocks: list[int]) -> bytes:
    file = open_file(descriptor)
    try:
        size = os.fstat(file).st_size
        return b"".join(hash_block(file, block, size, mark_holes=False) for block in blocks)
    finally:
        os.close(file)
