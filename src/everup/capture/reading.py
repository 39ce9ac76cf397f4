"""Handlers of requests that change nothing.

What enters: a request. What leaves: the body of its answer, or None when it is answered already (or
needs no answer). Raises OSError, which becomes the error of the answer. Called by the session.
"""

import errno
import os

from everup.capture import protocol
from everup.capture.descriptors import Hot
from everup.capture.lower import private_xattr, target
from everup.capture.nodes import pack_handle
from everup.capture.protocol import IN_HEADER_BYTES, ROOT_NODE
from everup.capture.replies import (
    NEGATIVE_ENTRY,
    attributes_reply,
    entry_reply,
    extended_reply,
)
from everup.capture.session import Request
from everup.limits import PAYLOAD_BYTES_MAX
from everup.model.ids import PRIVATE_XATTR_PREFIX
from everup.system.attributecalls import extended_status
from everup.system.kernelcalls import Directory, read_directory

MAX_PAGES = 256
BACKGROUND_MAX = 64
READAHEAD_BYTES = 1 << 20
_TRUSTED = b"trusted."


def init(request: Request) -> bytes:
    """Agree on version and features; EPROTO when the kernel is too old."""
    if request.length >= IN_HEADER_BYTES + protocol.INIT_IN.size:
        major, minor, readahead, low, high = protocol.INIT_IN.unpack_from(
            request.body, IN_HEADER_BYTES
        )
    else:
        major, minor, readahead, low = protocol.INIT_IN_SHORT.unpack_from(
            request.body, IN_HEADER_BYTES
        )
        high = 0
    if major != protocol.MAJOR or minor < protocol.MINOR_MIN:
        raise OSError(errno.EPROTO, f"FUSE {major}.{minor} is too old")
    offered = low | (high << 32 if low & protocol.INIT_EXT else 0)
    features = offered & protocol.WANTED
    if features & protocol.NEEDED != protocol.NEEDED:
        raise OSError(errno.EPROTO, "the kernel lacks a needed FUSE feature")
    request.session.slots.set_features(features)
    return protocol.INIT_OUT.pack(
        protocol.MAJOR, min(minor, protocol.MINOR), max(readahead, READAHEAD_BYTES),
        features & 0xFFFFFFFF, BACKGROUND_MAX, BACKGROUND_MAX * 3 // 4, PAYLOAD_BYTES_MAX, 1,
        MAX_PAGES, 0, features >> 32,
    )  # fmt: skip


def learn(request: Request, directory: Hot, name: bytes) -> tuple[int, os.stat_result]:
    """Node and attributes of a name; the kernel's lookup count grows with the answer."""
    handle = request.calls.of(directory.descriptor, name)
    status = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
    node = pack_handle(handle)
    request.learned.append((node, directory.node, name))
    return node, status


def lookup(request: Request) -> bytes:
    (name,) = request.names(IN_HEADER_BYTES)
    try:
        if request.tree.hidden(request.node, name):
            raise FileNotFoundError(errno.ENOENT, "hidden")
        node, status = learn(request, request.tree.hot(request.node), name)
    except FileNotFoundError:
        request.session.count(request)
        return NEGATIVE_ENTRY
    return entry_reply(node, status)


def forget(request: Request) -> None:
    (count,) = protocol.FORGET_IN.unpack_from(request.body, IN_HEADER_BYTES)
    _forget(request, [(request.node, count)])


def batch_forget(request: Request) -> None:
    (count,) = protocol.BATCH_FORGET_IN.unpack_from(request.body, IN_HEADER_BYTES)
    offset = IN_HEADER_BYTES + protocol.BATCH_FORGET_IN.size
    end = offset + count * protocol.FORGET_ONE.size
    _forget(request, list(protocol.FORGET_ONE.iter_unpack(request.body[offset:end])))


def _forget(request: Request, dropped: list[tuple[int, int]]) -> None:
    tree = request.tree
    for node in tree.nodes.forget(request.slot.number, request.unique, dropped):
        tree.forgotten(node)


def getattr(request: Request) -> bytes:
    hot = request.tree.hot(request.node)
    # One link too many in both cases: the orphan directory is hidden, and so is an orphan's name.
    hidden = hot.orphan or request.node == ROOT_NODE
    return attributes_reply(os.fstat(hot.descriptor), hidden)


def statx(request: Request) -> bytes:
    """GETATTR with the time of birth, which is this server's own (like the change time)."""
    hot = request.tree.hot(request.node)
    return extended_reply(extended_status(hot.descriptor), hot.orphan or request.node == ROOT_NODE)


def readlink(request: Request) -> bytes:
    hot = request.tree.hot(request.node)
    return os.readlink(b"", dir_fd=hot.descriptor)


