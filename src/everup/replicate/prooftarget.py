"""The target's side of a proof: compare objects with the source's digests at their sequence.

What enters: items, each with the sequence at which the source looked. What leaves: which of them
differ. The apply thread does the comparing, exactly when the tree stands at that sequence. Called
by `synctarget`.
"""

import os
import threading
from collections.abc import Callable

from everup.errors import EverupError, ProtocolError
from everup.replicate.applier import Applier
from everup.replicate.apply import TreeSet
from everup.replicate.blocks import HASH_BYTES, hash_block
from everup.replicate.lower import id_of_descriptor
from everup.replicate.proof import digest_of
from everup.replicate.syncchannel import SyncChannel
from everup.system.treecalls import door, open_beneath
from everup.wire.messages import wire_or_none
from everup.wire.syncmessages import Failure, Held, ProofItem, Proved


class _Wake:
    """An eventfd that lives as long as anybody may still set it."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        os.eventfd_read(self.descriptor)

    def __del__(self) -> None:
        os.close(self.descriptor)


class _Pending:
    """Comparisons of one Prove that the apply thread still has to make."""

    def __init__(self, items: list[ProofItem], wake: _Wake) -> None:
        self.left = len(items)
        self._wake = wake
        if not items:
            wake.set()
        self.failures: list[Failure] = []
        self.lock = threading.Lock()

    def done(self, failure: Failure | None) -> None:
        with self.lock:
            self.left -= 1
            if failure is not None:
                self.failures.append(failure)
            if self.left == 0:
                self._wake.set()

    def take_failures(self) -> list[Failure] | None:
        """None while comparisons are still to be made."""
        with self.lock:
            if self.left:
                return None
            self._wake.clear()
            return self.failures


class ProofTarget:
    """One per sync channel; `step` sends results when they are complete."""

    def __init__(self, channel: SyncChannel, applier: Callable[[], Applier | None]) -> None:
        self._channel = channel
        self._applier = applier
        self._pending: _Pending | None = None
        self._wake = _Wake()

    def hold(self, held: bool) -> None:
        applier = self._applier()
        if not held:
            if applier is not None:
                applier.hold(False)
            return
        if applier is None or not applier.consistent or applier.error is not None:
            self._channel.send(Held(None))
            return
        self._channel.send(Held(wire_or_none(applier.hold(True))))

    def prove(self, items: list[ProofItem]) -> None:
        applier = self._applier()
        if applier is None or self._pending is not None:
            raise ProtocolError("a proof is not expected now", code="sync-order")
        pending = self._pending = _Pending(items, self._wake)
        for number, item in enumerate(items):
            applier.check_at(item.sequence, _comparison(pending, number, item))
        applier.hold(False)

    @property
    def wake(self) -> int:
        """Becomes readable when `step` has something to send."""
        return self._wake.descriptor

    def step(self) -> None:
        failures = self._pending.take_failures() if self._pending is not None else None
        if failures is not None:
            self._pending = None
            self._channel.send(Proved(failures))

    def close(self) -> None:
        applier = self._applier()
        if applier is not None:
            applier.hold(False)


def _comparison(pending: _Pending, number: int, item: ProofItem) -> Callable[[TreeSet], None]:
    def compare(trees: TreeSet) -> None:
        try:
            failure = compare_item(trees, number, item)
        except (OSError, EverupError):
            failure = Failure(number, True, list(item.blocks))
        pending.done(failure)

    return compare


def compare_item(trees: TreeSet, number: int, item: ProofItem) -> Failure | None:
    """None when the object here is equal. Raises OSError when it is not where it should be."""
    tree = trees.get(item.tree).tree
    descriptor = open_beneath(tree.root, item.path, os.O_PATH)
    try:
        if item.path and id_of_descriptor(descriptor) != item.object_id:
            return Failure(number, True, list(item.blocks))
        mine = digest_of(descriptor, with_time=item.with_time, is_root=not item.path)
        differs = bool(item.digest) and mine != item.digest
        blocks = _different_blocks(descriptor, item)
    finally:
        os.close(descriptor)
    return Failure(number, differs, blocks) if differs or blocks else None


def _different_blocks(descriptor: int, item: ProofItem) -> list[int]:
    if not item.blocks:
        return []
    file = os.open(door(descriptor), os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        return [
            block
            for index, block in enumerate(item.blocks)
            if hash_block(file, block, size, mark_holes=False)
            != item.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
        ]
    finally:
        os.close(file)
