"""Listen for the source, and run the stream that it opens.

What enters: connections on TCP 7570. What leaves: frames into `Target`, acknowledgements to the
source. One thread listens; one thread serves each connection. A peer that breaks the protocol loses
its connection and nothing else. Owned by the process while this server is passive.
"""

import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable

from everup.errors import Corrupt, EverupError, NotConnected, ProtocolError
from everup.model.position import Position
from everup.replicate.catchup import STREAM
from everup.replicate.context import Context
from everup.replicate.fetching import Fetcher
from everup.replicate.rejoin import possible_bases
from everup.replicate.relay import Relay
from everup.replicate.seal import Seal
from everup.replicate.tails import serve_tail
from everup.replicate.target import Target
from everup.replicate.verifytarget import VerifyTarget
from everup.wire.frames import BatchFrame, Frame
from everup.wire.messages import (
    CHANNEL_SYNC,
    CHANNEL_TAIL,
    CHANNEL_VERIFY,
    FEATURES,
    Hello,
    SourceState,
    Start,
    TargetState,
    Welcome,
    WirePosition,
    wire_or_none,
)
from everup.wire.references import Fill, SparseBatch
from everup.wire.session import Self, State, TargetSession, idle_frame, judge_hello, refuse_frame
from everup.wire.transport import Connection, accept, listen, server_context

CONNECTIONS_MAX = 8
HELLO_MS = 5000
IDLE_MS = 1000
SILENCE_MS = 5000
STATE_MS = 500
APPLIED_MS = 100
DISK_RETRY_MS = 500
LISTEN_RETRY_SECONDS = 0.5

SyncServer = Callable[[Connection, TargetSession, Hello, list[Frame]], None]


def receive_error(problem: OSError) -> EverupError:
    """Why nothing can be received now, for the status of both sides."""
    remedies = {
        errno.ENOSPC: "free space below /var/lib/everup; receiving goes on by itself",
        errno.EDQUOT: "everup status says why nothing is applied; or raise journal_quota_bytes",
    }
    return EverupError(
        f"the receive log cannot be written: {problem.strerror}",
        remedy=remedies.get(problem.errno or 0, "check the disk below /var/lib/everup"),
        code="receive-no-space" if problem.errno in remedies else "receive-disk-error",
    )


