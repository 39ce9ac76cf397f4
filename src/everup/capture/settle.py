"""Finish what a killed worker left: requests in slots, and the times of the open batch.

What enters: the shared memory of all mounted trees and the records behind the last batch end. What
leaves: every request that had begun answered exactly once, every change of the lower trees in the
journal. Called by the worker before its threads start, also when the kernel's connections are gone
already (then only what has begun is finished, and nobody is answered).

In this order, over all trees: changes that had begun; requests that are over; those that had not
begun. A change that has begun held the object's lock, so nothing came after it: it is done again,
and "already so" is success. A change whose record is in the journal is only answered again.
Requests that had not begun are new ones: the kernel sends them again, or the threads begin with
them. Not here, since they may have to wait for the lease.
"""

import os
from collections.abc import Collection

from everup.capture import protocol
from everup.capture.nameless import tmpfile_again
from everup.capture.order import Order
from everup.capture.reading import learn
from everup.capture.replies import attributes_reply, entry_reply
from everup.capture.session import Request, Session
from everup.journal.record import Record
from everup.model.ids import NO_OBJECT

_NAME_AT = {
    protocol.MKNOD: protocol.IN_HEADER_BYTES + protocol.MKNOD_IN.size,
    protocol.MKDIR: protocol.IN_HEADER_BYTES + protocol.MKDIR_IN.size,
    protocol.LINK: protocol.IN_HEADER_BYTES + protocol.LINK_IN.size,
    protocol.SYMLINK: protocol.IN_HEADER_BYTES,
}
_CREATING = frozenset((protocol.MKNOD, protocol.MKDIR, protocol.SYMLINK))

_AT_ONCE = frozenset(
    (protocol.INIT, protocol.LOOKUP, protocol.READDIRPLUS, protocol.FORGET, protocol.BATCH_FORGET)
)
"""Not begun, and done here all the same; they never wait. What is counted is known by the slot and
the number of its request, and one that is sent again comes to another slot; a FORGET is never sent
again, nor is anything before INIT is answered."""


class Found:
    """What stands in the slots of all trees, sorted."""

    def __init__(self) -> None:
        self.begun: list[Request] = []
        self.over: list[tuple[Request, int]] = []
        self.fresh: list[Request] = []

    def add(self, request: Request, recorded: dict[int, int]) -> None:
        written = _written(request, recorded)
        request.intent = request.slot.intent(request.unique)
        if written is not None:
            self.over.append((request, written))
        elif request.intent:
            self.begun.append(request)
        else:
            self.fresh.append(request)


def settle(
    sessions: Collection[Session],
    order: Order,
    loose: tuple[Record, ...],
    touched: list[tuple[int, int]],
    alive: bool = True,
) -> None:
    """Finish everything that stands in the slots."""
    found = Found()
    for session in sessions:
        # Each connection has its own numbers: another tree's request may have had the same one.
        own = [each for each in loose if each.unique and each.tree == session.tree.tree_id]
        recorded = {record.unique: len(record.payload) for record in own}
        for request in session.requests:
            if request.slot.used:
                request.parse()
                found.add(request, recorded)
    _touch_again(sessions, order, touched, {_unborn(request) for request in found.begun})
    order.finishing = True
    for request in found.begun:
        request.session.handle(request)
    order.finishing = False
    kept = _answer(found) if alive else []
    for request in (*found.begun, *(request for request, _ in found.over), *found.fresh):
        request.intent = None
        if request not in kept:
            request.slot.clear()


def _answer(found: Found) -> list[Request]:
    """Who can be answered is; returns those with which the threads have to begin."""
    for request, written in found.over:
        _answer_again(request, written)
    left = []
    for request in found.fresh:
        if request.opcode in _AT_ONCE:
            request.session.handle(request)
        elif not request.session.resend:
            left.append(request)
    return left


def _written(request: Request, recorded: dict[int, int]) -> int | None:
    """Bytes that a request wrote that is done, or refused (0); None when it is neither."""
    unique = request.unique
    if request.slot.failed(unique):
        return 0
    written = request.slot.journaled(unique)
    return recorded.get(unique) if written is None else written


def _answer_again(request: Request, written: int) -> None:
    """The change is done and recorded, or refused; only its answer is missing.

    It may have been answered already, and much been asked for since: a slot is cleared a moment
    after the answer. The kernel does not take a second one.
    """
    session = request.session
    failed = request.slot.failed(request.unique)
    if failed:
        session.answer_error(request.unique, failed)
        return
    try:
        answer = _answer_of(session, request, written)
        if answer is not None:
            session.order.confirm()
            session.count(request)
            session.answer(request.unique, answer)
    except OSError as error:
        request.learned.clear()
        session.answer_error(request.unique, error.errno or 5)


def _answer_of(session: Session, request: Request, written: int) -> bytes | None:
    opcode = request.opcode
    if opcode in _NAME_AT:
        name = request.names(_NAME_AT[opcode])[0]
        return entry_reply(*learn(request, session.tree.hot(request.node), name))
    if opcode == protocol.TMPFILE:
        return tmpfile_again(request)
    if opcode == protocol.SETATTR:
        hot = session.tree.hot(request.node)
        return attributes_reply(os.fstat(hot.descriptor), hot.orphan)
    if opcode == protocol.COPY_FILE_RANGE_64:
        return protocol.COPY_OUT_64.pack(written)
    if opcode == protocol.COPY_FILE_RANGE:
        return protocol.WRITE_OUT.pack(written)
    if opcode == protocol.WRITE:
        success = protocol.WRITE_OUT.pack(written)
        if request.wants_sync():
            return session.sync_then_answer(request, written, True, success)
        return success
    return b""


def _unborn(request: Request) -> bytes:
    """The object that a begun request was about to make known to the journal, if it was."""
    intent = request.intent
    assert intent is not None
    first_name = request.opcode == protocol.LINK and intent.second_id == intent.first_id
    return intent.first_id if request.opcode in _CREATING or first_name else NO_OBJECT


def _touch_again(
    sessions: Collection[Session], order: Order, touched: list[tuple[int, int]], unborn: set[bytes]
) -> None:
    """The objects of the open batch, whose times belong at its end.

    An object is touched just before its record. When the worker was killed between the two, a batch
    that ends before the record (a size, a sync) must not name it; whoever records it touches it.
    """
    trees = {session.tree.tree_id: session.tree for session in sessions}
    for tree_id, node in touched:
        tree = trees.get(tree_id)
        if tree is None:
            continue
        try:
            hot = tree.hot(node)
            with tree.lock(node):
                object_id = tree.identity(hot)
            gone = not os.fstat(hot.descriptor).st_nlink
        except OSError:
            # Removed by a later record of the batch.
            continue
        if not gone and object_id not in unborn:
            with order.lock:
                order.touch(tree, hot)
