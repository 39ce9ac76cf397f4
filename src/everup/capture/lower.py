"""The lower tree: the directory that a mount shows, reached without ever touching the mount.

What enters: the path of a bind of the protected directory (or any directory in tests). What leaves:
descriptors of its objects by node number, their ids, their attributes. Called by the handlers.
Everything goes through descriptors and file handles: a path below the mount would come back to this
very process and stand still.
"""

import ctypes
import errno
import os
import resource
import shutil
import stat
import threading
import time
from pathlib import Path

from everup.capture.descriptors import HOT_MAX, Descriptors, Hot, Marks
from everup.capture.nodes import NodeTable, pack_handle, unpack_handle
from everup.capture.protocol import ROOT_NODE
from everup.model.ids import ORPHANS_NAME, PRIVATE_XATTR_PREFIX
from everup.system.kernelcalls import (
    DIRECTORY_BUFFER_BYTES,
    FileHandle,
    HandleCalls,
    open_by_handle,
    read_directory,
)
from everup.system.objectid import door, ensure_id, read_id, write_id

LOCKS = 256
RECENT_S = 1.0
ROOM_S = 0.02
ROOM_STEP_S = 0.001
FREED_BLOCKS_MIN = 512
"""Of 512 bytes: what a file without a name must hold to be emptied before it is closed."""
_NOT_WRITABLE = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ETXTBSY)
DEFAULT_ACL = "system.posix_acl_default"
ACCESS_ACL = "system.posix_acl_access"
CAPABILITY = "security.capability"


