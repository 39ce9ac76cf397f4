"""The handler of hard links, and of the first name of a file that was made without one.

What enters: a LINK request. What leaves: the answer with the object's attributes. Raises OSError.
Called by the session. Order as in `naming`.
"""

import os

from everup.capture import protocol
from everup.capture.descriptors import Hot
from everup.capture.nameless import record_content
from everup.capture.naming import refuse_hidden
from everup.capture.nodes import pack_handle
from everup.capture.protocol import IN_HEADER_BYTES
from everup.capture.replies import entry_reply
from everup.capture.session import Request
from everup.journal.operation import Link, encode_link
from everup.journal.record import Operation
from everup.model.ids import NO_OBJECT
from everup.system.kernelcalls import RENAME_NOREPLACE, rename
from everup.system.objectid import door


def link(request: Request) -> bytes:
    (node,) = protocol.LINK_IN.unpack_from(request.body, IN_HEADER_BYTES)
    (name,) = request.names(IN_HEADER_BYTES + protocol.LINK_IN.size)
    tree, order = request.tree, request.order
    order.admit()
    refuse_hidden(request, request.node, name)
    directory, hot = tree.hot(request.node), tree.hot(node)
    with tree.hold(request.node, node):
        object_id = tree.identity(hot)
        # The kernel links an object without a name only if it never had one.
        nameless = _is_nameless(request, node, object_id)
        mark = object_id if nameless else NO_OBJECT
        request.slot.intend(request.unique, 0, object_id, mark)
        if nameless:
            _name(request, directory, node, name)
            hot.orphan = False
            record_content(request, hot, object_id)
        else:
            _link(request, directory, hot, name)
        directory_id = tree.identity(directory)
        with order.lock:
            order.touch(tree, directory)
            if nameless:
                order.touch(tree, hot)
            value = Link(directory_id, name, tree.hint(directory), tree.hint(hot))
            tree.nodes.name(node, request.node, name)
            hot.hint = None
            order.record(tree, Operation.LINK, object_id, encode_link(value), b"", request)
        request.learned.append((node, request.node, name))
        status = os.fstat(hot.descriptor)
    order.confirm()
    return entry_reply(node, status)


def _is_nameless(request: Request, node: int, object_id: bytes) -> bool:
    """Also when a killed worker had named it already and not recorded all of it."""
    begun = request.intent is not None and request.intent.second_id == object_id
    return begun or node in request.tree.orphans


def _name(request: Request, directory: Hot, node: int, name: bytes) -> None:
    """Move it from the orphan directory to its first name, so that it has one link."""
    tree = request.tree
    aside = tree.orphans.get(node)
    if aside is not None:
        rename(tree.orphans_directory, aside, directory.descriptor, name, RENAME_NOREPLACE)
        del tree.orphans[node]


def _link(request: Request, directory: Hot, hot: Hot, name: bytes) -> None:
    try:
        os.link(door(hot.descriptor), name, dst_dir_fd=directory.descriptor, follow_symlinks=True)
    except FileExistsError:
        there = request.calls.of(directory.descriptor, name)
        if request.intent is None or pack_handle(there) != hot.node:
            raise
