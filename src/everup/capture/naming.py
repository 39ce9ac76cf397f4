"""Handlers that change names: creations and removals (see also `linking` and `renaming`).

What enters: a request. What leaves: the body of its answer. Raises OSError. Called by the session.
Each follows the order of the architecture: deadline, intent, lower tree, record, deadline, answer.
With `request.intent` set, an earlier worker was killed in the middle of this very request: what it
had done already is then success, not EEXIST or ENOENT.
"""

import errno
import os
import secrets
import stat

from everup.capture import protocol
from everup.capture.descriptors import Hot
from everup.capture.lower import ACCESS_ACL, DEFAULT_ACL, target
from everup.capture.nodes import pack_handle
from everup.capture.protocol import IN_HEADER_BYTES
from everup.capture.replies import device_from_kernel, entry_reply
from everup.capture.session import Request
from everup.journal.operation import (
    Create,
    SetXattr,
    Unlink,
    encode_create,
    encode_unlink,
    encode_xattr,
)
from everup.journal.record import Operation
from everup.model.ids import NO_OBJECT, OBJECT_ID_XATTR
from everup.system.kernelcalls import FileHandle
from everup.system.objectid import decode_id, door, write_id

_KEPT_BITS = stat.S_ISUID | stat.S_ISGID
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_ASIDE = (errno.ENOSPC, errno.EDQUOT, errno.EXDEV)
"""The orphan directory cannot take a file: a full disk, or a directory with a project quota.
Removing must work all the same; the file then lives as long as this process has it open."""
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def mknod(request: Request) -> bytes:
    mode, device, umask = protocol.MKNOD_IN.unpack_from(request.body, IN_HEADER_BYTES)
    (name,) = request.names(IN_HEADER_BYTES + protocol.MKNOD_IN.size)
    return _create(request, name, mode, umask, device_from_kernel(device))


def mkdir(request: Request) -> bytes:
    mode, umask = protocol.MKDIR_IN.unpack_from(request.body, IN_HEADER_BYTES)
    (name,) = request.names(IN_HEADER_BYTES + protocol.MKDIR_IN.size)
    return _create(request, name, mode & 0o7777 | stat.S_IFDIR, umask)


def symlink(request: Request) -> bytes:
    name, link_target = request.names(IN_HEADER_BYTES, 2)
    return _create(request, name, 0o777 | stat.S_IFLNK, 0, 0, link_target)


def _create(
    request: Request, name: bytes, mode: int, umask: int, device: int = 0, link: bytes = b""
) -> bytes:
    tree, order = request.tree, request.order
    order.admit()
    directory = tree.hot(request.node)
    refuse_hidden(request, request.node, name)
    with tree.lock(request.node):
        object_id = request.intent.first_id if request.intent else secrets.token_bytes(16)
        request.slot.intend(request.unique, 0, object_id, NO_OBJECT)
        inherits = not link and tree.has_default_acl(directory)
        if not inherits:
            mode &= ~umask
        descriptor = _make(request, directory, name, mode, device, link, object_id)
        try:
            own(request, directory, descriptor, mode)
            handle = request.calls.of(descriptor)
            write_id(descriptor, handle, object_id, not _opened(mode))
        except OSError:
            os.close(descriptor)
            remove = os.rmdir if stat.S_ISDIR(mode) else os.unlink
            remove(name, dir_fd=directory.descriptor)
            raise
        node = pack_handle(handle)
        hot = keep(request, node, descriptor, mode, object_id)
        status = os.fstat(hot.descriptor)
        request.learned.append((node, request.node, name))
        _record_creation(request, directory, hot, name, status, link, inherits)
    order.confirm()
    return entry_reply(node, status)


def _make(
    request: Request, directory: Hot, name: bytes, mode: int, device: int, link: bytes,
    object_id: bytes,
) -> int:  # fmt: skip
    """Create the object and return a descriptor of it."""
    place = directory.descriptor
    flags = _LOOK
    try:
        if stat.S_ISREG(mode):
            return os.open(name, _NEW_FILE, mode & 0o7777, dir_fd=place)
        if stat.S_ISDIR(mode):
            flags = _DIRECTORY
            os.mkdir(name, mode & 0o7777, dir_fd=place)
        elif link:
            os.symlink(link, name, dir_fd=place)
        else:
            os.mknod(name, mode, device, dir_fd=place)
    except FileExistsError:
        if request.intent is None or not _is_ours(request, directory, name, object_id):
            raise
        if stat.S_ISREG(mode):
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=place)


def _is_ours(request: Request, directory: Hot, name: bytes, object_id: bytes) -> bool:
    """Whether the existing name is the half-done creation of a killed worker."""
    found = named_id(directory, name, request.calls.of(directory.descriptor, name))
    return found is None or found == object_id


def named_id(directory: Hot, name: bytes, handle: FileHandle) -> bytes | None:
    """Object id of a name in a directory, without opening it."""
    path = door(directory.descriptor).encode() + b"/" + name
    try:
        return decode_id(os.getxattr(path, OBJECT_ID_XATTR, follow_symlinks=False), handle)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


def own(request: Request, directory: Hot, descriptor: int, mode: int) -> None:
    """Give the new object to the caller; in a set-group-id directory its group stays.

    Whether the caller may set the group's bit in such a directory the kernel has decided, with all
    of its groups; what is in `mode` here is allowed.
    """
    if not request.uid and not request.gid:
        return
    group = request.gid
    if os.fstat(directory.descriptor).st_mode & stat.S_ISGID:
        group = -1
    place = descriptor if _opened(mode) else door(descriptor)
    cleared = mode & _KEPT_BITS and not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode)
    # An inherited access list has changed the mode since it was asked for.
    kept = os.fstat(descriptor).st_mode & 0o7777 if cleared else 0
    os.chown(place, request.uid, group)
    if cleared:
        os.chmod(place, kept)


