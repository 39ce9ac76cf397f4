"""Handlers that change data and attributes of one object, and the sync of both.

What enters: a request. What leaves: the body of its answer, or None when it waits for the disk or
for other servers. Raises OSError. Called by the session. Order as in `naming`. Every one of these
changes is absolute, so doing it again after a worker was killed is right.
"""

import errno
import os
import stat
from typing import NamedTuple

from everup.capture import protocol
from everup.capture.descriptors import Hot
from everup.capture.lower import ACCESS_ACL, CAPABILITY, DEFAULT_ACL, private_xattr, target
from everup.capture.protocol import IN_HEADER_BYTES, WRITE_BODY_AT
from everup.capture.replies import attributes_reply
from everup.capture.session import Request
from everup.journal.operation import (
    MASK_GID,
    MASK_MODE,
    MASK_MTIME,
    MASK_UID,
    Allocate,
    Attributes,
    RemoveXattr,
    SetXattr,
    Truncate,
    encode_allocate,
    encode_attributes,
    encode_truncate,
    encode_xattr,
)
from everup.journal.record import Operation
from everup.limits import PAYLOAD_BYTES_MAX
from everup.model.ids import NO_OBJECT
from everup.system.attributecalls import TIME_KEPT, TIME_NOW, set_times
from everup.system.kernelcalls import allocate

_XATTR_CREATE = 1
_ALL_ATTRIBUTES = MASK_MODE | MASK_UID | MASK_GID


def write(request: Request) -> bytes | None:
    _, offset, size, flags, _, _ = protocol.WRITE_IN.unpack_from(request.body, IN_HEADER_BYTES)
    data = request.body[WRITE_BODY_AT : WRITE_BODY_AT + size]
    written = _write(request, request.node, offset, data, flags & protocol.WRITE_KILL_SUIDGID)
    if request.wants_sync():
        success = protocol.WRITE_OUT.pack(written)
        return request.session.sync_then_answer(request, written, True, success)
    request.order.confirm()
    return protocol.WRITE_OUT.pack(written)


def _write(request: Request, node: int, offset: int, data: memoryview, kill: int) -> int:
    tree, order, unique = request.tree, request.order, request.unique
    order.admit()
    hot = tree.hot(node)
    with tree.lock(node):
        object_id = hot.object_id or tree.identity(hot)
        request.slot.intend(unique, 0, object_id, NO_OBJECT)
        drop = _drop_privileges(request, hot, kill)
        try:
            written = os.pwrite(hot.descriptor, data, offset)
        except OSError:
            _record_failed(request, hot, object_id, drop)
            raise
        if hot.orphan:
            # Nobody can ever reach it by a name again, on no server.
            request.slot.note_journaled(unique, written)
            return written
        if written != len(data):
            data = data[:written]
        with order.lock:
            if drop is not _NOTHING:
                _record_drop(request, hot, object_id, drop)
            order.record_write(tree, hot, object_id, offset, data, request)
    return written


class _Dropped(NamedTuple):
    """What a change took away besides: the mode that is left, and whether capabilities went."""

    mode: int | None
    capabilities: bool


_NOTHING = _Dropped(None, False)


def _drop_privileges(request: Request, hot: Hot, kill: int) -> _Dropped:
    """Clear set-id bits and capabilities where this change must."""
    left = None
    if kill and not hot.directory and not hot.path_only:
        mode = os.fstat(hot.descriptor).st_mode
        kept = mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            kept &= ~stat.S_ISGID
        if kept != mode:
            os.fchmod(hot.descriptor, kept & 0o7777)
            left = kept
    if hot.capabilities is False or not request.tree.has_capabilities(hot):
        return _NOTHING if left is None else _Dropped(left, False)
    try:
        os.removexattr(target(hot), CAPABILITY)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
    hot.capabilities = False
    return _Dropped(left, True)


def _record_drop(request: Request, hot: Hot, object_id: bytes, drop: _Dropped) -> None:
    """Records of what was taken away; the journal's lock is held."""
    tree, order = request.tree, request.order
    if drop.mode is not None:
        value = Attributes(MASK_MODE, drop.mode, 0, 0, 0, tree.hint(hot))
        order.record(tree, Operation.ATTRIBUTES, object_id, encode_attributes(value))
    if drop.capabilities:
        removed = RemoveXattr(CAPABILITY.encode(), tree.hint(hot))
        order.record(tree, Operation.REMOVE_XATTR, object_id, encode_xattr(removed))


def _record_failed(request: Request, hot: Hot, object_id: bytes, drop: _Dropped) -> None:
    """The change failed, but the bits are gone, and the lower file may have another time."""
    if not hot.orphan:
        with request.order.lock:
            _record_drop(request, hot, object_id, drop)
            request.order.touch(request.tree, hot)


def _may_not_keep(request: Request) -> int:
    """Whether changes by this caller clear set-id bits, where the kernel does not say so itself."""
    return request.uid and 1


