"""Messages of the sync channel, typed (pure).

What enters: msgpack bytes of a SYNC frame. What leaves: one checked struct of the union below, and
back. Called by both sides of a sync in `replicate`. Protocol: docs/protocol/replication.md.
"""

from typing import Annotated

import msgspec

from everup.errors import ProtocolError
from everup.wire.messages import Number, Sentence, WirePosition

ObjectId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
FileName = Annotated[bytes, msgspec.Meta(min_length=1, max_length=255)]
Path = Annotated[bytes, msgspec.Meta(max_length=65535)]
Small = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
Signed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
FINER_BLOCKS_MAX = 1024
Xattrs = dict[bytes, bytes]
Run = tuple[Number, Number]
"""(first block, number of blocks)."""


class SyncMessage(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of the union."""


class Attributes(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of an object besides names and content."""

    mode: Small
    uid: Small
    gid: Small
    mtime_ns: Signed
    device: Number
    xattrs: Xattrs


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One name in a directory. `handle` is 0 when no content follows under a handle.

    A regular file without handle and content: the source has no reason to compare its content.
    """

    name: FileName
    object_id: ObjectId
    attributes: Attributes
    links: Number
    size: Number
    handle: Number
    content: bytes | None
    """Whole content of a small file, or the target of a symbolic link."""
    runs: list[Run] | None = None
    """With a handle: the blocks to compare; none: all."""


class Begin(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: what is going to come."""

    trees: Annotated[tuple[Small, ...], msgspec.Meta(max_length=1024)]
    objects: Number
    total_bytes: Number


class Listing(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: a directory (or a part of it). `aside`: objects to keep for the replay only."""

    tree: Small
    path: Path
    object_id: ObjectId
    attributes: Attributes
    entries: list[Entry]
    last: bool
    aside: bool


class Want(SyncMessage, frozen=True, array_like=True, tag=True):
    """Target: the content of this file, which is missing here or may differ, too."""

    tree: Small
    directory_id: ObjectId
    directory: Path
    name: FileName
    object_id: ObjectId
    runs: list[Run] | None
    """Blocks to compare; none: all."""


class Content(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: what was wanted; the entry is made in the directory that was listed under this id."""

    tree: Small
    directory_id: ObjectId
    entry: Entry


class ListingsEnd(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: every directory has been listed."""


class ListingsTaken(SyncMessage, frozen=True, array_like=True, tag=True):
    """Target: every listing was taken, every Want is sent."""


class Have(SyncMessage, frozen=True, array_like=True, tag=True):
    """Target: hashes of what it has of a file, 16 bytes per block from `first_block` on."""

    handle: Number
    first_block: Number
    hashes: bytes
    last: bool


class Finer(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: hash the pieces of these blocks of a file, which differ (feature `fine`)."""

    handle: Number
    blocks: Annotated[list[Number], msgspec.Meta(max_length=FINER_BLOCKS_MAX)]


class Fine(SyncMessage, frozen=True, array_like=True, tag=True):
    """Target: 8 bytes for each 4 KiB of these blocks, as far as its file goes."""

    handle: Number
    blocks: Annotated[list[Number], msgspec.Meta(max_length=FINER_BLOCKS_MAX)]
    hashes: bytes


class Hole(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: this range holds nothing."""

    handle: Number
    offset: Number
    length: Number


class FileEnd(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: everything of this file was sent; `vanished`: it was removed meanwhile."""

    handle: Number
    size: Number
    mtime_ns: Signed
    vanished: bool


class CopyEnd(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: the copy is complete; with the records since `begin` it is consistent at `until`."""

    begin: WirePosition
    until: WirePosition


class CopyEnded(SyncMessage, frozen=True, array_like=True, tag=True):
    """Target: the copy is durable, what was too much is removed, the replay runs."""

    removed: Number


class Hold(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: pause applying, a proof follows; or go on."""

    held: bool


class Held(SyncMessage, frozen=True, array_like=True, tag=True):
    """Target: applying stands here now (none: it is not consistent yet)."""

    position: WirePosition | None


class ProofItem(msgspec.Struct, frozen=True, array_like=True):
    """State of an object at `sequence`: digest of its attributes and names, hashes of blocks."""

    tree: Small
    path: Path
    object_id: ObjectId
    sequence: Number
    with_time: bool
    digest: bytes
    blocks: list[int]
    hashes: bytes


class Prove(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: compare these."""

    items: list[ProofItem]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Item `number` differs: its digest, or these blocks."""

    number: Number
    digest: bool
    blocks: list[int]


class Proved(SyncMessage, frozen=True, array_like=True, tag=True):
    """Target: every item of the last Prove was compared at its sequence; these differ."""

    failures: list[Failure]


class ProofEnd(SyncMessage, frozen=True, array_like=True, tag=True):
    """Source: everything is proven equal at `position` at the latest."""

    position: WirePosition
    objects: Number
    proven_bytes: Number
    whole: bool = True
    """Of all files, not only of those whose content was compared."""


class Stopped(SyncMessage, frozen=True, array_like=True, tag=True):
    """Either side: the sync ends here without success."""

    code: Annotated[str, msgspec.Meta(max_length=64)]
    sentence: Sentence
    remedy: Sentence


AnySync = (
    Begin
    | Listing
    | Want
    | Content
    | ListingsEnd
    | ListingsTaken
    | Have
    | Finer
    | Fine
    | Hole
    | FileEnd
    | CopyEnd
    | CopyEnded
    | Hold
    | Held
    | Prove
    | Proved
    | ProofEnd
    | Stopped
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnySync] = msgspec.msgpack.Decoder(AnySync)


def pack_sync(message: AnySync) -> bytes:
    return _encoder.encode(message)


def unpack_sync(payload: bytes) -> AnySync:
    """Raises ProtocolError."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise ProtocolError(f"a sync message is not readable: {problem}", code="message") from None
