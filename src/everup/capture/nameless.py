"""Files that are made without a name (O_TMPFILE), and the journal's view of them.

What enters: a TMPFILE request; later a LINK of its file (see `linking`). What leaves: its answer;
the records that make the file appear as a whole. Called by the session and by `linking`.

Until it gets a name nothing of such a file is recorded: most never do, and what has no name is on
no other server. Recording it from the start was rejected: its data would be shipped for nothing,
the others would have to keep it until told that it is gone, and a resync in between would have to
find it. The price is that giving a name takes as long as journaling the content.
"""

import errno
import os
import secrets

from everup.capture import protocol
from everup.capture.descriptors import Hot
from everup.capture.lower import private_xattr
from everup.capture.naming import keep, own
from everup.capture.nodes import PARENT_UNKNOWN, pack_handle
from everup.capture.protocol import IN_HEADER_BYTES
from everup.capture.replies import entry_reply
from everup.capture.session import Request
from everup.journal.operation import (
    Orphan,
    SetXattr,
    Truncate,
    encode_orphan,
    encode_truncate,
    encode_write,
    encode_xattr,
)
from everup.journal.record import Operation
from everup.limits import PAYLOAD_BYTES_MAX
from everup.model.ids import NO_OBJECT
from everup.system.objectid import door, write_id

_NO_HINT = b""


def tmpfile(request: Request) -> bytes:
    """A new file that lies in the orphan directory: it must not die with this process."""
    _, mode, umask = protocol.CREATE_IN.unpack_from(request.body, IN_HEADER_BYTES)
    tree, order = request.tree, request.order
    order.admit()
    directory = tree.hot(request.node)
    object_id = request.intent.first_id if request.intent else secrets.token_bytes(16)
    request.slot.intend(request.unique, 0, object_id, NO_OBJECT)
    hot = _find(request, object_id) or _make(request, directory, mode, umask, object_id)
    request.slot.note_journaled(request.unique, 0)
    order.confirm()
    return _answer(request, hot)


def tmpfile_again(request: Request) -> bytes:
    """The answer to a TMPFILE that a killed worker had done. ENOENT when it is forgotten."""
    intent = request.slot.intent(request.unique)
    hot = _find(request, intent.first_id) if intent else None
    if hot is None:
        raise FileNotFoundError(errno.ENOENT, "the file is gone")
    return _answer(request, hot)


def _find(request: Request, object_id: bytes) -> Hot | None:
    """The file, if a killed worker came as far as to set it aside: then it is whole."""
    tree = request.tree
    try:
        handle = request.calls.of(tree.orphans_directory, object_id.hex().encode())
    except FileNotFoundError:
        return None
    return tree.hot(pack_handle(handle))


def _make(request: Request, directory: Hot, mode: int, umask: int, object_id: bytes) -> Hot:
    tree = request.tree
    aside = object_id.hex().encode()
    if not tree.has_default_acl(directory):
        mode &= ~umask
    # Made where it was asked for, so that group and access lists are those of the directory.
    descriptor = os.open(
        b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode & 0o7777,
        dir_fd=directory.descriptor,
    )  # fmt: skip
    try:
        own(request, directory, descriptor, mode)
        handle = request.calls.of(descriptor)
        write_id(descriptor, handle, object_id)
        os.link(door(descriptor), aside, dst_dir_fd=tree.orphans_directory, follow_symlinks=True)
    except OSError:
        os.close(descriptor)
        raise
    node = pack_handle(handle)
    tree.set_aside(node, aside)
    hot = keep(request, node, descriptor, mode, object_id)
    hot.orphan = True
    return hot


def _answer(request: Request, hot: Hot) -> bytes:
    request.learned.append((hot.node, PARENT_UNKNOWN, _NO_HINT))
    opened = protocol.OPEN_OUT.pack(0, protocol.FOPEN_KEEP_CACHE, 0)
    return entry_reply(hot.node, os.fstat(hot.descriptor), orphan=True) + opened


def record_content(request: Request, hot: Hot, object_id: bytes) -> None:
    """Records of the whole file, before the LINK that names it; the object's lock is held.

    Between them a batch may end: a passive server then has a part of the file, without a name.
    """
    order, tree = request.order, request.tree
    status = os.fstat(hot.descriptor)
    made = encode_orphan(Orphan(status.st_mode, status.st_uid, status.st_gid))
    size = encode_truncate(Truncate(status.st_size, _NO_HINT))
    with order.lock:
        order.record(tree, Operation.ORPHAN, object_id, made)
        order.record(tree, Operation.TRUNCATE, object_id, size)
    _record_data(request, hot, object_id)
    for name in map(os.fsencode, os.listxattr(hot.descriptor)):
        if not private_xattr(name):
            value = os.getxattr(hot.descriptor, name)
            arguments = encode_xattr(SetXattr(name, _NO_HINT))
            with order.lock:
                order.record(tree, Operation.SET_XATTR, object_id, arguments, value)


def _record_data(request: Request, hot: Hot, object_id: bytes) -> None:
    """The parts that are not holes."""
    order, tree = request.order, request.tree
    end = 0
    while True:
        try:
            start = os.lseek(hot.descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(hot.descriptor, start, os.SEEK_HOLE)
        while start < end:
            buffer = request.buffer[: min(end - start, PAYLOAD_BYTES_MAX)]
            count = os.preadv(hot.descriptor, (buffer,), start)
            if not count:
                break
            with order.lock:
                arguments = encode_write(start, _NO_HINT)
                order.record(tree, Operation.WRITE, object_id, arguments, buffer[:count])
            start += count
