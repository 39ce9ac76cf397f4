"""Finish what a killed worker left: requests in slots, requests that wait, the open batch.

What enters: the shared memory of a mounted tree and the records behind the last batch end. What
leaves: every request answered exactly once, every change of the lower tree in the journal. Called
by the worker before its threads start, also when the kernel connection is gone already (then only
what has begun is finished, and nobody is answered).

A change that has begun held the object's lock, so nothing came after it: it is done again, and
"already so" is success. A change whose record is in the journal is only answered again. Requests
that had not begun are handled like new ones, afterwards.
"""

import os

from everup.capture import protocol
from everup.capture.lower import LowerTree
from everup.capture.nameless import tmpfile_again
from everup.capture.order import Order
from everup.capture.reading import learn
from everup.capture.replies import attributes_reply, entry_reply
from everup.capture.session import Request, Session
from everup.journal.record import Record

_NAME_AT = {
    protocol.MKNOD: protocol.IN_HEADER_BYTES + protocol.MKNOD_IN.size,
    protocol.MKDIR: protocol.IN_HEADER_BYTES + protocol.MKDIR_IN.size,
    protocol.LINK: protocol.IN_HEADER_BYTES + protocol.LINK_IN.size,
    protocol.SYMLINK: protocol.IN_HEADER_BYTES,
}


def settle(session: Session, loose: tuple[Record, ...], alive: bool = True) -> int:
    """Finish all requests in the slots; returns how many there were."""
    # Each connection has its own numbers: another tree's request may have had the same one.
    tree_id = session.tree.tree_id
    own = [record for record in loose if record.unique and record.tree == tree_id]
    recorded = {record.unique: len(record.payload) for record in own}
    requests = [request for request in session.requests if request.slot.used]
    begun: list[Request] = []
    fresh: list[Request] = []
    for request in requests:
        request.parse()
        if _is_over(session, request, recorded, alive):
            continue
        request.intent = request.slot.intent(request.unique)
        (begun if request.intent else fresh).append(request)
    for request in begun + (fresh if alive else []):
        session.handle(request)
    for request in requests:
        request.intent = None
        request.slot.clear()
    return len(requests)


def _is_over(session: Session, request: Request, recorded: dict[int, int], alive: bool) -> bool:
    """Whether a request is done, or refused, and is only answered again.

    It may have been answered already, and much been asked for since: a slot is cleared a moment
    after the answer. The kernel does not take a second one.
    """
    unique = request.unique
    failed = request.slot.failed(unique)
    written = request.slot.journaled(unique)
    if written is None:
        written = recorded.get(unique)
    if not failed and written is None:
        return False
    if alive and failed:
        session.answer_error(unique, failed)
    elif alive:
        _answer_again(session, request, written or 0)
    return True


def _answer_again(session: Session, request: Request, written: int) -> None:
    """The change is done and recorded; only its answer is missing (or was given just now)."""
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


def touch_again(order: Order, trees: dict[int, LowerTree], touched: list[tuple[int, int]]) -> None:
    """The objects of the open batch, whose times belong at its end."""
    for tree_id, node in touched:
        tree = trees.get(tree_id)
        if tree is None:
            continue
        try:
            hot = tree.hot(node)
            with tree.lock(node):
                tree.identity(hot)
        except OSError:
            # Removed by a later record of the batch.
            continue
        with order.lock:
            order.touch(tree, hot)