def setattr(request: Request) -> bytes:
    (valid, _, size, _, access, modified, _, access_ns, modified_ns, _, mode, uid, gid) = (
        protocol.SETATTR_IN.unpack_from(request.body, IN_HEADER_BYTES)
    )
    tree, order = request.tree, request.order
    order.admit()
    hot = tree.hot(request.node)
    with tree.lock(request.node):
        object_id = tree.identity(hot)
        request.slot.intend(request.unique, 0, object_id, NO_OBJECT)
        resized = bool(valid & protocol.FATTR_SIZE)
        drop = _drop_for_attributes(request, hot, valid)
        try:
            if resized:
                os.ftruncate(hot.descriptor, size)
            if valid & (protocol.FATTR_UID | protocol.FATTR_GID):
                owner = uid if valid & protocol.FATTR_UID else -1
                group = gid if valid & protocol.FATTR_GID else -1
                os.chown(target(hot), owner, group)
        except OSError:
            _record_failed(request, hot, object_id, drop)
            raise
        if valid & protocol.FATTR_MODE:
            os.chmod(target(hot), mode & 0o7777)
        times = _set_times(
            hot, valid, (_signed(access), access_ns), (_signed(modified), modified_ns)
        )
        status = os.fstat(hot.descriptor)
        if hot.orphan:
            request.slot.note_journaled(request.unique, 0)
        else:
            _record_attributes(request, hot, object_id, drop, status, resized, size, times, valid)
    order.confirm()
    return attributes_reply(status, hot.orphan)


def _signed(seconds: int) -> int:
    return seconds - (1 << 64) if seconds >> 63 else seconds


def _drop_for_attributes(request: Request, hot: Hot, valid: int) -> _Dropped:
    """Set-id bits and capabilities that a SETATTR takes away, before it is done."""
    if not valid & protocol.FATTR_CHANGES:
        # What the kernel sends ahead of a change that clears them, and for a chown of nothing.
        return _drop_privileges(request, hot, _may_not_keep(request))
    if valid & (protocol.FATTR_SIZE | protocol.FATTR_UID | protocol.FATTR_GID):
        return _drop_privileges(request, hot, valid & protocol.FATTR_KILL_SUIDGID)
    return _NOTHING


def _set_times(hot: Hot, valid: int, access: tuple[int, int], modified: tuple[int, int]) -> bool:
    """Set the times asked for; True when the modification time was among them."""
    with_access = valid & (protocol.FATTR_ATIME | protocol.FATTR_ATIME_NOW)
    with_modified = valid & (protocol.FATTR_MTIME | protocol.FATTR_MTIME_NOW)
    if not with_access and not with_modified:
        return False
    if not with_access:
        access = (0, TIME_KEPT)
    elif valid & protocol.FATTR_ATIME_NOW:
        access = (0, TIME_NOW)
    if not with_modified:
        modified = (0, TIME_KEPT)
    elif valid & protocol.FATTR_MTIME_NOW:
        modified = (0, TIME_NOW)
    set_times(hot.descriptor, access, modified)
    return bool(with_modified)


def _record_attributes(
    request: Request, hot: Hot, object_id: bytes, drop: _Dropped,
    status: os.stat_result, resized: bool, size: int, times: bool, valid: int,
) -> None:  # fmt: skip
    """Records of a SETATTR; a change of the access time alone has none."""
    tree, order = request.tree, request.order
    mask = MASK_MTIME if times else 0
    if drop is not _NOTHING or valid & (
        protocol.FATTR_MODE | protocol.FATTR_UID | protocol.FATTR_GID
    ):
        mask |= _ALL_ATTRIBUTES
    with order.lock:
        hint = tree.hint(hot)
        _record_drop(request, hot, object_id, drop)
        if resized:
            arguments = encode_truncate(Truncate(size, hint))
            last = None if mask else request
            order.touch(tree, hot)
            hot.ahead.changed_otherwise()
            order.record(tree, Operation.TRUNCATE, object_id, arguments, b"", last)
        if mask:
            value = Attributes(
                mask, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, hint
            )
            arguments = encode_attributes(value)
            order.record(tree, Operation.ATTRIBUTES, object_id, arguments, b"", request)
        elif not resized:
            request.slot.note_journaled(request.unique, 0)


def fallocate(request: Request) -> bytes:
    _, offset, length, mode = protocol.FALLOCATE_IN.unpack_from(request.body, IN_HEADER_BYTES)
    tree, order = request.tree, request.order
    order.admit()
    hot = tree.hot(request.node)
    with tree.lock(request.node):
        object_id = tree.identity(hot)
        request.slot.intend(request.unique, 0, object_id, NO_OBJECT)
        drop = _drop_privileges(request, hot, _may_not_keep(request))
        try:
            _allocate(hot, mode, offset, length)
        except OSError:
            _record_failed(request, hot, object_id, drop)
            raise
        if hot.orphan:
            request.slot.note_journaled(request.unique, 0)
        else:
            with order.lock:
                _record_drop(request, hot, object_id, drop)
                value = Allocate(offset, length, mode, tree.hint(hot))
                arguments = encode_allocate(value)
                order.touch(tree, hot)
                hot.ahead.changed_otherwise()
                order.record(tree, Operation.ALLOCATE, object_id, arguments, b"", request)
    order.confirm()
    return b""


