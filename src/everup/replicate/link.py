"""One peer, from the active side: dial, agree, stream, for ever.

What enters: wake-ups of the guard, acknowledgements of the peer. What leaves: batches to the peer,
byte for byte as they stand in the journal, and every acknowledgement to the guard at once. One
thread per peer waits on both at the same time, so nothing is handed from thread to thread between
the end of a batch and the wire. Owned by `Source`.
"""

import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any

from everup.errors import Corrupt, EverupError, NotConnected
from everup.journal.operation import BatchEnd, encode_batch_end
from everup.journal.reader import NEW_CHAIN, Batch
from everup.journal.record import HEADER_BYTES
from everup.model.position import Position
from everup.replicate.applier import MISMATCH_CODES
from everup.replicate.catchup import RESYNC
from everup.replicate.channels import Channels
from everup.replicate.context import Context
from everup.replicate.greeting import (
    Agreement,
    StillApplying,
    agree,
    await_welcome,
    end_of_journal,
    hello,
)
from everup.replicate.guardlink import POLL_MS, GuardLink
from everup.replicate.lag import PeerLag
from everup.replicate.logs import LogCursor
from everup.replicate.resync import Place, Resync
from everup.wire.frames import Frame
from everup.wire.messages import SourceState, TargetState
from everup.wire.session import Acknowledged, SourceSession, idle_frame
from everup.wire.transport import Connection, client_context, dial

END_BYTES = HEADER_BYTES + len(encode_batch_end(BatchEnd(0, 0, 0, bytes(16), 0)))
"""Length of a BATCH record, the last one of every batch."""

BACK_OFF_MS_MIN = 100
BACK_OFF_MS_MAX = 2000
REFUSED_MS = 1000
SILENCE_MS = 5000
IDLE_MS = 1000
WAIT_MS = 500
QUEUED_BYTES_MAX = 4 << 20
SAVE_SECONDS = 10.0
APPLY_WAITS_MAX = 30
"""How often a peer is asked again whether it has applied what it received (for about a minute)."""
STOP_SECONDS = 0.5
UNEQUAL_SECONDS = 5.0
"""A mismatch that stays this long is repaired by comparing everything."""


