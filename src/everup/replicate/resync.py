"""Bring a peer that cannot simply go on: copy, replay, proof, on a channel of its own.

What enters: a peer that has been told to expect it. What leaves: a peer that is proven equal at a
position, or an error after which the link begins again. Records go on travelling on the stream
meanwhile. One thread; owned by the peer's link.
"""

import secrets
import threading
from contextlib import closing
from typing import Any

from everup.errors import EverupError, NotConnected
from everup.model.position import ORIGIN, Position
from everup.replicate.context import Context
from everup.replicate.copysource import CopySource
from everup.replicate.dialling import Place as Place
from everup.replicate.dialling import beside_the_stream
from everup.replicate.guardlink import guard_position
from everup.replicate.logs import journal_end
from everup.replicate.lower import LowerTree
from everup.replicate.progress import Progress
from everup.replicate.proofsource import ProofSource
from everup.replicate.scope import Scope
from everup.replicate.syncchannel import SyncChannel
from everup.replicate.tail import JournalTail
from everup.wire.messages import CHANNEL_SYNC, WirePosition
from everup.wire.syncmessages import ProofEnd

STOP_SECONDS = 2.0


class Resync:
    """`start` once; then `done` or `error` says how it ended. `stop` may be called at any time."""

    def __init__(
        self,
        context: Context,
        epoch: int,
        place: Place,
        begin: Position | None,
        *,
        fresh: bool = False,
        scope: Scope | None = None,
    ) -> None:
        """`begin`: where a copy begins; None when only the proof is missing. `scope`: where this
        side knows that content may differ; None: anywhere."""
        self._context = context
        self._epoch = epoch
        self._place = place
        self._begin = begin
        self._fresh = fresh
        self._scope = scope
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sync-{place.server}", daemon=True)
        self._progress = Progress()
        self._copied = begin is None
        self.sync_id = secrets.token_hex(8)
        self.started = False
        self.done = False
        self.error: EverupError | None = None
        self.proven: Position | None = None

    def start(self) -> None:
        self.started = True
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    @property
    def needed_after(self) -> int | None:
        """The journal is read again behind this sequence to find what moved during the copy; None
        when that is done."""
        return None if self._copied or self._begin is None else self._begin.sequence

    @property
    def sentence(self) -> str:
        progress = self._progress
        share = progress.done_bytes * 100 // max(progress.total_bytes, 1)
        return {
            "walking": f"{self._place.server}: counting what is to be compared",
            "copying": f"{self._place.server}: comparing and copying, {min(share, 100)} %",
            "replaying": f"{self._place.server}: replaying what changed during the copy",
            "proving": f"{self._place.server}: proving that both sides are equal",
        }.get(progress.state, f"{self._place.server} is synchronized")

    def status(self) -> dict[str, Any]:
        return self._progress.status(self.sentence)

    def _run(self) -> None:
        trees: list[LowerTree] = []
        try:
            for tree in self._context.group.protect:
                trees.append(self._context.open_lower(tree.id))
            self._context.add_held_trees(tree.tree_id for tree in trees)
            self._talk(trees)
        except EverupError as problem:
            self.error = problem
        except OSError as problem:
            self.error = NotConnected(f"the sync of {self._place.server} failed: {problem}")
        finally:
            for opened in trees:
                opened.close()

    def _talk(self, trees: list[LowerTree]) -> None:
        opened = beside_the_stream(
            self._context, self._epoch, self._place, CHANNEL_SYNC, self.sync_id
        )
        with opened as channel, closing(JournalTail(self._context.places.journal)) as tail:
            self._synchronize(channel, trees, tail)

    def _synchronize(self, channel: SyncChannel, trees: list[LowerTree], tail: JournalTail) -> None:
        stopped = self._stop.is_set
        if self._begin is not None:
            copy = CopySource(
                self._context,
                channel,
                trees,
                self._begin,
                self._progress,
                stopped,
                fresh=self._fresh,
                scope=self._scope,
            )
            copy.run(self._position_now)
            self._copied = True
        self._progress.state = "proving"
        proof = ProofSource(channel, trees, tail, stopped, self._scope, self._place.known)
        proof.run()
        proven = self._position_now()
        end = WirePosition.of(proven)
        whole = self._scope is None
        channel.send(ProofEnd(end, proof.objects, proof.proven_bytes, whole))
        channel.connection.drain(5000)
        self.proven = proven
        self._progress.state = "done"
        self.done = True

    def _position_now(self) -> Position:
        try:
            position = guard_position(self._context.places.guard_socket)
        except EverupError:
            position = None
        return position or journal_end(self._context.places) or ORIGIN
