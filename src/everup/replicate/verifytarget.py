"""The target's side of a verification: compare beside the stream, change nothing.

What enters: a channel that the source has opened for it. What leaves: which objects differ, and the
note that all is proven when the source says so. It ends by itself when a sync begins, since that
changes the trees out of order. Called by `receiving`.
"""

import time
from collections.abc import Callable

from everup.errors import NotConnected, ProtocolError, Refused
from everup.replicate.prooftarget import ProofTarget
from everup.replicate.syncchannel import SyncChannel
from everup.replicate.target import Target
from everup.wire.frames import Frame
from everup.wire.syncmessages import Hold, ProofEnd, Prove
from everup.wire.transport import Connection


class VerifyTarget:
    """At most one at a time: each holds the applying up while it compares."""

    def __init__(self, target: Target, stopped: Callable[[], bool]) -> None:
        self._target = target
        self._stopped = stopped
        self._busy = False

    def serve(self, connection: Connection, rest: list[Frame]) -> None:
        """Until the source ends it. Raises Refused when nothing can be compared now."""
        applier = self._target.applier
        if applier is None or not applier.consistent or self._target.unproven:
            raise Refused("this server is being synchronized", code="peer-not-applying")
        if self._busy:
            raise Refused("another verification is under way", code="verify-under-way")
        self._busy = True
        channel = SyncChannel(connection, rest)
        proof = ProofTarget(channel, lambda: self._target.applier)
        try:
            while not self._stopped() and self._target.applier is applier:
                for message in channel.poll(200, proof.wake):
                    self._take(message, proof)
                proof.step()
            raise NotConnected("the trees are about to be changed")
        finally:
            self._busy = False
            proof.close()

    def _take(self, message: object, proof: ProofTarget) -> None:
        if isinstance(message, Hold):
            proof.hold(message.held)
        elif isinstance(message, Prove):
            proof.prove(message.items)
        elif isinstance(message, ProofEnd):
            self._target.note_proven(
                {
                    "position": message.position.position().to_json(),
                    "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "objects": message.objects,
                    "bytes": message.proven_bytes,
                },
                whole=True,
            )
        else:
            raise ProtocolError("this does not belong to a verification", code="sync-order")