class PeerLink:
    """A thread that keeps one peer supplied; `status` may be asked by any thread."""

    def __init__(
        self, context: Context, epoch: int, server: str, addresses: Sequence[str], port: int
    ) -> None:
        self._context = context
        self._epoch = epoch
        self.server = server
        self._channels = Channels(addresses, port)
        self._port = port
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"link-{server}", daemon=True)
        self._guard = GuardLink(context.places.guard_socket)
        self._lag = PeerLag(context.places, server, epoch)
        self._connected = False
        self._goal_sequence: int | None = None
        self._told_in_sync: bool | None = None
        self._resync: Resync | None = None
        self.sent: Position | None = None
        self.acknowledged: Position | None = None
        self.applied: Position | None = None
        self.target: TargetState | None = None
        self.sentence = "not connected yet"
        self.code = ""
        self.bytes_written = 0
        self._bytes_sent_before = 0
        self._connection: Connection | None = None
        self._again = threading.Event()
        self._unequal = False
        self._unequal_since = 0.0
        self._unreadable = ""
        self._waited = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns soon, also while an unreachable peer is being dialled; nothing is sent after."""
        self._stopped.set()
        resync = self._resync
        if resync is not None:
            resync.stop()
        self._thread.join(STOP_SECONDS)

    def greet_again(self) -> None:
        """The settings have changed: agree anew on what this peer holds."""
        self._again.set()

    def compare(self) -> None:
        """Something is known to be different on the peer: its trees are compared and repaired."""
        self._unequal = True
        self._again.set()

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def place(self) -> Place:
        """Where the peer is reached now, best address first."""
        return Place(self.server, self._channels.order(), self._port)

    @property
    def bytes_sent(self) -> int:
        connection = self._connection
        return self._bytes_sent_before + (connection.sent_bytes if connection else 0)

    @property
    def durable_sequence(self) -> int:
        """What the peer surely has; -1 when it has not said so yet in this epoch."""
        return -1 if self.acknowledged is None else self.acknowledged.sequence

    @property
    def in_sync(self) -> bool:
        """The peer has everything up to where it had to catch up to, and applies it."""
        target, goal = self.target, self._goal_sequence
        return (
            self._connected
            and self._guard.journal_ok
            and target is not None
            and target.consistent
            and not target.error_code
            and goal is not None
            and self.durable_sequence >= goal
        )

    # the thread

    def _run(self) -> None:
        back_off_ms = BACK_OFF_MS_MIN
        while not self._stopped.is_set():
            started = time.monotonic()
            try:
                self._converse()
            except NotConnected as problem:
                self._note(problem)
            except EverupError as problem:
                self._note(problem)
                back_off_ms = max(back_off_ms, REFUSED_MS)
            except (OSError, ssl.SSLError) as problem:
                self._note(NotConnected(f"the link to {self.server} failed: {problem}"))
            finally:
                self._connected = False
                self._goal_sequence = None
            if time.monotonic() - started > 5:
                back_off_ms = BACK_OFF_MS_MIN
            self._stopped.wait(back_off_ms / 1000)
            back_off_ms = min(BACK_OFF_MS_MAX, back_off_ms * 2)
        self._guard.close()

    def _note(self, problem: EverupError) -> None:
        changed = problem.sentence != self.sentence
        self.sentence, self.code = problem.sentence, problem.code
        if changed and problem.code != NotConnected.code:
            self._context.events.emit(
                "link-refused", problem.sentence, server=self.server, code=problem.code
            )

    def _converse(self) -> None:
        tls = client_context(self._context.places)
        connection = self._dial(tls)
        self._connection = connection
        self._again.clear()
        self._channels.better.clear()
        self.target, self._unequal_since = None, 0.0
        try:
            if self._stopped.is_set():
                raise NotConnected("this link was stopped")
            session = SourceSession()
            agreed, frames = self._agree(connection, session)
            try:
                connection.send(session.start(agreed.start))
                self._stream(connection, session, agreed.cursor, frames)
            finally:
                self._lag.save()
                agreed.cursor.close()
                self._end_resync()
        finally:
            self._connection = None
            self._bytes_sent_before += connection.sent_bytes
            connection.close()

    def _dial(self, tls: ssl.SSLContext) -> Connection:
        try:
            return dial(self._channels.order(), self._port, tls, self.server)
        except NotConnected:
            # The peer was away, not one of the channels.
            self._channels.forgive()
            raise

    def _agree(
        self, connection: Connection, session: SourceSession
    ) -> tuple[Agreement, list[Frame]]:
        connection.send(session.hello(hello(self._context, self._epoch)))
        answer = await_welcome(connection, session, self.server, self._stopped.is_set)
        if answer is None:
            self._channels.failed(connection.address)
            raise NotConnected(f"{self.server} does not answer the greeting")
        welcome, frames = answer
        place = self.place
        try:
            agreed = agree(
                self._context, self._epoch, place, welcome,
                unequal=self._unequal, unreadable=self._unreadable,
                patient=self._waited < APPLY_WAITS_MAX,
            )  # fmt: skip
        except StillApplying:
            self._waited += 1
            raise
        self._waited = 0
        self._begin(agreed)
        return agreed, frames

    def _begin(self, agreed: Agreement) -> None:
        choice = agreed.choice
        self.sentence, self.code = choice.sentence, choice.kind
        self._connected, self._told_in_sync = True, None
        self.sent = self.acknowledged = agreed.begin
        self.applied = None
        self._resync, self._goal_sequence = agreed.resync, agreed.goal_sequence
        if choice.kind == RESYNC:
            self._context.events.emit("resync-started", choice.sentence, server=self.server)
        elif agreed.goal_sequence is not None:
            # Its acknowledgement may have been lost with the last connection.
            self._guard.acknowledged(self.server, agreed.begin.sequence)
        self._lag.began(agreed.begin, agreed.cursor.place)

    def _end_resync(self) -> None:
        if self._resync is not None:
            self._resync.stop()
            self._resync = None

    def _stream(
        self,
        connection: Connection,
        session: SourceSession,
        cursor: LogCursor,
        frames: list[Frame],
    ) -> None:
        heard = said = saved = time.monotonic()
        while not self._stopped.is_set():
            self._move_if_better(connection)
            self._take(session, frames)
            if self._ship(connection, session, cursor):
                said = time.monotonic()
            self._follow_resync()
            self._check_equal()
            self._tell_in_sync(connection, session)
            frames = self._wait(connection)
            now = time.monotonic()
            if frames:
                heard = now
            elif now - heard > SILENCE_MS / 1000:
                self._channels.failed(connection.address)
                raise NotConnected(f"{self.server} has been silent for 5 s")
            if now - said > IDLE_MS / 1000:
                connection.send(idle_frame())
                said = now
            if now - saved > SAVE_SECONDS:
                self._lag.save()
                saved = now

    def _move_if_better(self, connection: Connection) -> None:
        if self._again.is_set():
            raise NotConnected("it is to be agreed anew what this peer holds")
        if self._resync is None:
            # A copy under way would begin anew.
            self._channels.look_for_better(connection.address)
            if self._channels.better.is_set():
                raise NotConnected("a better channel answers again")

    def _wait(self, connection: Connection) -> list[Frame]:
        descriptor = self._guard.descriptor
        if descriptor is None:
            ready = connection.wait(POLL_MS)
        else:
            ready = connection.wait(WAIT_MS, descriptor)
            if descriptor in ready:
                self._guard.clear()
        connection.flush()
        return connection.receive() if connection.fileno() in ready else []

    def _ship(self, connection: Connection, session: SourceSession, cursor: LogCursor) -> bool:
        """Everything that the window lets go now."""
        shipped = False
        while session.may_send and connection.queued_bytes < QUEUED_BYTES_MAX:
            batch = self._next_batch(cursor)
            if batch is None:
                break
            now_ns = time.monotonic_ns()
            end = batch.end
            connection.send(
                session.batch(batch.data, END_BYTES, end.sequence, batch.records, now_ns)
            )
            self._lag.sent(end, cursor.place)
            self.sent = end
            self.bytes_written += len(batch.data)
            shipped = True
        return shipped

    def _next_batch(self, cursor: LogCursor) -> Batch | None:
        try:
            return cursor.next()
        except Corrupt as problem:
            # From here on no stream helps this peer, whatever it says where it stands.
            self._unreadable = "" if problem.code == NEW_CHAIN else problem.sentence
            raise

    def _take(self, session: SourceSession, frames: list[Frame]) -> None:
        latest: Acknowledged | None = None
        for frame in frames:
            message = session.receive(frame)
            if isinstance(message, Acknowledged):
                latest = message
            elif isinstance(message, TargetState):
                self._note_state(message)
        if latest is not None:
            if self.acknowledged != latest.durable and self._resync is None:
                self._guard.acknowledged(self.server, latest.durable.sequence)
            self.acknowledged, self.applied = latest
            self._lag.acknowledged(latest.durable)

    def _note_state(self, state: TargetState) -> None:
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

    def _follow_resync(self) -> None:
        resync = self._resync
        if resync is None:
            return
        if resync.error is not None:
            self._unequal = resync.error.code == "sync-unequal"
            raise resync.error
        if not resync.started:
            resync.start()
        self.sentence = resync.sentence
        if resync.done and resync.proven is not None:
            self._goal_sequence = resync.proven.sequence
            self._unequal, self._unreadable = False, ""
            self.sentence, self.code = f"{self.server} is synchronized", "stream"
            self._resync = None
            if self.acknowledged is not None:
                self._guard.acknowledged(self.server, self.acknowledged.sequence)

    def _check_equal(self) -> None:
        """A target whose tree does not fit to the records is compared, not retried for ever."""
        since = self._unequal_since
        if since and time.monotonic() - since > UNEQUAL_SECONDS:
            self._unequal, self._unequal_since = True, 0.0
            error = self.target.error_sentence if self.target else ""
            raise EverupError(error, code="target-unequal")

    def _tell_in_sync(self, connection: Connection, session: SourceSession) -> None:
        if self.in_sync != self._told_in_sync:
            self._told_in_sync = self.in_sync
            connection.send(session.tell(SourceState(in_sync=self.in_sync)))

    def status(self) -> dict[str, Any]:
        target = self.target
        resync = self._resync
        return {
            "server": self.server,
            "connected": self._connected,
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
            "bytes_written": self.bytes_written,
            "bytes_sent": self.bytes_sent,
            "sync": resync.status() if resync else None,
            "error": {"code": target.error_code, "sentence": target.error_sentence, "remedy": ""}
            if target and target.error_code
            else None,
            "code": self.code,
            "sentence": self.sentence,
        }
