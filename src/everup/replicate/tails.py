"""What another passive server has received beyond this one: fetched before this one goes on.

What enters: the epoch that was promised here, and names of servers that say they are ahead. What
leaves: the same line of history, longer, as far as it could be had in a moment. Called by the
process before it drains, and by `receiving` on the side that is asked.

Without this such a server would stand on a branch that nobody goes on with: what only it has would
be lost to the others, and its own trees would have to be compared.
"""

import time
from collections.abc import Sequence

from everup.errors import Corrupt, EverupError, NotConnected
from everup.journal.reader import Cursor
from everup.journal.recovery import END_BYTES
from everup.model.position import Position
from everup.replicate.context import Context
from everup.replicate.greeting import await_welcome
from everup.replicate.target import Target
from everup.wire.frames import BatchFrame, Frame
from everup.wire.messages import (
    CHANNEL_TAIL,
    PROTOCOL_VERSIONS,
    Hello,
    Welcome,
    WirePosition,
    wire_or_none,
)
from everup.wire.session import SourceSession, State, TargetSession
from everup.wire.transport import Connection, client_context, dial

FETCH_SECONDS = 2.0
"""The applications wait for it. What is not here by then stays behind as a divergence."""


def fetch_tails(
    context: Context, target: Target, epoch: int, servers: Sequence[str], port: int
) -> None:
    """Make this server's log as long as it can be had. Never raises for a server that is away."""
    deadline = time.monotonic() + FETCH_SECONDS
    for server in servers:
        before = target.position
        if before is None:
            return
        try:
            _fetch(context, target, epoch, server, port, deadline)
        except (EverupError, OSError) as problem:
            sentence = getattr(problem, "sentence", str(problem))
            context.events.emit("tail-missed", f"{server} was asked in vain: {sentence}")
        after = target.position
        if after is not None and after != before:
            context.events.emit(
                "tail-fetched",
                f"{after.sequence - before.sequence} operations that only {server} had received "
                "were fetched from it",
                server=server,
            )


def _fetch(
    context: Context, target: Target, epoch: int, server: str, port: int, deadline: float
) -> None:
    member = context.group.member(server)
    if member is None or member.name not in context.servers():
        return
    connection = dial(member.addresses, port, client_context(context.places), server)
    try:
        asking, taking = SourceSession(), TargetSession()
        position = target.position
        assert position is not None
        hello = Hello(
            versions=PROTOCOL_VERSIONS,
            group_id=context.group.group_id,
            server=context.server,
            channel=CHANNEL_TAIL,
            epoch=epoch,
            position=WirePosition.of(position),
        )
        connection.send(asking.hello(hello))
        answer = await_welcome(connection, asking, server, lambda: time.monotonic() > deadline)
        if answer is None:
            raise NotConnected(f"{server} does not answer")
        welcome, frames = answer
        taking.state = State.STREAMING
        _take(target, epoch, connection, taking, welcome, frames, deadline)
    finally:
        connection.close()


def _take(
    target: Target,
    epoch: int,
    connection: Connection,
    session: TargetSession,
    welcome: Welcome,
    frames: list[Frame],
    deadline: float,
) -> None:
    """Until this server has what the other has, or the time is over."""
    end = welcome.position.position() if welcome.position is not None else None
    durable = target.position
    while end is not None and durable is not None and durable.sequence < end.sequence:
        batches = [found for f in frames if isinstance(found := session.receive(f), BatchFrame)]
        if batches:
            durable = target.extend(epoch, batches)
            connection.send(session.acknowledge(durable, None))
        elif time.monotonic() > deadline:
            raise NotConnected(f"{welcome.server} did not send all of it in time")
        connection.wait(100)
        connection.flush()
        frames = connection.receive()


def serve_tail(
    context: Context,
    target: Target,
    connection: Connection,
    session: TargetSession,
    hello: Hello,
    version: int,
) -> None:
    """Promise the other's epoch, and give it what it lacks of this server's line."""
    end = target.seal(hello.epoch)
    welcome = Welcome(
        version=version,
        server=context.server,
        sealed_epoch=target.seal_promise.epoch,
        tree_state=target.tree_state,
        position=wire_or_none(end),
    )
    connection.send(session.welcome(welcome))
    begin = hello.position.position() if hello.position is not None else None
    if begin is None or end is None or end.sequence <= begin.sequence:
        return
    _give(context, connection, begin, end)


def _give(context: Context, connection: Connection, begin: Position, end: Position) -> None:
    session = SourceSession()
    session.state = State.STREAMING
    cursor = Cursor(context.places.receive, begin)
    deadline = time.monotonic() + 2 * FETCH_SECONDS
    try:
        while cursor.position.sequence < end.sequence or session.in_flight:
            if time.monotonic() > deadline:
                return
            while session.may_send and cursor.position.sequence < end.sequence:
                batch = cursor.next()
                if batch is None:
                    raise Corrupt("the receive log ends before its own end")
                sequence = batch.end.sequence
                connection.send(session.batch(batch.data, END_BYTES, sequence, batch.records, 0))
            connection.wait(100)
            connection.flush()
            for frame in connection.receive():
                session.receive(frame)
    finally:
        cursor.close()
