"""Identifiers of objects in protected trees.

What enters: group and tree ids. What leaves: 16-byte object ids. Called by capture (which sets
them) and replicate (which finds objects by them).
"""

from hashlib import blake2b

OBJECT_ID_BYTES = 16
NO_OBJECT = bytes(OBJECT_ID_BYTES)

OBJECT_ID_XATTR = "trusted.everup.id"
GROUP_XATTR = "trusted.everup.group"
PRIVATE_XATTR_PREFIX = b"trusted.everup."
ORPHANS_NAME = b".everup-orphans"


def root_object_id(group_id: str, tree_id: int) -> bytes:
    """The fixed object id of the root directory of a protected tree, equal on every server."""
    digest = blake2b(digest_size=OBJECT_ID_BYTES, person=b"everup-root")
    digest.update(group_id.encode())
    digest.update(tree_id.to_bytes(4, "little"))
    return digest.digest()