class Receiver:
    """Listening side of one passive server; `start`, then `stop` once."""

    def __init__(
        self, context: Context, address: str, port: int, seal: Seal, serve_sync: SyncServer
    ) -> None:
        self._context = context
        self._address = address
        self._port = port
        self._serve_sync = serve_sync
        self._tls = server_context(context.places)
        self._stopped = threading.Event()
        self._slots = threading.Semaphore(CONNECTIONS_MAX)
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._waking = threading.Lock()
        self._relaying = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.target = Target(context, seal, self.wake)
        self._verify = VerifyTarget(self.target, self._stopped.is_set)
        self.on_start: Callable[[Start, Stream], None] | None = None

    def start(self) -> None:
        self.target.start()
        thread = threading.Thread(target=self._listen, name="listen", daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        """Ends every connection and the applier; returns when all threads are gone."""
        self._stopped.set()
        self.wake()
        if self._listener is not None:
            # Closing alone does not end an accept that is waiting.
            try:
                self._listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self._listener.close()
        for thread in list(self._threads):
            thread.join(SILENCE_MS / 1000)
        self.target.stop()
        with self._waking:
            os.close(self._wake)
            self._wake = -1

    def wake(self) -> None:
        """Something changed that the source should hear of; also after `stop`, when nobody does."""
        with self._waking:
            # The number is soon that of another file.
            if self._wake >= 0:
                try:
                    os.eventfd_write(self._wake, 1)
                except BlockingIOError:
                    pass

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listener = listen(self._address, self._port)
            except OSError:
                self._stopped.wait(LISTEN_RETRY_SECONDS)
                continue
            self._accept(self._listener)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopped.is_set():
            try:
                raw, address = listener.accept()
            except OSError:
                return
            if not self._slots.acquire(blocking=False):
                raw.close()
                continue
            thread = threading.Thread(
                target=self._serve, args=(raw, address[0]), name="receive", daemon=True
            )
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
            thread.start()

    def _serve(self, raw: socket.socket, address: str) -> None:
        connection = None
        try:
            connection = accept(raw, self._tls, address)
            self._talk(connection)
        except (EverupError, OSError, ssl.SSLError) as problem:
            if connection is not None:
                self._say_why(connection, problem)
        finally:
            if connection is not None:
                connection.close()
            self._slots.release()

    @staticmethod
    def _say_why(connection: Connection, problem: Exception) -> None:
        if not isinstance(problem, EverupError) or isinstance(problem, NotConnected):
            return
        try:
            connection.send(refuse_frame(problem))
            connection.drain(500)
        except EverupError:
            pass

    def _talk(self, connection: Connection) -> None:
        session = TargetSession()
        hello, rest = self._await_hello(connection, session)
        context = self._context
        own = Self(
            context.group.group_id,
            context.server,
            context.servers(),
            self.target.seal_promise.epoch,
        )
        version = judge_hello(hello, connection.peer_name, own)
        if hello.channel == CHANNEL_SYNC:
            self._serve_sync(connection, session, hello, rest)
            return
        if hello.channel == CHANNEL_VERIFY:
            self._verify.serve(connection, rest)
            return
        if hello.channel == CHANNEL_TAIL:
            serve_tail(context, self.target, connection, session, hello, version)
            return
        stream = Stream(self, connection, session, hello)
        self.target.take_over_stream(stream, hello.epoch, hello.server)
        try:
            stream.run(version, rest)
        finally:
            stream.end_relay()
            self.target.leave_stream(stream)

    def _await_hello(
        self, connection: Connection, session: TargetSession
    ) -> tuple[Hello, list[Frame]]:
        deadline = time.monotonic() + HELLO_MS / 1000
        while not self._stopped.is_set():
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                raise ProtocolError("no HELLO came", code="no-hello")
            connection.wait(min(left_ms, 200))
            frames = connection.receive()
            for number, frame in enumerate(frames):
                message = session.receive(frame)
                if isinstance(message, Hello):
                    return message, frames[number + 1 :]
        raise NotConnected("this server stops listening")

    def missing_trees(self, trees: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the source's trees that were never copied to this server."""
        held = self._context.held_trees()
        return tuple(tree for tree in trees if tree not in held)

    def bases(self, hello: Hello) -> tuple[WirePosition, ...]:
        """After an unclean stop as the active server: what its trees still hold, in part."""
        if self.target.position is not None:
            return ()
        parents = [past.parent.position() for past in hello.history]
        return tuple(map(WirePosition.of, possible_bases(self._context.places, parents)))

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    @property
    def wake_descriptor(self) -> int:
        return self._wake

    def relay(self, server: str, epoch: int) -> Relay:
        """Supply another passive server with what this one receives in this epoch."""
        relay = Relay(self._context, self.target, server, epoch, self._port, self.wake)
        with self._relaying:
            self.target.on_durable = relay.wake
        relay.start()
        return relay

    def end_relay(self, relay: Relay) -> None:
        """That of an older stream ends late; a newer one's goes on being woken."""
        with self._relaying:
            if self.target.on_durable == relay.wake:
                self.target.on_durable = lambda: None
        relay.stop()


def _urgent(state: TargetState) -> tuple[object, ...]:
    """What the source has to know at once: for what is passed on, every acknowledgement."""
    relayed = state.relayed
    other = (relayed.connected, relayed.durable, relayed.error_code) if relayed else None
    return state.consistent, state.error_code, other


class Stream:
    """One accepted stream channel: receive, make durable, acknowledge."""

    def __init__(
        self, owner: Receiver, connection: Connection, session: TargetSession, hello: Hello
    ) -> None:
        self._owner = owner
        self._target = owner.target
        self._connection = connection
        self._session = session
        self.hello = hello
        self._epoch = hello.epoch
        self._server = owner._context.server
        self._acknowledged: tuple[Position, Position | None] | None = None
        self._told: TargetState | None = None
        self._told_at = 0.0
        self._relay: Relay | None = None
        self._heard_at = time.monotonic()
        self._heard_bytes = 0
        self._fetcher = Fetcher(owner._context)
        self._said_at = time.monotonic()

    def run(self, version: int, frames: list[Frame]) -> None:
        target = self._target
        self._connection.send(
            self._session.welcome(
                Welcome(
                    version=version,
                    server=self._server,
                    sealed_epoch=target.seal_promise.epoch,
                    tree_state=target.tree_state,
                    position=wire_or_none(target.position),
                    missing_trees=self._owner.missing_trees(self.hello.trees),
                    all_applied=target.all_applied,
                    unproven=target.unproven,
                    bases=self._owner.bases(self.hello),
                    features=FEATURES,
                    partial=wire_or_none(target.partial(self.hello.server, self.hello.epoch)),
                )
            )
        )
        try:
            self._receive_all(frames)
        finally:
            self._fetcher.close()

    def _receive_all(self, frames: list[Frame]) -> None:
        target = self._target
        while not self._owner.stopped and target.is_current(self):
            self._take(frames)
            self._report()
            ready = self._connection.wait(
                100 if self._connection.queued_bytes else 250, self._owner.wake_descriptor
            )
            if self._owner.wake_descriptor in ready:
                self._clear_wake()
            self._connection.flush()
            frames = self._connection.receive() if self._connection.fileno() in ready else []
            self._check_silence()

    def _clear_wake(self) -> None:
        try:
            os.eventfd_read(self._owner.wake_descriptor)
        except BlockingIOError:
            pass

    def _take(self, frames: list[Frame]) -> None:
        for frame in frames:
            message = self._session.receive(frame)
            if isinstance(message, BatchFrame | SparseBatch | Fill):
                need = self._fetcher.take(message)
                if need is not None:
                    self._connection.send(self._session.need(need))
            elif isinstance(message, Start):
                self._start(message)
            elif isinstance(message, SourceState):
                self._follow(message)
        group = self._fetcher.ready()
        if group:
            self._receive(group)

    def _follow(self, state: SourceState) -> None:
        """What the source says of this server, of the others, and of whom to supply."""
        self._target.in_sync = state.in_sync
        self._target.log.keep_after = state.others_have
        if self._relay is not None and self._relay.server != state.passes_on_to:
            self.end_relay()
        if self._relay is None and state.passes_on_to:
            self._relay = self._owner.relay(state.passes_on_to, self._epoch)
        if self._relay is not None:
            self._relay.in_sync = state.other_in_sync
            self._relay.wake()

    def end_relay(self) -> None:
        """Without the source nobody is supplied from here: it does that itself then."""
        if self._relay is not None:
            self._owner.end_relay(self._relay)
            self._relay = None

    def _start(self, start: Start) -> None:
        if start.catch_up == STREAM and self._target.position != start.position.position():
            raise ProtocolError("the source starts at another position than agreed")
        if start.sync_id or start.catch_up != STREAM:
            if self._owner.on_start is None:
                raise ProtocolError("this server cannot be synchronized now")
            self._owner.on_start(start, self)

    def _receive(self, group: list[BatchFrame]) -> None:
        """Until the disk takes it, the source waits: nothing is dropped, nothing acknowledged."""
        target = self._target
        while True:
            try:
                target.receive(self, self._epoch, group, self._acknowledge)
                break
            except Corrupt as problem:
                raise ProtocolError(problem.sentence, code=problem.code) from problem
            except OSError as problem:
                target.receive_error = receive_error(problem)
                # Nor is it passed on: the source supplies the other itself, and its word of that
                # is not read before this one can receive again.
                self.end_relay()
                self._report()
                self._owner._stopped.wait(DISK_RETRY_MS / 1000)
                if self._owner.stopped or not target.is_current(self):
                    raise NotConnected("this server stops receiving") from problem
        target.receive_error = None

    def _acknowledge(self, durable: Position) -> None:
        applied = self._target.applier.applied if self._target.applier else None
        self._acknowledged = (durable, applied)
        self._connection.send(self._session.acknowledge(durable, applied))
        self._said_at = time.monotonic()

    def _report(self) -> None:
        """Tell what has changed since the last time, or at least that this side lives."""
        target, connection = self._target, self._connection
        now = time.monotonic()
        durable = target.log.durable
        applied = target.applier.applied if target.applier else None
        # Also before the first batch of a connection: the source may have nothing to send, and
        # has to know where this side stands before it hands the active role over.
        known = self._acknowledged is not None or applied is not None
        ready = known and self._session.state is State.STREAMING
        told = self._acknowledged
        # That something was applied is worth a frame of its own only now and then.
        due = told is None or told[0] != durable or now - self._said_at >= APPLIED_MS / 1000
        if durable is not None and ready and due and told != (durable, applied):
            self._acknowledge(durable)
        state = self._state()
        urgent = self._told is None or _urgent(state) != _urgent(self._told)
        due = state != self._told and (urgent or now - self._told_at >= STATE_MS / 1000)
        if due and self._session.state is State.STREAMING:
            self._told, self._told_at = state, now
            connection.send(self._session.tell(state))
            self._said_at = now
        if now - self._said_at >= IDLE_MS / 1000:
            connection.send(idle_frame())
            self._said_at = now

    def _state(self) -> TargetState:
        target = self._target
        error = target.error
        waiting = target.queue()
        relay = self._relay
        return TargetState(
            relayed=relay.report if relay is not None else None,
            consistent=target.consistent,
            receive_bytes=waiting["bytes"],
            receive_operations=waiting["operations"],
            receive_oldest_ms=waiting["oldest_ms"],
            error_code=error.code if error else "",
            error_sentence=error.sentence if error else "",
        )

    def _check_silence(self) -> None:
        """On a slow link a frame may be longer on its way than silence may last."""
        now = time.monotonic()
        if self._connection.received_bytes != self._heard_bytes:
            self._heard_at, self._heard_bytes = now, self._connection.received_bytes
        elif now - self._heard_at > SILENCE_MS / 1000:
            raise NotConnected("the source has been silent for 5 s")
