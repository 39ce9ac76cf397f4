"""The digest of an object: what two servers compare to prove an object equal.

What enters: an open object. What leaves: 16 bytes over everything that is replicated except the
content of files, whose blocks are hashed beside it. Called by both sides of a proof.
"""

import os
from stat import S_ISDIR, S_ISLNK, S_ISREG

import msgspec
from blake3 import blake3

from everup.model.ids import ORPHANS_NAME
from everup.replicate.blocks import HASH_BYTES
from everup.replicate.lower import id_of_name, visible_xattrs
from everup.system.treecalls import door

_encode = msgspec.msgpack.Encoder().encode


def digest_of(descriptor: int, *, with_time: bool, is_root: bool) -> bytes:
    """`descriptor` is O_PATH. Raises OSError when the object goes away meanwhile.

    Without time: an object that is being written has its time set at the end of the batch, so in
    the middle of one only the rest can be compared.
    """
    status = os.fstat(descriptor)
    mode = status.st_mode
    facts: list[object] = [mode, status.st_uid, status.st_gid, status.st_rdev]
    facts.append(sorted(visible_xattrs(descriptor).items()))
    facts.append(status.st_mtime_ns if with_time else None)
    if S_ISREG(mode):
        facts.append(status.st_size)
    elif S_ISLNK(mode):
        facts.append(os.readlink(b"", dir_fd=descriptor))
    elif S_ISDIR(mode):
        facts.append(_names(descriptor, is_root))
    return blake3(_encode(facts)).digest(length=HASH_BYTES)


def _names(descriptor: int, is_root: bool) -> list[tuple[bytes, bytes]]:
    path = door(descriptor)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOATIME)
    try:
        names = [os.fsencode(name) for name in os.listdir(directory)]
        if is_root and ORPHANS_NAME in names:
            names.remove(ORPHANS_NAME)
        return sorted((name, id_of_name(directory, name) or b"") for name in names)
    finally:
        os.close(directory)