def read(request: Request) -> None:
    _, offset, size, _, _, _ = protocol.READ_IN.unpack_from(request.body, IN_HEADER_BYTES)
    buffer = request.buffer[:size]
    count = os.preadv(request.tree.hot(request.node).descriptor, (buffer,), offset)
    request.session.answer_view(request.unique, buffer[:count])


def statfs(request: Request) -> bytes:
    status = os.fstatvfs(request.tree.root)
    return protocol.STATFS_OUT.pack(
        status.f_blocks, status.f_bfree, status.f_bavail, status.f_files, status.f_ffree,
        status.f_bsize, status.f_namemax, status.f_frsize, 0,
    )  # fmt: skip


def lseek(request: Request) -> bytes:
    """Only SEEK_DATA and SEEK_HOLE come here; on a descriptor that nobody seeks otherwise."""
    _, offset, whence = protocol.LSEEK_IN.unpack_from(request.body, IN_HEADER_BYTES)
    hot = request.tree.hot(request.node)
    return protocol.LSEEK_OUT.pack(os.lseek(hot.descriptor, offset, whence))


def getxattr(request: Request) -> bytes:
    (size,) = protocol.GETXATTR_IN.unpack_from(request.body, IN_HEADER_BYTES)
    (name,) = request.names(IN_HEADER_BYTES + protocol.GETXATTR_IN.size)
    if private_xattr(name):
        raise OSError(errno.ENODATA, "private")
    return _sized(os.getxattr(target(request.tree.hot(request.node)), name), size)


def listxattr(request: Request) -> bytes:
    (size,) = protocol.GETXATTR_IN.unpack_from(request.body, IN_HEADER_BYTES)
    names = map(os.fsencode, os.listxattr(target(request.tree.hot(request.node))))
    # Only administrators are shown the names of trusted attributes.
    hidden = PRIVATE_XATTR_PREFIX if request.uid == 0 else _TRUSTED
    shown = b"".join(name + b"\0" for name in names if not name.startswith(hidden))
    return _sized(shown, size)


def _sized(value: bytes, size: int) -> bytes:
    if size == 0:
        return protocol.GETXATTR_OUT.pack(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, "the value is longer")
    return value


def interrupt(request: Request) -> None:
    (unique,) = protocol.FORGET_IN.unpack_from(request.body, IN_HEADER_BYTES)
    request.session.syncs.interrupt(unique)


def done(request: Request) -> bytes:
    """RELEASE, RELEASEDIR, DESTROY: opens are stateless, nothing is held."""
    del request
    return b""


def not_a_terminal(request: Request) -> bytes:
    """IOCTL: flags of chattr and whatever else the lower file system knows are refused."""
    raise OSError(errno.ENOTTY, "no ioctl")


# directories


def readdir(request: Request) -> bytes:
    return _directory(request, plus=False)


def readdirplus(request: Request) -> bytes:
    answer = _directory(request, plus=True)
    request.session.count(request)
    return answer


def _directory(request: Request, plus: bool) -> bytes:
    _, offset, size, _, _, _ = protocol.READ_IN.unpack_from(request.body, IN_HEADER_BYTES)
    hot = request.tree.hot(request.node)
    parts: list[bytes] = []
    used = 0
    # The descriptor's offset is shared: one reader of a directory at a time.
    with request.tree.lock(request.node):
        os.lseek(hot.descriptor, offset, os.SEEK_SET)
        while entries := read_directory(hot.descriptor, request.directory_buffer):
            for entry in entries:
                if request.node == ROOT_NODE and request.tree.hidden(ROOT_NODE, entry.name):
                    continue
                part = _dirent(entry)
                needed = used + len(part) + (protocol.ENTRY_OUT_BYTES if plus else 0)
                if needed > size:
                    return b"".join(parts)
                if plus:
                    part = _plus_head(request, hot, entry) + part
                parts.append(part)
                used += len(part)
    return b"".join(parts)


def _dirent(entry: Directory) -> bytes:
    name = entry.name
    padding = -len(name) % 8
    head = protocol.DIRENT.pack(entry.inode, entry.offset & (1 << 64) - 1, len(name), entry.kind)
    return head + name + bytes(padding)


def _plus_head(request: Request, hot: Hot, entry: Directory) -> bytes:
    """The entry part of READDIRPLUS; all zero where the kernel shall look up by itself."""
    if entry.name in (b".", b".."):
        return bytes(protocol.ENTRY_OUT_BYTES)
    try:
        node, status = learn(request, hot, entry.name)
    except OSError:
        return bytes(protocol.ENTRY_OUT_BYTES)
    return entry_reply(node, status)
