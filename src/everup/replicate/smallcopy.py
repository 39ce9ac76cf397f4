"""Make a small file on the target of a copy in as few calls as possible.

What enters: an open directory, and an entry that comes with its content and is nowhere here yet.
What leaves: the file. Most of a tree are such files, and each call costs as much as its bytes.
Called by `treecopy`.
"""

import os
from collections.abc import Callable

from everup.model.ids import OBJECT_ID_XATTR
from everup.replicate.blocks import write_all
from everup.system.kernelcalls import HandleCalls
from everup.system.objectid import encode_id
from everup.wire.syncmessages import Entry

_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def make_small(
    directory: int, entry: Entry, handles: HandleCalls, settle: Callable[[int], None]
) -> None:
    """`settle` corrects owner, mode and extended attributes; it is asked only when they differ from
    what a new file gets. Raises OSError."""
    wanted = entry.attributes
    file = os.open(entry.name, _NEW, wanted.mode & 0o7777, dir_fd=directory)
    try:
        os.setxattr(file, OBJECT_ID_XATTR, encode_id(entry.object_id, handles.of(file)))
        status = os.fstat(file)
        same = (status.st_mode, status.st_uid, status.st_gid) == (
            wanted.mode,
            wanted.uid,
            wanted.gid,
        )
        # A default ACL of the directory gives more than the id.
        if not same or wanted.xattrs or len(os.listxattr(file)) > 1:
            settle(file)
        if entry.content:
            write_all(file, entry.content, 0)
        os.utime(file, ns=(wanted.mtime_ns, wanted.mtime_ns))
    finally:
        os.close(file)