def _opened(mode: int) -> bool:
    """Whether objects of this kind are really opened, not only looked at."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def keep(request: Request, node: int, descriptor: int, mode: int, object_id: bytes) -> Hot:
    hot = Hot(node, descriptor)
    hot.object_id = object_id
    hot.directory = stat.S_ISDIR(mode)
    hot.path_only = not _opened(mode)
    hot.capabilities = False
    return request.tree.descriptors.keep(hot)


def _record_creation(
    request: Request, directory: Hot, hot: Hot, name: bytes, status: os.stat_result, link: bytes,
    inherits: bool,
) -> None:  # fmt: skip
    tree, order = request.tree, request.order
    lists = _inherited_lists(hot) if inherits else []
    if lists:
        # Their hints need the name before the answer makes it known.
        tree.nodes.name(hot.node, directory.node, name)
    directory_id = tree.identity(directory)
    object_id = tree.identity(hot)
    with order.lock:
        order.touch(tree, directory)
        order.touch(tree, hot)
        value = Create(
            directory_id, status.st_mode, status.st_uid, status.st_gid, status.st_rdev, name,
            tree.hint(directory),
        )  # fmt: skip
        last = None if lists else request
        order.record(tree, Operation.CREATE, object_id, encode_create(value), link, last)
        for position, (key, data) in enumerate(lists, 1):
            last = request if position == len(lists) else None
            arguments = encode_xattr(SetXattr(key.encode(), tree.hint(hot)))
            order.record(tree, Operation.SET_XATTR, object_id, arguments, data, last)


def _inherited_lists(hot: Hot) -> list[tuple[str, bytes]]:
    """Access lists that the new object got from its directory."""
    found = []
    for key in (ACCESS_ACL, DEFAULT_ACL):
        try:
            found.append((key, os.getxattr(target(hot), key)))
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
    return found


def refuse_hidden(request: Request, directory: int, name: bytes) -> None:
    if request.tree.hidden(directory, name):
        raise OSError(errno.EPERM, "the name is kept for Everup")


def unlink(request: Request) -> bytes:
    return _remove(request, directory=False)


def rmdir(request: Request) -> bytes:
    return _remove(request, directory=True)


def _remove(request: Request, directory: bool) -> bytes:
    (name,) = request.names(IN_HEADER_BYTES)
    tree, order = request.tree, request.order
    order.admit()
    if tree.hidden(request.node, name):
        raise FileNotFoundError(errno.ENOENT, "hidden")
    above = tree.hot(request.node)
    try:
        handle = request.calls.of(above.descriptor, name)
    except FileNotFoundError:
        if request.intent is None:
            raise
        _, object_id, _ = intent = request.intent
        with tree.hold(request.node, intent.loser):
            orphaned = directory or intent.loser in tree.orphans
            _record_removal(request, above, name, object_id, intent.loser, orphaned)
        order.confirm()
        return b""
    node = pack_handle(handle)
    with tree.hold(request.node, node):
        object_id = removable_id(request, above, name, node, handle)
        request.slot.intend(request.unique, node, object_id, NO_OBJECT)
        if directory:
            os.rmdir(name, dir_fd=above.descriptor)
            orphaned = True
        else:
            orphaned = _unlink_or_keep(request, above, name, node, object_id)
        _record_removal(request, above, name, object_id, node, orphaned)
    order.confirm()
    return b""


def removable_id(request: Request, above: Hot, name: bytes, node: int, handle: FileHandle) -> bytes:
    """Id of what will lose a name. A directory is opened: it must answer until it is closed."""
    tree = request.tree
    hot = tree.descriptors.by_node.get(node)
    if hot is None and request.opcode != protocol.RMDIR:
        object_id = named_id(above, name, handle)
        if object_id is not None:
            return object_id
    return tree.identity(hot or tree.hot(node))


def _unlink_or_keep(request: Request, above: Hot, name: bytes, node: int, object_id: bytes) -> bool:
    """Remove a name. The last one is moved aside: a process may still have the file open, and its
    data must not die with this process. The kernel's FORGET removes it. True if it was the last."""
    status = os.stat(name, dir_fd=above.descriptor, follow_symlinks=False)
    if status.st_nlink > 1:
        os.unlink(name, dir_fd=above.descriptor)
        return False
    tree = request.tree
    aside = object_id.hex().encode()
    try:
        os.rename(name, aside, src_dir_fd=above.descriptor, dst_dir_fd=tree.orphans_directory)
    except OSError as error:
        if error.errno not in NOT_ASIDE:
            raise
        tree.hot(node).pinned = True
        os.unlink(name, dir_fd=above.descriptor)
        return True
    tree.set_aside(node, aside)
    return True


def _record_removal(
    request: Request, above: Hot, name: bytes, object_id: bytes, node: int, orphaned: bool
) -> None:
    tree, order = request.tree, request.order
    directory_id = tree.identity(above)
    with order.lock:
        order.touch(tree, above)
        value = Unlink(directory_id, name, tree.hint(above))
        # Before the record: a request whose record is there is only answered again.
        tree.lost_name(node, request.node, name, orphaned)
        order.record(tree, Operation.UNLINK, object_id, encode_unlink(value), b"", request)