def _allocate(hot: Hot, mode: int, offset: int, length: int) -> None:
    """All or nothing: ext4 leaves a longer file behind when the disk is full half-way."""
    before = os.fstat(hot.descriptor).st_size
    try:
        allocate(hot.descriptor, mode, offset, length)
    except OSError:
        if os.fstat(hot.descriptor).st_size != before:
            os.ftruncate(hot.descriptor, before)
        raise


def copy_file_range(request: Request) -> bytes:
    """Journaled as the bytes; a short count makes the application go on by itself."""
    _, offset, node, _, to_offset, length, _ = protocol.COPY_IN.unpack_from(
        request.body, IN_HEADER_BYTES
    )
    buffer = request.buffer[: min(length, PAYLOAD_BYTES_MAX)]
    count = os.preadv(request.tree.hot(request.node).descriptor, (buffer,), offset)
    written = 0
    if count:
        written = _write(request, node, to_offset, buffer[:count], _may_not_keep(request))
    else:
        request.slot.note_journaled(request.unique, 0)
    request.order.confirm()
    if request.opcode == protocol.COPY_FILE_RANGE_64:
        return protocol.COPY_OUT_64.pack(written)
    return protocol.WRITE_OUT.pack(written)


def setxattr(request: Request) -> bytes:
    size, flags, extra = protocol.SETXATTR_IN.unpack_from(request.body, IN_HEADER_BYTES)
    start = IN_HEADER_BYTES + protocol.SETXATTR_IN.size
    (name,) = request.names(start)
    value_at = start + len(name) + 1
    value = bytes(request.body[value_at : value_at + size])
    if private_xattr(name):
        raise OSError(errno.EPERM, "private")
    tree, order = request.tree, request.order
    order.admit()
    hot = tree.hot(request.node)
    with tree.lock(request.node):
        object_id = tree.identity(hot)
        request.slot.intend(request.unique, 0, object_id, NO_OBJECT)
        if request.intent and flags == _XATTR_CREATE:
            flags = 0
        os.setxattr(target(hot), name, value, flags)
        if extra & protocol.ACL_KILL_SGID:
            _clear_group_id(hot)
        _note_xattr(hot, name, True)
        arguments_of = encode_xattr(SetXattr(name, tree.hint(hot)))
        _record_xattr(request, hot, object_id, Operation.SET_XATTR, arguments_of, value, name)
    order.confirm()
    return b""


def _clear_group_id(hot: Hot) -> None:
    mode = os.fstat(hot.descriptor).st_mode
    if mode & stat.S_ISGID:
        os.chmod(target(hot), mode & 0o7777 & ~stat.S_ISGID)


def _note_xattr(hot: Hot, name: bytes, present: bool) -> None:
    if name == CAPABILITY.encode():
        hot.capabilities = present
    elif name == DEFAULT_ACL.encode():
        hot.default_acl = present


def _record_xattr(
    request: Request, hot: Hot, object_id: bytes, operation: int, arguments: bytes, value: bytes,
    name: bytes,
) -> None:  # fmt: skip
    if hot.orphan:
        request.slot.note_journaled(request.unique, 0)
        return
    tree, order = request.tree, request.order
    changes_mode = name == ACCESS_ACL.encode()
    with order.lock:
        last = None if changes_mode else request
        order.record(tree, operation, object_id, arguments, value, last)
        if changes_mode:
            status = os.fstat(hot.descriptor)
            mode = Attributes(MASK_MODE, status.st_mode, 0, 0, 0, tree.hint(hot))
            order.record(
                tree, Operation.ATTRIBUTES, object_id, encode_attributes(mode), b"",
                request,
            )  # fmt: skip


def removexattr(request: Request) -> bytes:
    (name,) = request.names(IN_HEADER_BYTES)
    if private_xattr(name):
        raise OSError(errno.ENODATA, "private")
    tree, order = request.tree, request.order
    order.admit()
    hot = tree.hot(request.node)
    with tree.lock(request.node):
        object_id = tree.identity(hot)
        request.slot.intend(request.unique, 0, object_id, NO_OBJECT)
        try:
            os.removexattr(target(hot), name)
        except OSError as error:
            if request.intent is None or error.errno != errno.ENODATA:
                raise
        _note_xattr(hot, name, False)
        arguments = encode_xattr(RemoveXattr(name, tree.hint(hot)))
        _record_xattr(request, hot, object_id, Operation.REMOVE_XATTR, arguments, b"", name)
    order.confirm()
    return b""


def fsync(request: Request) -> bytes | None:
    _, flags = protocol.FSYNC_IN.unpack_from(request.body, IN_HEADER_BYTES)
    request.order.admit()
    data_only = bool(flags & protocol.FSYNC_DATA_ONLY)
    return request.session.sync_then_answer(request, 0, data_only, b"")


def syncfs(request: Request) -> bytes | None:
    request.order.admit()
    request.node = protocol.ROOT_NODE
    return request.session.sync_then_answer(request, 0, False, b"")
