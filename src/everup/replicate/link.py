"""One peer, from the active side: dial, agree, stream, for ever.

What enters: wake-ups of the guard, acknowledgements of the peer. What leaves: batches to the peer,
byte for byte as they stand in the journal, and every acknowledgement to the guard at once. One
thread per peer waits on both at the same time, so nothing is handed from thread to thread between
the end of a batch and the wire. While another server passes the stream on to the peer, the link
only listens to what that one says of it. Owned by `Source`.
"""

import os
import select
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from everup.errors import Corrupt, EverupError, NotConnected
from everup.journal.reader import NEW_CHAIN, Batch
from everup.model.position import Position
from everup.replicate.chain import Chain
from everup.replicate.channels import Channels
from everup.replicate.context import Context
from everup.replicate.greeting import Agreement, StillApplying, agree, await_welcome, hello
from everup.replicate.guardlink import POLL_MS, GuardLink
from everup.replicate.known import Known
from everup.replicate.lag import PeerLag
from everup.replicate.logs import LogCursor
from everup.replicate.passedon import PassedOn
from everup.replicate.peerview import PeerView
from everup.replicate.pipe import Pipe
from everup.replicate.resync import Place
from everup.replicate.signs import Signs
from everup.replicate.throughput import Throughput
from everup.wire.bandwidth import Throttle
from everup.wire.frames import Frame
from everup.wire.messages import NUMBER_MAX, Relayed, SourceState, TargetState
from everup.wire.references import Need
from everup.wire.session import Acknowledged, SourceSession
from everup.wire.transport import Connection, client_context, dial

BACK_OFF_MS_MIN = 100
BACK_OFF_MS_MAX = 2000
REFUSED_MS = 1000
WAIT_MS = 500
REST_MS = 100
SAVE_SECONDS = 10.0
TELL_SECONDS = 1.0
APPLY_WAITS_MAX = 30
"""How often a peer is asked again whether it has applied what it received (for about a minute)."""
STOP_SECONDS = 0.5


class HandedOver(NotConnected):
    """Another server passes the stream on to this peer from now on."""


