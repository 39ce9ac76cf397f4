"""Control messages between two replicators, typed (pure).

What enters: msgpack bytes of a frame. What leaves: a checked struct, and back. Every field is
validated and bounded; a message that does not fit raises ProtocolError. Called by `session` and
by the sync of `replicate`. Format: docs/protocol/replication.md.
"""

from typing import Annotated, TypeVar

import msgspec

from everup.errors import ProtocolError
from everup.model.position import CHECKSUM_BYTES, Position

PROTOCOL_VERSIONS = (1,)
"""Versions that this code speaks, best first."""

CHANNEL_STREAM = "stream"
CHANNEL_SYNC = "sync"
CHANNEL_VERIFY = "verify"
CHANNEL_TAIL = "tail"
CHANNELS = (CHANNEL_STREAM, CHANNEL_SYNC, CHANNEL_VERIFY, CHANNEL_TAIL)

CONTEXT = "context"
"""Bodies of frames may be compressed in one context for the whole connection."""
SPARSE = "sparse"
"""Batches may refer to bytes that the target has in its files."""
FINE = "fine"
"""A block that differs may be compared in finer pieces during a sync."""
LEAN = "lean"
"""Batches may come without what the target can work out by itself."""
FEATURES = (CONTEXT, SPARSE, FINE, LEAN)
"""What this code can beyond version 1. Each side says so; the source uses what the target can."""

NUMBER_MAX = (1 << 63) - 1
Number = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
Checksum = Annotated[bytes, msgspec.Meta(min_length=CHECKSUM_BYTES, max_length=CHECKSUM_BYTES)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Sentence = Annotated[str, msgspec.Meta(max_length=4096)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base: unknown fields are ignored, so that a newer peer may add some."""


class WirePosition(msgspec.Struct, frozen=True, array_like=True):
    """A position as it travels."""

    epoch: Number
    sequence: Number
    checksum: Checksum

    @classmethod
    def of(cls, position: Position) -> "WirePosition":
        return cls(position.epoch, position.sequence, position.checksum)

    def position(self) -> Position:
        return Position(self.epoch, self.sequence, self.checksum)


def wire_or_none(position: Position | None) -> WirePosition | None:
    return None if position is None else WirePosition.of(position)


class PastEpoch(msgspec.Struct, frozen=True, array_like=True):
    """One line of a server's history: this epoch began at that position."""

    epoch: Number
    parent: WirePosition


class Hello(Message, frozen=True, kw_only=True):
    """First message of the side that dialled (the source)."""

    versions: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=32)]
    group_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    server: Name
    channel: Annotated[str, msgspec.Meta(max_length=16)]
    epoch: Number
    """Epoch in which the sender is the source."""
    history: Annotated[tuple[PastEpoch, ...], msgspec.Meta(max_length=4096)] = ()
    position: WirePosition | None = None
    """Last batch end in the sender's journal."""
    features: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    sync_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """On a sync channel: the sync to which it belongs."""
    trees: Annotated[tuple[Number, ...], msgspec.Meta(max_length=1024)] = ()
    """Protected trees of the group as the source knows them."""


class Welcome(Message, frozen=True, kw_only=True):
    """Answer to Hello: where the target stands."""

    version: Number
    server: Name
    sealed_epoch: Number
    tree_state: Annotated[str, msgspec.Meta(max_length=16)]
    """State of the target's tree: at, open, syncing or empty."""
    position: WirePosition | None = None
    """Last durably received position from which the target can go on; none needs a resync."""
    missing_trees: Annotated[tuple[Number, ...], msgspec.Meta(max_length=1024)] = ()
    """Those of the source's trees that were never copied to the target."""
    all_applied: bool = False
    """The trees hold everything up to `position`."""
    unproven: bool = False
    """The last copy is complete, but has not been proven equal yet."""
    bases: Annotated[tuple[WirePosition, ...], msgspec.Meta(max_length=1024)] = ()
    """After an unclean stop: positions that its trees hold but for what its activity log names."""
    partial: WirePosition | None = None
    """After a narrowed copy of this source, in this epoch, that broke off: position that its trees
    hold but for what the source has changed since."""
    features: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()


class Refuse(Message, frozen=True, kw_only=True):
    """The connection ends here; nothing has changed."""

    code: Annotated[str, msgspec.Meta(max_length=64)]
    sentence: Sentence
    remedy: Sentence = ""


class Start(Message, frozen=True, kw_only=True):
    """The source's decision how the target catches up; batches follow after `position`."""

    catch_up: Annotated[str, msgspec.Meta(max_length=16)]
    """"stream" or "resync"."""
    position: WirePosition
    sentence: Sentence
    sync_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """A sync channel with this id follows; with "stream" it only proves."""
    narrow: bool = False
    """Content is compared only where it may differ; the trees hold `position` but for that."""
    shared: WirePosition | None = None
    """The target's own position, when the source had everything up to there as well."""


class Acknowledge(msgspec.Struct, frozen=True, array_like=True):
    """Target to source: everything up to `durable` is on disk, up to `applied` in the tree."""

    durable: WirePosition
    applied: WirePosition | None


class PeerState(Message, frozen=True, kw_only=True):
    """What a person should know about a target."""

    consistent: bool
    """The target's trees are at a position (not in the middle of a sync)."""
    receive_bytes: Number = 0
    receive_operations: Number = 0
    receive_oldest_ms: Number = 0
    error_code: Annotated[str, msgspec.Meta(max_length=64)] = ""
    error_sentence: Sentence = ""


class Relayed(PeerState, frozen=True, kw_only=True):
    """A target that passes the stream on: what the server that it supplies has said."""

    server: Name
    connected: bool
    durable: WirePosition | None = None
    applied: WirePosition | None = None
    reason: Sentence = ""
    """Why it is not connected."""


class TargetState(PeerState, frozen=True, kw_only=True):
    """Target to source, when it changes."""

    relayed: Relayed | None = None


class SourceState(Message, frozen=True, kw_only=True):
    """Source to target, when it changes."""

    in_sync: bool
    """The target has everything and its trees are proven equal."""
    passes_on_to: Annotated[str, msgspec.Meta(max_length=255)] = ""
    """Server to which the target passes on what it has on its disk; empty: to nobody."""
    other_in_sync: bool = False
    """The same as `in_sync` of that server."""
    others_have: Number = NUMBER_MAX
    """Sequence up to which every other server surely has everything; what follows it should be
    kept, so that the target can supply them once it is active."""


MessageKind = TypeVar("MessageKind", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[msgspec.Struct]] = {}


def pack(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


def unpack(payload: bytes, kind: type[MessageKind]) -> MessageKind:
    """Raises ProtocolError when the bytes are not a `kind`."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        value = decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise ProtocolError(
            f"a {kind.__name__} message is not readable: {problem}", code="message"
        ) from problem
    assert isinstance(value, kind)
    return value
