"""A passive server that passes the stream on to the third one.

What enters: what this server has on its own disk. What leaves: the same batches to the server that
it supplies, and what that one says, for the active server. One thread; owned by the stream on which
the active server has asked for it, and gone with it.

Only a stream is passed on: when the other stands where no log of this server leads on from, or has
to be compared, the active server supplies it (see `chain`).
"""

import os
import ssl
import threading
import traceback
from collections.abc import Callable

from everup.errors import Corrupt, EverupError, NotConnected
from everup.journal.reader import Cursor
from everup.model.position import Position
from everup.replicate.catchup import STREAM
from everup.replicate.context import Context
from everup.replicate.greeting import await_welcome, hello
from everup.replicate.known import Known
from everup.replicate.pipe import Pipe
from everup.replicate.signs import Signs
from everup.replicate.target import Target
from everup.wire.bandwidth import Throttle
from everup.wire.frames import Frame
from everup.wire.messages import (
    Relayed,
    SourceState,
    Start,
    TargetState,
    Welcome,
    WirePosition,
    wire_or_none,
)
from everup.wire.references import Need
from everup.wire.session import Acknowledged, SourceSession
from everup.wire.transport import Connection, client_context, dial

BACK_OFF_SECONDS = 1.0
STOP_SECONDS = 0.5
WAIT_MS = 250


class Relay:
    """`start` once, `stop` once; `wake` whenever more is durable here."""

    def __init__(
        self,
        context: Context,
        target: Target,
        server: str,
        epoch: int,
        port: int,
        on_change: Callable[[], None],
    ) -> None:
        """`server`: who is supplied; `epoch`: that of the stream that comes in."""
        self._context = context
        self._target = target
        self._epoch = epoch
        self._port = port
        self._on_change = on_change
        self._stopped = threading.Event()
        self._waking = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=f"relay-{server}", daemon=True)
        self._session = SourceSession()
        self._known = Known()
        self._throttle = Throttle(lambda: context.cap(server))
        self._state: TargetState | None = None
        self._acknowledged: Acknowledged | None = None
        self._connected = False
        self._reason = "not connected yet"
        self.server = server
        self.in_sync = False
        """What the active server says of the other."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self.wake()
        self._thread.join(STOP_SECONDS)

    def wake(self) -> None:
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    @property
    def report(self) -> Relayed:
        """For the active server; any thread."""
        state, latest = self._state, self._acknowledged
        return Relayed(
            server=self.server,
            connected=self._connected and state is not None,
            durable=wire_or_none(latest.durable if latest else None),
            applied=wire_or_none(latest.applied if latest else None),
            reason=self._reason,
            consistent=state is not None and state.consistent,
            receive_bytes=state.receive_bytes if state else 0,
            receive_operations=state.receive_operations if state else 0,
            receive_oldest_ms=state.receive_oldest_ms if state else 0,
            error_code=state.error_code if state else "",
            error_sentence=state.error_sentence if state else "",
        )

    # the thread

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._converse()
            except EverupError as problem:
                self._reason = problem.sentence[:4096]
            except (OSError, ssl.SSLError) as problem:
                self._reason = f"the link to {self.server} failed: {problem}"[:4096]
            except Exception as mistake:
                # Of ours: the active server has to hear that nothing is passed on.
                traceback.print_exc()
                self._reason = f"internal error: {mistake!r}"[:4096]
            finally:
                self._connected, self._state, self._acknowledged = False, None, None
            self._tell()
            # Not at once: the active server may have taken the other back, and its word of that
            # is still on the way here.
            self._stopped.wait(BACK_OFF_SECONDS)
        with self._waking:
            os.close(self._wake)
            self._wake = -1

    def _converse(self) -> None:
        member = self._context.group.member(self.server)
        if member is None:
            raise NotConnected(f"{self.server} is not a server of this group")
        connection = dial(
            member.addresses, self._port, client_context(self._context.places), self.server
        )
        connection.throttle = self._throttle
        try:
            self._session = SourceSession()
            position, frames = self._greet(connection)
            cursor = Cursor(self._context.places.receive, position)
            try:
                connection.send(self._session.start(self._beginning(position)))
                self._connected = True
                self._stream(connection, cursor, frames)
            finally:
                cursor.close()
        finally:
            connection.close()

    def _greet(self, connection: Connection) -> tuple[Position, list[Frame]]:
        durable = self._target.position
        if durable is None:
            raise NotConnected("this server has nothing that it could pass on")
        greeting = hello(self._context, self._epoch, durable)
        connection.send(self._session.hello(greeting))
        answer = await_welcome(connection, self._session, self.server, self._stopped.is_set)
        if answer is None:
            raise NotConnected(f"{self.server} does not answer the greeting")
        welcome, frames = answer
        return self._position(welcome), frames

    def _position(self, welcome: Welcome) -> Position:
        if welcome.position is None or welcome.unproven or welcome.missing_trees:
            raise Corrupt(f"{self.server} has to be compared with the active server")
        return welcome.position.position()

    def _beginning(self, position: Position) -> Start:
        return Start(
            catch_up=STREAM,
            position=WirePosition.of(position),
            sentence=f"{self._context.server} passes the stream on from "
            f"{position.epoch}/{position.sequence}",
        )

    def _stream(self, connection: Connection, cursor: Cursor, frames: list[Frame]) -> None:
        signs = Signs(connection, self.server)
        pipe = Pipe(connection, self._session, self._known, self._context.is_waited_for)
        told: bool | None = None
        while not self._stopped.is_set():
            self._take(pipe, frames)
            if self._ship(pipe, cursor):
                signs.said()
            if self.in_sync != told:
                told = self.in_sync
                connection.send(self._session.tell(SourceState(in_sync=told)))
            ready = connection.wait(WAIT_MS, self._wake)
            if self._wake in ready:
                os.eventfd_read(self._wake)
            connection.flush()
            frames = connection.receive() if connection.fileno() in ready else []
            signs.keep(bool(frames))

    def _ship(self, pipe: Pipe, cursor: Cursor) -> bool:
        """Whatever is durable here and the window lets go now."""
        shipped = False
        durable = self._target.position
        latest = self._acknowledged
        applied = latest.applied.sequence if latest and latest.applied else 0
        while pipe.open:
            if durable is None or cursor.position.sequence >= durable.sequence:
                break
            batch = cursor.next()
            if batch is None:
                break
            pipe.send(batch, applied)
            shipped = True
        return shipped

    def _take(self, pipe: Pipe, frames: list[Frame]) -> None:
        before = (self._state, self._acknowledged)
        for frame in frames:
            message = self._session.receive(frame)
            if isinstance(message, Acknowledged):
                self._acknowledged = message
            elif isinstance(message, TargetState):
                self._state = message
            elif isinstance(message, Need):
                pipe.fill(message)
        if (self._state, self._acknowledged) != before:
            self._tell()

    def _tell(self) -> None:
        """Not once it is stopped: `stop` does not wait for a dial to end, and the owner may be
        gone by then."""
        if not self._stopped.is_set():
            self._on_change()
