"""How a conversation with a peer begins: who is there, where it stands, how it catches up.

What enters: a fresh connection. What leaves: an agreement, from which the link streams. Called by
the link, in its thread; the choice itself is made in `catchup`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from everup.errors import Corrupt, EverupError, NotConnected, ProtocolError
from everup.journal.history import load_history
from everup.journal.unclean import last_unclean_epoch
from everup.model.position import ORIGIN, Position
from everup.replicate.catchup import RESYNC, STREAM, CatchUp, choose_catch_up
from everup.replicate.context import Context
from everup.replicate.dirtyscope import scope_since
from everup.replicate.guardlink import guard_position
from everup.replicate.logs import LogCursor, journal_end
from everup.replicate.resync import Place, Resync
from everup.replicate.scope import Scope
from everup.replicate.treestate import EMPTY
from everup.wire.frames import Frame
from everup.wire.messages import (
    CHANNEL_STREAM,
    FEATURES,
    PROTOCOL_VERSIONS,
    Hello,
    PastEpoch,
    Start,
    Welcome,
    WirePosition,
    wire_or_none,
)
from everup.wire.session import SourceSession
from everup.wire.transport import Connection

GREETING_MS = 5000
HISTORY_SENT_MAX = 1000


class StillApplying(NotConnected):
    """The peer is asked again in a moment."""


@dataclass
class Agreement:
    """What both sides do now."""

    choice: CatchUp
    begin: Position
    """The stream begins behind it."""
    cursor: LogCursor
    start: Start
    resync: Resync | None
    goal_sequence: int | None
    """What the peer must have to count as in sync; None while a resync decides that."""
    shared: Position | None = None
    """With a narrowed copy: what was changed behind it has to be known until the copy is proven."""


def hello(context: Context, epoch: int, position: Position | None = None) -> Hello:
    """`position`: how far this server has it, when that is not the end of its journal."""
    history = load_history(context.places.history)[-HISTORY_SENT_MAX:]
    return Hello(
        versions=PROTOCOL_VERSIONS,
        group_id=context.group.group_id,
        server=context.server,
        channel=CHANNEL_STREAM,
        epoch=epoch,
        history=tuple(PastEpoch(e.epoch, WirePosition.of(e.parent)) for e in history),
        position=WirePosition.of(position or end_of_journal(context)),
        features=FEATURES,
        trees=tuple(tree.id for tree in context.group.protect),
    )


def end_of_journal(context: Context) -> Position:
    """As the guard says; as the files say while it is away."""
    try:
        end = guard_position(context.places.guard_socket)
    except EverupError:
        end = None
    return end or journal_end(context.places) or ORIGIN


def await_welcome(
    connection: Connection, session: SourceSession, server: str, stopped: Callable[[], bool]
) -> tuple[Welcome, list[Frame]] | None:
    """The peer's answer and what came with it; None when it says nothing."""
    deadline = time.monotonic() + GREETING_MS / 1000
    while time.monotonic() < deadline and not stopped():
        connection.wait(200)
        connection.flush()
        frames = connection.receive()
        for number, frame in enumerate(frames):
            message = session.receive(frame)
            if isinstance(message, Welcome):
                if message.server != server or message.version not in PROTOCOL_VERSIONS:
                    raise ProtocolError(f"{server} answers for {message.server!r}")
                return message, frames[number + 1 :]
    return None


def agree(
    context: Context,
    epoch: int,
    place: Place,
    welcome: Welcome,
    *,
    unequal: bool,
    unreadable: str,
    patient: bool = False,
) -> Agreement:
    """`unequal`: the peer was found different; `unreadable`: what was wrong with the journal when
    it was read for this peer; `patient`: rather wait than compare more than needed. Raises Corrupt,
    OSError, StillApplying."""
    position = welcome.position.position() if welcome.position else None
    place = replace(place, features=frozenset(welcome.features))
    cursor = None if unreadable else _cursor_at(context, position)
    history = load_history(context.places.history)
    # Before the scope is read, so that it holds everything up to there.
    end = end_of_journal(context)
    scope = None
    if cursor is None and not unequal and not unreadable:
        scope = _dirty_scope(context, welcome, patient=patient)
    choice = choose_catch_up(
        place.server,
        welcome.tree_state,
        position,
        known=any(start.parent == position for start in history),
        held=cursor is not None,
        missing_trees=welcome.missing_trees,
        unclean_epoch=last_unclean_epoch(context.places.state),
        unequal=unequal,
        unreadable=unreadable,
        base=None if unreadable else _base(context, welcome),
        dirty_objects=None if scope is None else len(scope),
        partial=welcome.partial.position() if welcome.partial else None,
    )
    shared = _shared(welcome) if scope is not None else None
    if not choice.narrowed:
        scope = None
    if choice.base is not None:
        # The peer names what is doubtful there; nothing is doubtful here.
        end, scope = choice.base, Scope()
    if choice.kind == RESYNC or cursor is None:
        if cursor is not None:
            cursor.close()
        fresh = welcome.tree_state == EMPTY
        resync = Resync(context, epoch, place, end, fresh=fresh, scope=scope)
        start = _start(RESYNC, end, choice, resync, shared)
        log = LogCursor(context.places, end)
        return Agreement(choice, end, log, start, resync, None, shared)
    assert position is not None
    # With an unproven copy, which is whole, only the proof is made again.
    proof = Resync(context, epoch, place, None) if welcome.unproven else None
    goal = None if welcome.unproven else end.sequence
    return Agreement(choice, position, cursor, _start(STREAM, position, choice, proof), proof, goal)


def _shared(welcome: Welcome) -> Position | None:
    """Where the peer's trees are known to be equal but for what was changed since."""
    if welcome.position is None:
        return welcome.partial.position() if welcome.partial is not None else None
    return None if welcome.unproven else welcome.position.position()


def _dirty_scope(context: Context, welcome: Welcome, *, patient: bool) -> Scope | None:
    """What the peer may lack, if its trees are known to be equal but for that."""
    shared = _shared(welcome)
    if shared is None:
        return None
    scope = scope_since(context.places, shared)
    if scope is not None and welcome.position is not None and not welcome.all_applied:
        # What it received and has not applied is in no scope, and the copy forgets it.
        if patient:
            raise StillApplying(f"{welcome.server} still applies what it has received")
        return None
    return scope


def _start(
    kind: str,
    begin: Position,
    choice: CatchUp,
    resync: Resync | None,
    shared: Position | None = None,
) -> Start:
    return Start(
        catch_up=kind,
        position=WirePosition.of(begin),
        sentence=choice.sentence,
        sync_id=resync.sync_id if resync else "",
        narrow=choice.base is not None,
        shared=wire_or_none(shared),
    )


def _base(context: Context, welcome: Welcome) -> Position | None:
    """The newest of the positions that the peer offers which this server's logs go on from."""
    for offered in welcome.bases:
        cursor = _cursor_at(context, offered.position())
        if cursor is not None:
            cursor.close()
            return offered.position()
    return None


def _cursor_at(context: Context, position: Position | None) -> LogCursor | None:
    if position is None:
        return None
    try:
        return LogCursor(context.places, position)
    except (Corrupt, OSError):
        return None
