"""What the active server knows of one peer, however it hears of it.

What enters: acknowledgements and states, from the peer itself or passed on by another server; how a
copy goes. What leaves: what the peer surely has, whether it is in sync, its status for people.
Written by the thread of the peer's link, read by any thread. Owned by `link`.
"""

import time
from typing import Any

from everup.errors import EverupError, NotConnected
from everup.model.position import Position
from everup.replicate.applier import MISMATCH_CODES
from everup.replicate.catchup import RESYNC
from everup.replicate.context import Context
from everup.replicate.greeting import Agreement, end_of_journal
from everup.replicate.guardlink import GuardLink
from everup.replicate.lag import PeerLag
from everup.replicate.resync import Resync
from everup.wire.messages import PeerState
from everup.wire.session import Acknowledged

UNEQUAL_SECONDS = 5.0
"""A mismatch that stays this long is repaired by comparing everything."""


class PeerView:
    """One per link. Raises EverupError where the conversation has to begin anew."""

    def __init__(self, context: Context, server: str, guard: GuardLink, lag: PeerLag) -> None:
        self._context = context
        self.server = server
        self._guard = guard
        self._lag = lag
        self._goal_sequence: int | None = None
        self._shared_sequence: int | None = None
        self._unequal_since = 0.0
        self.connected = False
        self.resync: Resync | None = None
        self.sent: Position | None = None
        self.acknowledged: Position | None = None
        self.applied: Position | None = None
        self.target: PeerState | None = None
        self.sentence = "not connected yet"
        self.code = ""
        self.unequal = False
        """It was found different: its trees are compared."""
        self.unreadable = ""
        """What was wrong with the journal when it was read for this peer."""

    # what is known

    @property
    def durable_sequence(self) -> int:
        """What the peer surely has; -1 when it has not said so yet in this epoch."""
        return -1 if self.acknowledged is None else self.acknowledged.sequence

    @property
    def needed_after(self) -> int:
        """The journal has to be kept behind this sequence: a copy reads again what its peer has
        acknowledged since the copy began; a narrowed one that breaks off begins where it did."""
        resync = self.resync
        begin = resync.needed_after if resync is not None else None
        needed = (self.durable_sequence, begin, self._shared_sequence)
        return min(sequence for sequence in needed if sequence is not None)

    @property
    def in_sync(self) -> bool:
        """The peer has everything up to where it had to catch up to, and applies it."""
        target, goal = self.target, self._goal_sequence
        return (
            self.connected
            and self._guard.journal_ok
            and target is not None
            and target.consistent
            and not target.error_code
            and goal is not None
            and self.durable_sequence >= goal
        )

    def status(self) -> dict[str, Any]:
        target, resync = self.target, self.resync
        return {
            "server": self.server,
            "connected": self.connected,
            "sent": self.sent.to_json() if self.sent else None,
            "acknowledged": self.acknowledged.to_json() if self.acknowledged else None,
            "applied": self.applied.to_json() if self.applied else None,
            "in_sync": self.in_sync,
            "send_queue": self._lag.measure(),
            "receive_queue": {
                "bytes": target.receive_bytes if target else 0,
                "operations": target.receive_operations if target else 0,
                "oldest_ms": target.receive_oldest_ms if target else 0,
            },
            "sync": resync.status() if resync else None,
            "error": {"code": target.error_code, "sentence": target.error_sentence, "remedy": ""}
            if target and target.error_code
            else None,
            "code": self.code,
            "sentence": self.sentence,
        }

    # how a conversation begins and ends

    def fresh(self) -> None:
        """A new conversation: what the peer said of itself before does not count any more."""
        self.target, self._unequal_since = None, 0.0

    def began(self, agreed: Agreement) -> None:
        choice = agreed.choice
        self.sentence, self.code = choice.sentence, choice.kind
        self.connected = True
        self.sent = self.acknowledged = agreed.begin
        self.applied = None
        self.resync, self._goal_sequence = agreed.resync, agreed.goal_sequence
        self._shared_sequence = agreed.shared.sequence if agreed.shared is not None else None
        if choice.kind == RESYNC:
            self._context.events.emit("resync-started", choice.sentence, server=self.server)
        elif agreed.goal_sequence is not None:
            # Its acknowledgement may have been lost with the last connection.
            self._guard.acknowledged(self.server, agreed.begin.sequence)
        self._lag.began(agreed.begin, agreed.cursor.place, copy=choice.kind == RESYNC)

    def ended(self) -> None:
        """Nothing is heard of the peer any more."""
        self.connected = False
        self._goal_sequence = None

    def end_resync(self) -> None:
        if self.resync is not None:
            self.resync.stop()
            self.resync = None

    def note(self, problem: EverupError) -> None:
        """Why the conversation ended; told once as long as it stays the same."""
        changed = problem.sentence != self.sentence
        self.sentence, self.code = problem.sentence, problem.code
        if changed and problem.code != NotConnected.code:
            self._context.events.emit(
                "link-refused", problem.sentence, server=self.server, code=problem.code
            )

    # what is heard

    def take(self, latest: Acknowledged) -> None:
        """An acknowledgement counts for the guard, unless the peer's trees are being compared."""
        if self.acknowledged != latest.durable and self.resync is None:
            self._guard.acknowledged(self.server, latest.durable.sequence)
        self.acknowledged, self.applied = latest
        self._lag.acknowledged(latest.durable)

    def take_state(self, state: PeerState) -> None:
        before = self.target
        self.target = state
        if state.error_code not in MISMATCH_CODES:
            self._unequal_since = 0.0
        elif not self._unequal_since:
            self._unequal_since = time.monotonic()
        if before is not None and before.error_code and not state.error_code:
            # In sync again only with everything that came while it stood still.
            self._goal_sequence = end_of_journal(self._context).sequence
        if state.error_code and (before is None or before.error_code != state.error_code):
            self._context.events.emit(
                "apply-stopped",
                f"{self.server}: {state.error_sentence}",
                server=self.server,
                code=state.error_code,
            )

    def follow_resync(self) -> None:
        resync = self.resync
        if resync is None:
            return
        if resync.error is not None:
            self.unequal = resync.error.code == "sync-unequal"
            raise resync.error
        if not resync.started:
            resync.start()
        self.sentence = resync.sentence
        if resync.done and resync.proven is not None:
            self._goal_sequence = resync.proven.sequence
            self._shared_sequence = None
            self.unequal, self.unreadable = False, ""
            self.sentence, self.code = f"{self.server} is synchronized", "stream"
            self.resync = None
            self._lag.copied()
            if self.acknowledged is not None:
                self._guard.acknowledged(self.server, self.acknowledged.sequence)

    def check_equal(self) -> None:
        """A target whose tree does not fit to the records is compared, not retried for ever."""
        since = self._unequal_since
        if since and time.monotonic() - since > UNEQUAL_SECONDS:
            self.unequal, self._unequal_since = True, 0.0
            error = self.target.error_sentence if self.target else ""
            raise EverupError(error, code="target-unequal")