class LowerTree:
    """One protected tree. Safe for many threads; order between changes is the caller's."""

    def __init__(
        self, tree_id: int, path: Path, root_id: bytes, memory: Path, marks: Marks
    ) -> None:
        self.tree_id = tree_id
        self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        calls = HandleCalls()
        root_handle = calls.of(self.root)
        self.handle_kind = root_handle.kind
        pack_handle(root_handle)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.descriptors = Descriptors(marks, min(HOT_MAX, limit // 8))
        self.nodes = NodeTable(memory)
        self.locks = [threading.Lock() for _ in range(LOCKS)]
        self.orphans: dict[int, bytes] = {}
        self._orphaned_s = -RECENT_S
        self._released = 0
        hot = Hot(ROOT_NODE, os.dup(self.root))
        hot.directory = True
        hot.object_id = root_id
        self.descriptors.keep(hot)
        if read_id(self.root, root_handle) != root_id:
            write_id(self.root, root_handle, root_id)
        self._open_orphans(calls)

    def _open_orphans(self, calls: HandleCalls) -> None:
        before = os.fstat(self.root)
        try:
            os.mkdir(ORPHANS_NAME, 0o700, dir_fd=self.root)
            # Not a change of the protected tree: its root keeps its time.
            os.utime(self.root, ns=(before.st_atime_ns, before.st_mtime_ns))
        except FileExistsError:
            pass
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self.orphans_directory = os.open(ORPHANS_NAME, flags, dir_fd=self.root)
        for name in self._orphan_names():
            self.orphans[pack_handle(calls.of(self.orphans_directory, name))] = name

    def _orphan_names(self) -> list[bytes]:
        buffer = ctypes.create_string_buffer(DIRECTORY_BUFFER_BYTES)
        names: list[bytes] = []
        os.lseek(self.orphans_directory, 0, os.SEEK_SET)
        while entries := read_directory(self.orphans_directory, buffer):
            names.extend(entry.name for entry in entries if entry.name not in (b".", b".."))
        return names

    def drop_orphans(self) -> None:
        """Delete what an earlier mount or applier left: nobody can have it open any more."""
        for name in self._orphan_names():
            try:
                os.unlink(name, dir_fd=self.orphans_directory)
            except IsADirectoryError:
                shutil.rmtree(name, dir_fd=self.orphans_directory)
        self.orphans.clear()

    def close(self) -> None:
        self.descriptors.close()
        os.close(self.orphans_directory)
        os.close(self.root)

    # objects

    def lock(self, node: int) -> threading.Lock:
        """The lock that orders changes to this object (shared by some others)."""
        return self.locks[(node ^ node >> 32) & (LOCKS - 1)]

    def lock_all(self, *nodes: int) -> list[threading.Lock]:
        """The locks of several objects, without repetition, in the order to take them."""
        places = sorted({(node ^ node >> 32) & (LOCKS - 1) for node in nodes})
        return [self.locks[place] for place in places]

    def hold(self, *nodes: int) -> "_Held":
        """Context that holds the locks of several objects, taken in one order by everybody."""
        return _Held(self.lock_all(*nodes))

    def hot(self, node: int) -> Hot:
        """The object of a node with an open descriptor. ESTALE when it is gone."""
        return self.descriptors.by_node.get(node) or self._warm(node)

    def _warm(self, node: int) -> Hot:
        handle = unpack_handle(node, self.handle_kind)
        descriptor = open_by_handle(self.root, handle, os.O_PATH)
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        hot = Hot(node, descriptor)
        if kind == stat.S_IFREG or kind == stat.S_IFDIR:
            # Only these are really opened: opening a device or a fifo has effects.
            hot.directory = kind == stat.S_IFDIR
            hot.descriptor = self._reopen(handle, hot.directory)
            os.close(descriptor)
        else:
            hot.path_only = True
        hot.orphan = node in self.orphans
        return self.descriptors.keep(hot)

    def _reopen(self, handle: FileHandle, directory: bool) -> int:
        if directory:
            return open_by_handle(self.root, handle, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return open_by_handle(self.root, handle, os.O_RDWR)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            return open_by_handle(self.root, handle, os.O_RDONLY)

    def adopt(self, node: int, descriptor: int, object_id: bytes) -> Hot:
        """A file that was just created and is still open."""
        hot = Hot(node, descriptor)
        hot.object_id = object_id
        hot.default_acl = hot.capabilities = False
        return self.descriptors.keep(hot)

    def identity(self, hot: Hot) -> bytes:
        """Object id, given now if there is none yet. The object's lock is held."""
        object_id = hot.object_id
        if object_id is None:
            handle = unpack_handle(hot.node, self.handle_kind)
            object_id = hot.object_id = ensure_id(hot.descriptor, handle, hot.path_only)
        return object_id

    def known_identity(self, hot: Hot) -> bytes | None:
        """Object id if there is one; without, nothing of the object was ever recorded."""
        if hot.object_id is not None:
            return hot.object_id
        handle = unpack_handle(hot.node, self.handle_kind)
        return read_id(hot.descriptor, handle, hot.path_only)

    def hint(self, hot: Hot) -> bytes:
        """Path of the object at this moment; the journal's lock is held."""
        hint = hot.hint
        if hint is None:
            nodes = self.nodes
            if hot.directory:
                hint = nodes.directory_path(hot.node)
            else:
                entry = nodes.entry(hot.node)
                hint = b""
                if entry is not None and entry[0]:
                    above = nodes.directory_path(entry[0])
                    hint = above + b"/" + entry[1] if above else entry[1]
            hot.hint = hint
        return hint

    def has_default_acl(self, hot: Hot) -> bool:
        """Whether new objects in this directory inherit an access list."""
        if hot.default_acl is None:
            hot.default_acl = self._has_xattr(hot, DEFAULT_ACL)
        return hot.default_acl

    def has_capabilities(self, hot: Hot) -> bool:
        """Whether a write to this file takes capabilities away."""
        if hot.capabilities is None:
            hot.capabilities = self._has_xattr(hot, CAPABILITY)
        return hot.capabilities

    def _has_xattr(self, hot: Hot, name: str) -> bool:
        try:
            os.getxattr(target(hot), name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return False
            raise
        return True

    def hidden(self, parent: int, name: bytes) -> bool:
        """Whether the mounted view must not show or touch this name."""
        return parent == ROOT_NODE and name == ORPHANS_NAME

    def moved(self, node: int, parent: int, name: bytes, directory: bool) -> None:
        """An object has another name; the journal's lock is held."""
        self.nodes.move(node, parent, name, directory)
        if directory:
            self.descriptors.forget_hints()
        hot = self.descriptors.by_node.get(node)
        if hot is not None:
            hot.hint = None

    def lost_name(self, node: int, parent: int, name: bytes, orphaned: bool) -> None:
        """A name went away, the last one if `orphaned`; the journal's lock is held."""
        self.nodes.unname(node, parent, name)
        hot = self.descriptors.by_node.get(node)
        if hot is not None:
            hot.hint = None
            hot.orphan = orphaned

    def set_aside(self, node: int, name: bytes) -> None:
        """The object lies in the orphan directory now, until the kernel forgets it."""
        self.orphans[node] = name
        self._orphaned_s = time.monotonic()

    def remove_orphan(self, node: int) -> None:
        """Delete what has no name any more, if it lies in the orphan directory."""
        name = self.orphans.pop(node, None)
        if name is not None:
            try:
                os.unlink(name, dir_fd=self.orphans_directory)
            except FileNotFoundError:
                pass

    def forgotten(self, node: int) -> None:
        """The kernel uses the object no more: neither do we, and what has no name goes."""
        self.remove_orphan(node)
        hot = self.descriptors.by_node.get(node)
        if hot is not None and hot.orphan and not hot.directory and not hot.path_only:
            status = os.fstat(hot.descriptor)
            if not status.st_nlink and status.st_blocks >= FREED_BLOCKS_MIN:
                # Its descriptor is closed some time later; the room is wanted now.
                os.ftruncate(hot.descriptor, 0)
        self.descriptors.drop(node)
        self._released += 1

    def wait_for_room(self) -> bool:
        """On a full disk: whether it is worth trying again.

        The kernel tells a little later than the application, which had its answer, that a removed
        file is not used any more. No lock is held; other threads are told meanwhile.
        """
        now = time.monotonic()
        if now - self._orphaned_s > RECENT_S:
            return False
        before = self._released
        while self._released == before and time.monotonic() < now + ROOM_S:
            time.sleep(ROOM_STEP_S)
        self.descriptors.collect()
        return True


class _Held:
    __slots__ = ("_locks",)

    def __init__(self, locks: list[threading.Lock]) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        for lock in self._locks:
            lock.acquire()

    def __exit__(self, *_: object) -> None:
        for lock in self._locks:
            lock.release()


def target(hot: Hot) -> int | str:
    """What to hand to calls on the object itself: its descriptor, or its door if not opened."""
    return door(hot.descriptor) if hot.path_only else hot.descriptor


def private_xattr(name: bytes) -> bool:
    return name.startswith(PRIVATE_XATTR_PREFIX)
