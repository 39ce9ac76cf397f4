"""Make a lower tree so: one method per kind of record, total and repeatable.

What enters: records of one tree in order. What leaves: the changed tree. Outside a replay window
the tree is exactly as the record found it on the source, so anything else stops with `ApplyStopped`
(nothing is ever skipped). In a window the tree may be in any later state of that window: what is
already so is left, what is in the way is displaced to the orphan directory until the window ends.
Names (create, unlink, link, rename) are in `names`. Called by the applier.
"""

import errno
import os
from collections import OrderedDict
from stat import S_ISLNK
from struct import Struct, error

from everup.errors import Corrupt, EverupError
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
    decode_arguments,
)
from everup.journal.record import Record
from everup.replicate.lower import LowerTree
from everup.replicate.objects import Objects
from everup.replicate.window import Window
from everup.system.kernelcalls import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    HandleCalls,
    allocate,
)
from everup.system.treecalls import door

_WRITE = Struct("<QH")
GONE_MAX = 65536
ZEROS = bytes(1 << 20)
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class ApplyStopped(EverupError):
    """A record cannot be applied; the tree stays at the record before it."""

    code = "apply-stopped"


class TreeBase:
    """Open objects of a tree, the window, and what has lost its last name."""

    def __init__(self, tree: LowerTree) -> None:
        self.tree = tree
        self.objects = Objects(tree)
        self.window: Window | None = None
        self.handles = HandleCalls()
        self._gone: OrderedDict[bytes, None] = OrderedDict()

    def close(self) -> None:
        self.objects.close()

    def note_gone(self, object_id: bytes) -> None:
        """The object has lost its last name: records about it may still come, and mean nothing."""
        self.objects.drop(object_id)
        self.objects.forget_name(object_id)
        self._gone[object_id] = None
        if len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)

    def find(self, object_id: bytes, hint: bytes | None, sequence: int) -> int | None:
        """Descriptor of an object; None when it may be missing. Raises ApplyStopped otherwise.

        An empty hint means: the source knew no name, so either there is none, or another one of a
        hard-linked object; None: the record carries no path. Only what is nowhere may be missing.
        """
        found = self.objects.find(object_id, hint or b"")
        if found is not None or object_id in self._gone:
            return found
        if not hint:
            found = self._anywhere(object_id)
            if found is None and (hint == b"" or self.may_miss(object_id, sequence)):
                self.note_gone(object_id)
                return None
        elif self.may_miss(object_id, sequence):
            return None
        else:
            found = self.objects.find(object_id, hint, walk=True)
        if found is not None:
            return found
        where = os.fsdecode(hint or b"") or "an object"
        raise ApplyStopped(
            f"record {sequence}: {where} ({object_id.hex()}) is not in tree {self.tree.tree_id}",
            remedy="wait: the trees are compared and this one is repaired by itself",
            code="object-missing",
        )

    def _anywhere(self, object_id: bytes) -> int | None:
        """By an index of the whole tree; by a fresh one when the first does not know it."""
        found = self.objects.find(object_id, b"", walk=True)
        if found is None:
            self.objects.forget_index()
            found = self.objects.find(object_id, b"", walk=True)
        return found

    def may_miss(self, object_id: bytes, sequence: int) -> bool:
        if object_id in self._gone:
            return True
        window = self.window
        return window is not None and window.removed_later(self.tree.tree_id, object_id, sequence)


class ContentOperations(TreeBase):
    """Records that change an object, not its names."""

    def write(self, record: Record) -> None:
        """The hot one: an open object costs one system call and no decoding of the hint."""
        arguments = record.arguments
        try:
            offset, length = _WRITE.unpack_from(arguments)
        except error as problem:
            raise Corrupt(f"record {record.sequence} has broken arguments") from problem
        descriptor = self.objects.cached(record.object_id)
        if descriptor is None:
            hint = bytes(arguments[_WRITE.size : _WRITE.size + length])
            descriptor = self.find(record.object_id, hint, record.sequence)
            if descriptor is None:
                return
        payload = record.payload
        written = os.pwrite(descriptor, payload, offset)
        while written < len(payload):
            written += os.pwrite(descriptor, payload[written:], offset + written)

    def truncate(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, Truncate)
        descriptor = self.find(record.object_id, arguments.hint, record.sequence)
        if descriptor is not None:
            os.ftruncate(descriptor, arguments.size)

    def allocate(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, Allocate)
        descriptor = self.find(record.object_id, arguments.hint, record.sequence)
        if descriptor is None:
            return
        try:
            allocate(descriptor, arguments.mode, arguments.offset, arguments.length)
        except OSError as problem:
            if problem.errno not in UNSUPPORTED:
                raise
            self._allocate_by_hand(descriptor, arguments)

    def _allocate_by_hand(self, descriptor: int, arguments: Allocate) -> None:
        """The same content and size on a file system that lacks this kind of fallocate."""
        size = os.fstat(descriptor).st_size
        end = arguments.offset + arguments.length
        if arguments.mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            at, stop = arguments.offset, min(end, size)
            while at < stop:
                at += os.pwrite(descriptor, ZEROS[: min(len(ZEROS), stop - at)], at)
        if not arguments.mode & FALLOC_KEEP_SIZE and end > size:
            os.ftruncate(descriptor, end)

    def attributes(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, Attributes)
        descriptor = self.find(record.object_id, arguments.hint, record.sequence)
        if descriptor is None:
            return
        path = door(descriptor)
        mask = arguments.mask
        if S_ISLNK(os.fstat(descriptor).st_mode):
            mask &= ~MASK_MODE  # a symbolic link has none that could be changed
        if mask & (MASK_UID | MASK_GID):
            uid = arguments.uid if mask & MASK_UID else -1
            gid = arguments.gid if mask & MASK_GID else -1
            # chown clears set-user-id bits, so the mode is put back when no new one follows.
            before = os.fstat(descriptor).st_mode & 0o7777
            os.chown(path, uid, gid)
            if not mask & MASK_MODE and before & 0o6000:
                os.chmod(path, before)
        if mask & MASK_MODE:
            os.chmod(path, arguments.mode & 0o7777)
        if mask & MASK_MTIME:
            os.utime(path, ns=(arguments.mtime_ns, arguments.mtime_ns))

    def set_xattr(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, SetXattr)
        descriptor = self.find(record.object_id, arguments.hint, record.sequence)
        if descriptor is not None:
            os.setxattr(door(descriptor), arguments.name, bytes(record.payload))

    def remove_xattr(self, record: Record) -> None:
        arguments = decode_arguments(record)
        assert isinstance(arguments, RemoveXattr)
        descriptor = self.find(record.object_id, arguments.hint, record.sequence)
        if descriptor is None:
            return
        try:
            os.removexattr(door(descriptor), arguments.name)
        except OSError as problem:
            if problem.errno != errno.ENODATA:
                raise

    def set_time(self, object_id: bytes, mtime_ns: int, sequence: int) -> None:
        """One entry of a TIMES record; an object without a name has no time to keep."""
        descriptor = self.objects.cached(object_id)
        if descriptor is None:
            descriptor = self.find(object_id, None, sequence)
            if descriptor is None:
                return
        if self.objects.is_file(object_id):
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        else:
            os.utime(door(descriptor), ns=(mtime_ns, mtime_ns))