class PeerLink:
    """A thread that keeps one peer supplied; `status` may be asked by any thread."""

    def __init__(
        self,
        context: Context,
        epoch: int,
        server: str,
        addresses: Sequence[str],
        port: int,
        chain: Chain | None = None,
    ) -> None:
        """`chain`: who passes the stream on to whom; without it this link supplies its peer."""
        self._context = context
        self._epoch = epoch
        self.server = server
        self._channels = Channels(addresses, port)
        self._port = port
        self._chain = chain or Chain()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"link-{server}", daemon=True)
        self._guard = GuardLink(context.places.guard_socket)
        self._lag = PeerLag(context.places, server, epoch)
        self.view = PeerView(context, server, self._guard, self._lag)
        self._told: SourceState | None = None
        self._told_at = 0.0
        self.bytes_written = 0
        self._bytes_sent_before = 0
        self._connection: Connection | None = None
        self._session = SourceSession()
        self._known = Known()
        self._throttle = Throttle(lambda: context.cap(server))
        self._pipe: Pipe | None = None
        self._throughput = Throughput()
        self._again = threading.Event()
        self._waited = 0
        self._waking = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._relayed: Relayed | None = None
        self.others_have = NUMBER_MAX
        """Sequence that every other peer surely has; set by the owner."""

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Who supplies this peer, or what is said of it, has changed; any thread."""
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Returns soon, also while an unreachable peer is being dialled; nothing is sent after."""
        self._stopped.set()
        self.wake()
        resync = self.view.resync
        if resync is not None:
            resync.stop()
        self._thread.join(STOP_SECONDS)

    def greet_again(self) -> None:
        """The settings have changed: agree anew on what this peer holds."""
        self._again.set()
        self.wake()

    def compare(self) -> None:
        """Something is known to be different on the peer: its trees are compared and repaired."""
        self.view.unequal = True
        self.greet_again()

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def place(self) -> Place:
        """Where the peer is reached now, best address first."""
        return Place(
            self.server, self._channels.order(), self._port, self._throttle, known=self._known
        )

    @property
    def bytes_sent(self) -> int:
        connection = self._connection
        return self._bytes_sent_before + (connection.sent_bytes if connection else 0)

    @property
    def durable_sequence(self) -> int:
        return self.view.durable_sequence

    @property
    def needed_after(self) -> int:
        """Behind this sequence the journal is needed for this peer."""
        return self.view.needed_after

    @property
    def mark(self) -> Position | None:
        """Where the peer surely stood when it was heard last, also before a restart."""
        return self._lag.mark.position if self._lag.mark is not None else None

    @property
    def in_sync(self) -> bool:
        return self.view.in_sync

    def status(self) -> dict[str, Any]:
        pipe, now = self._pipe, time.monotonic()
        found = self.view.status()
        queue = found["send_queue"]
        # What is under way needs not be read again; the rest waits in the journal.
        queue["memory_bytes"] = min(queue["bytes"], self._session.in_flight_bytes)
        return {
            **found,
            "supplied_by": self._chain.supplier(self.server) or self._context.server,
            **self._throughput.look(now, self.bytes_written, self.bytes_sent),
            "link": pipe.status() if pipe is not None else None,
        }

    # the thread

    def _run(self) -> None:
        back_off_ms = BACK_OFF_MS_MIN
        while not self._stopped.is_set():
            started = time.monotonic()
            try:
                self._converse()
            except HandedOver:
                self._rest()
                continue
            except NotConnected as problem:
                self.view.note(problem)
            except EverupError as problem:
                self.view.note(problem)
                back_off_ms = max(back_off_ms, REFUSED_MS)
            except (OSError, ssl.SSLError) as problem:
                self.view.note(NotConnected(f"the link to {self.server} failed: {problem}"))
            self.view.ended()
            if time.monotonic() - started > 5:
                back_off_ms = BACK_OFF_MS_MIN
            self._stopped.wait(back_off_ms / 1000)
            back_off_ms = min(BACK_OFF_MS_MAX, back_off_ms * 2)
        self._guard.close()
        with self._waking:
            os.close(self._wake)
            self._wake = -1

    def _converse(self) -> None:
        tls = client_context(self._context.places)
        connection = self._dial(tls)
        connection.throttle = self._throttle
        self._connection = connection
        self._again.clear()
        self._channels.better.clear()
        self.view.fresh()
        try:
            if self._stopped.is_set():
                raise NotConnected("this link was stopped")
            session = self._session = SourceSession()
            agreed, frames = self._agree(connection, session)
            try:
                connection.send(session.start(agreed.start))
                self._pipe = Pipe(connection, session, self._known, self._context.is_waited_for)
                self._stream(connection, session, agreed.cursor, frames)
            finally:
                self._lag.save()
                agreed.cursor.close()
                self.view.end_resync()
        finally:
            self._chain.lost(self.server)
            self._connection = self._pipe = None
            self._session = SourceSession()
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
        view, place = self.view, self.place
        try:
            agreed = agree(
                self._context, self._epoch, place, welcome,
                unequal=view.unequal, unreadable=view.unreadable,
                patient=self._waited < APPLY_WAITS_MAX,
            )  # fmt: skip
        except StillApplying:
            self._waited += 1
            raise
        self._waited = 0
        self._told = self._relayed = None
        view.began(agreed)
        return agreed, frames

    def _stream(
        self,
        connection: Connection,
        session: SourceSession,
        cursor: LogCursor,
        frames: list[Frame],
    ) -> None:
        pipe = self._pipe
        assert pipe is not None
        signs = Signs(connection, self.server)
        saved = time.monotonic()
        view = self.view
        while not self._stopped.is_set():
            self._move_if_better(connection)
            self._take(session, pipe, frames)
            if self._ship(pipe, cursor):
                signs.said()
            view.follow_resync()
            view.check_equal()
            self._chain.heard(self.server, view.in_sync, self._relayed)
            self._tell(connection, session)
            frames = self._wait(connection)
            try:
                signs.keep(bool(frames))
            except NotConnected:
                self._channels.failed(connection.address)
                raise
            if time.monotonic() - saved > SAVE_SECONDS:
                self._lag.save()
                saved = time.monotonic()

    def _move_if_better(self, connection: Connection) -> None:
        if self._again.is_set():
            raise NotConnected("it is to be agreed anew what this peer holds")
        if self.view.resync is None:
            # A copy under way would begin anew.
            self._channels.look_for_better(connection.address)
            if self._channels.better.is_set():
                raise NotConnected("a better channel answers again")
        if self._chain.hand_over(self.server, self.view.in_sync, time.monotonic()):
            raise HandedOver(f"{self._chain.by} passes the stream on to {self.server}")

    def _wait(self, connection: Connection) -> list[Frame]:
        descriptor = self._guard.descriptor
        if descriptor is None:
            ready = connection.wait(POLL_MS, self._wake)
        else:
            ready = connection.wait(WAIT_MS, descriptor, self._wake)
            if descriptor in ready:
                self._guard.clear()
        if self._wake in ready:
            os.eventfd_read(self._wake)
        connection.flush()
        return connection.receive() if connection.fileno() in ready else []

    def _ship(self, pipe: Pipe, cursor: LogCursor) -> bool:
        """Everything that the window lets go now."""
        shipped = False
        while pipe.open:
            batch = self._next_batch(cursor)
            if batch is None:
                break
            applied = self.view.applied
            pipe.send(batch, applied.sequence if applied else 0)
            self._lag.sent(batch.end, cursor.place)
            self.view.sent = batch.end
            self.bytes_written += len(batch.data)
            shipped = True
        return shipped

    def _next_batch(self, cursor: LogCursor) -> Batch | None:
        try:
            return cursor.next()
        except Corrupt as problem:
            # From here on no stream helps this peer, whatever it says where it stands.
            self.view.unreadable = "" if problem.code == NEW_CHAIN else problem.sentence
            raise

    def _take(self, session: SourceSession, pipe: Pipe, frames: list[Frame]) -> None:
        latest: Acknowledged | None = None
        for frame in frames:
            message = session.receive(frame)
            if isinstance(message, Acknowledged):
                latest = message
            elif isinstance(message, TargetState):
                self.view.take_state(message)
                self._relayed = message.relayed
            elif isinstance(message, Need):
                pipe.fill(message)
        if latest is not None:
            self.view.take(latest)

    def _tell(self, connection: Connection, session: SourceSession) -> None:
        """What the peer should know of itself and of the others, when it has changed."""
        chain = self._chain
        passes_on = chain.passes_on(self.server)
        told = self._told
        state = SourceState(
            in_sync=self.view.in_sync,
            passes_on_to=chain.to if passes_on else "",
            other_in_sync=passes_on and chain.to_in_sync,
            others_have=self.others_have,
        )
        if told is not None:
            # How far the others are changes all the time, and is only about room on a disk.
            urgent = msgspec.structs.replace(state, others_have=told.others_have) != told
            late = time.monotonic() - self._told_at > TELL_SECONDS
            if not urgent and (state == told or not late):
                return
        self._told, self._told_at = state, time.monotonic()
        connection.send(session.tell(state))

    # while another server passes the stream on

    def _rest(self) -> None:
        """Until nothing is heard of the peer that way any more: then this link supplies it."""
        passed_on = None
        try:
            passed_on = PassedOn(self._context, self._chain, self.view, self._lag)
            while not self._stopped.is_set() and not self._again.is_set():
                if not passed_on.follow(time.monotonic()):
                    break
                self._listen()
        except EverupError as problem:
            self.view.note(problem)
        except OSError as problem:
            self.view.note(NotConnected(f"this server's own log cannot be read: {problem}"))
        finally:
            self._chain.take_back(time.monotonic())
            self._lag.save()
            if passed_on is not None:
                passed_on.close()
            self.view.ended()

    def _listen(self) -> None:
        """Until something is said of the peer, or by the guard, or a moment has passed."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        descriptor = self._guard.descriptor
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        ready = {number for number, _ in poll.poll(REST_MS)}
        if self._wake in ready:
            os.eventfd_read(self._wake)
        if descriptor is not None and descriptor in ready:
            self._guard.clear()
