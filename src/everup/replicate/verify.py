"""Prove that a peer's trees are equal while applications write, beside the stream.

What enters: which paths, and a peer that follows. What leaves: how many objects were proven equal,
and the names of those that are not. Nothing else changes: acknowledgements, the may-take-over list
and the stream go on. One thread per verification; owned by `verifying`.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from stat import S_ISDIR
from typing import Any

from everup.errors import EverupError, NotConnected, ProtocolError, Refused
from everup.model.position import ORIGIN, Position
from everup.replicate.context import Context
from everup.replicate.dialling import Place, beside_the_stream
from everup.replicate.guardlink import guard_position
from everup.replicate.lower import LowerTree
from everup.replicate.proofsource import ATTEMPTS_MAX, ProofSource, _Again
from everup.replicate.resting import REST_SECONDS_MAX, Pace
from everup.replicate.scan import ABSENT
from everup.replicate.syncchannel import SyncChannel
from everup.replicate.tail import JournalTail
from everup.replicate.treecopy import join
from everup.replicate.walk import walk
from everup.system.treecalls import open_beneath
from everup.wire.messages import CHANNEL_VERIFY, WirePosition
from everup.wire.syncmessages import Failure, Held, Hold, ProofEnd, ProofItem

LOOKS_EQUAL = 3
"""A difference counts when it is seen so often and the object was not written in between."""
NAMED_MAX = 1000
"""More differing paths than this are counted only."""
CONSISTENT_SECONDS_MAX = 30.0
PAUSE_SECONDS = 0.5
Queue = Callable[[], tuple[int, int]]
"""Bytes that wait to be sent to the peer, and the age of the oldest in milliseconds."""


@dataclass
class TreeCount:
    """What is known of one tree, or of the part of it that was looked at."""

    objects: int = 0
    different: set[bytes] = field(default_factory=set)
    busy: set[bytes] = field(default_factory=set)
    """Written so often that no look at it could be compared."""

    def to_json(self) -> dict[str, Any]:
        apart = len(self.different) + len(self.busy)
        return {
            "synchronized": max(0, self.objects - apart),
            "out_of_sync": len(self.different),
            "unchecked": len(self.busy),
            "paths": [_text(path) for path in sorted(self.different)[:NAMED_MAX]],
            "busy": [_text(path) for path in sorted(self.busy)[:NAMED_MAX]],
        }


class VerifySource(ProofSource):
    """A proof of chosen paths that names what differs instead of ending there.

    `wanted`: per tree the path below which to look, b"" for all of it. `pace`: how much it rests,
    for the sake of disks and of the applying.
    """

    def __init__(
        self,
        channel: SyncChannel,
        trees: list[LowerTree],
        tail: JournalTail,
        stopped: Callable[[], bool],
        wanted: Mapping[int, bytes],
        pace: Pace,
        queue: Queue,
    ) -> None:
        super().__init__(channel, trees, tail, stopped)
        self._wanted = wanted
        self._pace, self._queue = pace, queue
        self._worked_from = time.monotonic()
        self._compared_before = 0
        self._looks: dict[tuple[int, bytes, bool, tuple[int, ...]], tuple[int, int]] = {}
        self.counts = {tree.tree_id: TreeCount() for tree in trees if tree.tree_id in wanted}

    def _hold(self) -> None:
        """Rest for the time that the last slice has earned; then as a proof does, but bounded."""
        worked = time.monotonic() - self._worked_from
        self._channel.send(Hold(False))
        self._rest(self._pace.rest_s(worked, self.proven_bytes - self._compared_before))
        self._compared_before = self.proven_bytes
        self._worked_from = time.monotonic()
        while time.monotonic() - self._worked_from < CONSISTENT_SECONDS_MAX:
            self._channel.send(Hold(True))
            if self._await(Held).position is not None:
                return
            self._pause(0.1)
        raise Refused("the peer does not apply now", code="peer-not-applying")

    def _rest(self, seconds: float) -> None:
        began = time.monotonic()
        while (rested := time.monotonic() - began) < REST_SECONDS_MAX:
            if rested < seconds:
                self._pause(min(PAUSE_SECONDS, seconds - rested))
            elif self._pace.waits(*self._queue()):
                self._pause(PAUSE_SECONDS)
            else:
                return

    def _all_items(self) -> Iterator[tuple[ProofItem, _Again]]:
        for tree in self._trees:
            wanted = self._wanted.get(tree.tree_id)
            if wanted is not None:
                yield from self._tree_items(tree, wanted, self.counts[tree.tree_id])

    def _tree_items(
        self, tree: LowerTree, wanted: bytes, count: TreeCount
    ) -> Iterator[tuple[ProofItem, _Again]]:
        for visited in walk(tree, self._ids):
            if is_below(visited.path, wanted):
                source = _Again(tree, visited.path, visited.object_id, True, [], 0)
                item = self._item(source)
                if item is not None:
                    count.objects += 1
                    yield item, source
            for seen in visited.entries:
                mode, size = seen.status.st_mode, seen.status.st_size
                os.close(seen.descriptor)
                path = join(visited.path, seen.name)
                if not S_ISDIR(mode) and is_below(path, wanted):
                    count.objects += 1
                    yield from self._object_items(tree, path, seen.object_id, mode, size)

    def _next_attempts(self, sources: list[_Again], failures: list[Failure]) -> list[_Again]:
        again = []
        for failure in failures:
            if failure.number >= len(sources):
                raise ProtocolError("a failure of no item was reported", code="sync-order")
            source = sources[failure.number]
            parts = [(False, [block]) for block in failure.blocks if block in source.blocks]
            if failure.digest and source.digest:
                parts.append((True, []))
            for digest, blocks in parts:
                if self._look_again(source, digest, blocks):
                    again.append(
                        _Again(
                            *(source.tree, source.path, source.object_id),
                            *(digest, blocks, source.attempt + 1),
                        )
                    )
        return again

    def _look_again(self, source: _Again, digest: bool, blocks: list[int]) -> bool:
        """False when it is decided: different, too busy, or gone."""
        count = self.counts[source.tree.tree_id]
        changed = _changed_ns(source)
        if changed is None or source.path in count.different:
            return False
        key = (source.tree.tree_id, source.path, digest, tuple(blocks))
        before, looks = self._looks.get(key, (changed, 0))
        looks = looks + 1 if before == changed else 1
        if looks >= LOOKS_EQUAL:
            count.different.add(source.path)
            self._looks.pop(key, None)
            return False
        if source.attempt >= ATTEMPTS_MAX:
            count.busy.add(source.path)
            return False
        self._looks[key] = (changed, looks)
        return True


class Verification:
    """`start` once; after `join`, `error` or the counts. `stop` may be called at any time."""

    def __init__(
        self,
        context: Context,
        epoch: int,
        place: Place,
        wanted: Mapping[int, bytes],
        pace: Pace,
        queue: Queue,
    ) -> None:
        self._context = context
        self._epoch = epoch
        self.place = place
        self._wanted = wanted
        self._pace, self._queue = pace, queue
        self._stop = threading.Event()
        self._proof: VerifySource | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, name=f"verify-{place.server}", daemon=True
        )
        self.error: EverupError | None = None
        self.position: Position | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        """Return when it has ended."""
        self._thread.join()

    @property
    def whole(self) -> bool:
        """Every object of every tree is looked at."""
        return {**self._wanted} == {tree.id: b"" for tree in self._context.group.protect}

    @property
    def counts(self) -> dict[int, TreeCount]:
        return self._proof.counts if self._proof is not None else {}

    @property
    def different(self) -> int:
        return sum(len(count.different) for count in self.counts.values())

    @property
    def busy(self) -> int:
        """Objects that were written all the time: nothing is proven of them."""
        return sum(len(count.busy) for count in self.counts.values())

    def progress(self) -> dict[str, int]:
        """Bytes and objects compared so far."""
        proof = self._proof
        elapsed_s = max(time.monotonic() - self._began, 0.001)
        done = proof.proven_bytes if proof is not None else 0
        return {
            "objects": sum(count.objects for count in self.counts.values()),
            "bytes": done,
            "rate_bytes_per_s": int(done / elapsed_s),
        }

    def _run(self) -> None:
        trees: list[LowerTree] = []
        try:
            for tree in self._context.group.protect:
                if tree.id in self._wanted:
                    trees.append(self._context.open_lower(tree.id))
            self._talk(trees)
        except EverupError as problem:
            self.error = problem
        except OSError as problem:
            self.error = NotConnected(f"{self.place.server}: {problem.strerror or problem}")
        except Exception as mistake:
            # Of ours: what it did not compare is not proven.
            traceback.print_exc()
            self.error = EverupError(f"internal error: {mistake!r}", code="internal")
        finally:
            for opened in trees:
                opened.close()

    def _talk(self, trees: list[LowerTree]) -> None:
        opened = beside_the_stream(self._context, self._epoch, self.place, CHANNEL_VERIFY)
        with opened as channel, closing(JournalTail(self._context.places.journal)) as tail:
            stopped = self._stop.is_set
            proof = VerifySource(
                channel, trees, tail, stopped, self._wanted, self._pace, self._queue
            )
            proof.known = self.place.known
            self._proof = proof
            proof.run()
            self.position = guard_position(self._context.places.guard_socket) or ORIGIN
            if self.whole and not any(c.different or c.busy for c in proof.counts.values()):
                # What is written from here on is in the stream: the whole is proven at this place.
                wire = WirePosition.of(self.position)
                channel.send(ProofEnd(wire, proof.objects, proof.proven_bytes))
            # Its answer says that everything before it was taken.
            proof._hold()


def is_below(path: bytes, wanted: bytes) -> bool:
    """Whether `path` is `wanted` or lies below it; both relative to their tree."""
    return not wanted or path == wanted or path.startswith(wanted + b"/")


def _changed_ns(source: _Again) -> int | None:
    """When the object was changed last; None when it is not there any more."""
    try:
        descriptor = open_beneath(source.tree.root, source.path, os.O_PATH)
    except OSError as problem:
        if problem.errno in ABSENT:
            return None
        raise
    try:
        return os.fstat(descriptor).st_ctime_ns
    finally:
        os.close(descriptor)


def _text(path: bytes) -> str:
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
