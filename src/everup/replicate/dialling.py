"""Open a channel beside the stream of a peer: for a sync, or for a verification.

What enters: where the peer is, which channel is wanted. What leaves: an open `SyncChannel` on which
HELLO was sent; an error that is ours is told to the peer before the channel closes. Called by
`resync` and `verify`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from everup.errors import EverupError, NotConnected
from everup.replicate.context import Context
from everup.replicate.known import Known
from everup.replicate.syncchannel import SyncChannel
from everup.wire.bandwidth import Throttle
from everup.wire.frames import Kind, encode
from everup.wire.messages import FEATURES, PROTOCOL_VERSIONS, Hello, pack
from everup.wire.transport import client_context, dial


@dataclass(frozen=True)
class Place:
    """Where a peer is, and how to talk to it."""

    server: str
    addresses: Sequence[str]
    port: int
    throttle: Throttle | None = None
    """Its bandwidth cap, shared by all channels."""
    features: frozenset[str] = frozenset()
    """What it said it can."""
    known: Known | None = None
    """What it has of the bytes here."""


@contextmanager
def beside_the_stream(
    context: Context, epoch: int, place: Place, kind: str, sync_id: str = ""
) -> Iterator[SyncChannel]:
    """A channel of `kind`. Raises NotConnected when the peer cannot be reached."""
    connection = dial(place.addresses, place.port, client_context(context.places), place.server)
    connection.throttle = place.throttle
    try:
        hello = Hello(
            versions=PROTOCOL_VERSIONS,
            group_id=context.group.group_id,
            server=context.server,
            channel=kind,
            epoch=epoch,
            sync_id=sync_id,
            features=FEATURES,
        )
        connection.send(encode(Kind.HELLO, pack(hello)))
        channel = SyncChannel(connection, features=place.features)
        try:
            yield channel
        except EverupError as problem:
            if not isinstance(problem, NotConnected):
                channel.stop(problem)
            raise
    finally:
        connection.close()
