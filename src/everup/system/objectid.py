"""The id that Everup gives to a file, directory, link or special file, in an extended attribute.

What enters: a descriptor (also O_PATH) and the object's file handle. What leaves: its 16 bytes, or
None when it has none. Stored is the id and the handle of its carrier, so that an attribute which
was copied to another object (cp --preserve=xattr, a restored backup) is not believed.
Called by capture (gives ids) and replicate (finds and gives them), two processes on one tree.
"""

import errno
import hashlib
import os
import secrets

from everup.model.ids import OBJECT_ID_BYTES, OBJECT_ID_XATTR
from everup.system.kernelcalls import FileHandle

_MISSING = (errno.ENODATA, errno.ENOENT)


def door(descriptor: int) -> str:
    """A path that names exactly the descriptor's object; works for O_PATH and for links."""
    return f"/proc/self/fd/{descriptor}"


def encode_id(object_id: bytes, handle: FileHandle) -> bytes:
    """Value of the attribute."""
    return object_id + bytes((handle.kind & 0xFF,)) + handle.data


def decode_id(value: bytes, handle: FileHandle) -> bytes | None:
    """The id in `value`; None when it was made for another carrier."""
    if value[OBJECT_ID_BYTES:] != bytes((handle.kind & 0xFF,)) + handle.data:
        return None
    return value[:OBJECT_ID_BYTES]


def read_id(descriptor: int, handle: FileHandle, path_only: bool = False) -> bytes | None:
    """Id of an object; None when it has none or only a copied one. Raises OSError."""
    try:
        target = door(descriptor) if path_only else descriptor
        return decode_id(os.getxattr(target, OBJECT_ID_XATTR), handle)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise


def ensure_id(descriptor: int, handle: FileHandle, path_only: bool = False) -> bytes:
    """Id of an object, given now if it has none. Raises OSError.

    The guard and a copy may both meet the object for the first time, at the same moment: whoever
    asks gets the same id, or the records would speak of an object that the copy never sent.
    """
    target = door(descriptor) if path_only else descriptor
    try:
        value = os.getxattr(target, OBJECT_ID_XATTR)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        fresh = secrets.token_bytes(OBJECT_ID_BYTES)
        try:
            os.setxattr(target, OBJECT_ID_XATTR, encode_id(fresh, handle), os.XATTR_CREATE)
            return fresh
        except FileExistsError:
            value = os.getxattr(target, OBJECT_ID_XATTR)
    known = decode_id(value, handle)
    if known is None:
        # No call replaces only the value that was read. A random id could replace the other's,
        # so both make the same one of the copied value and the carrier.
        known = _derived_id(value, handle)
        os.setxattr(target, OBJECT_ID_XATTR, encode_id(known, handle))
    return known


def _derived_id(copied: bytes, handle: FileHandle) -> bytes:
    return hashlib.blake2b(encode_id(copied, handle), digest_size=OBJECT_ID_BYTES).digest()


def write_id(
    descriptor: int, handle: FileHandle, object_id: bytes, path_only: bool = False
) -> None:
    """Give an object that was just made its id, whatever it has. Raises OSError."""
    target = door(descriptor) if path_only else descriptor
    os.setxattr(target, OBJECT_ID_XATTR, encode_id(object_id, handle))
