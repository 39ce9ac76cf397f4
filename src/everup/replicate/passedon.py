"""A peer that another server supplies, as the active server follows it.

What enters: what that server says of the peer. What leaves: the same acknowledgements and states as
of a peer that is supplied directly. Called by `link`, in its thread.

A position that is passed on is looked up in this server's own log and compared as a whole: one that
is not on this server's line, or behind what was acknowledged, is an error, after which the link
asks the peer itself.
"""

from everup.errors import ProtocolError
from everup.model.position import Position
from everup.replicate.chain import Chain
from everup.replicate.context import Context
from everup.replicate.lag import PeerLag
from everup.replicate.logs import LogCursor
from everup.replicate.peerview import PeerView
from everup.wire.messages import Relayed
from everup.wire.session import Acknowledged


class PassedOn:
    """From a hand-over until the link streams again. Raises EverupError, OSError."""

    def __init__(self, context: Context, chain: Chain, view: PeerView, lag: PeerLag) -> None:
        assert view.acknowledged is not None
        self._chain = chain
        self._view = view
        self._lag = lag
        self._cursor = LogCursor(context.places, view.acknowledged)
        view.connected = False

    def follow(self, now: float) -> bool:
        """Take what was said last; False when nothing is heard of the peer any more."""
        goes_on, relayed = self._chain.follow(now)
        view = self._view
        if goes_on and relayed is not None and relayed.connected:
            self._take(relayed)
            view.check_equal()
        else:
            view.connected = False
        self._chain.to_in_sync = view.in_sync
        return goes_on

    def close(self) -> None:
        self._cursor.close()

    def _take(self, relayed: Relayed) -> None:
        view = self._view
        view.connected = True
        view.sentence = f"{self._chain.by} passes the stream on to {view.server}"
        view.code = "chain"
        view.take_state(relayed)
        if relayed.durable is None:
            return
        durable = relayed.durable.position()
        applied = relayed.applied.position() if relayed.applied is not None else None
        self._go_to(durable)
        if (durable, applied) != (view.acknowledged, view.applied):
            view.take(Acknowledged(durable, applied))
            view.sent = durable
            self._lag.began(durable, self._cursor.place)

    def _go_to(self, position: Position) -> None:
        cursor = self._cursor
        if position.sequence < cursor.position.sequence:
            raise ProtocolError(
                f"{self._view.server} acknowledged {cursor.position.epoch}/"
                f"{cursor.position.sequence}, and {self._chain.by} says that it stands at "
                f"{position.epoch}/{position.sequence}",
                code="position-back",
            )
        while cursor.position.sequence < position.sequence and cursor.next() is not None:
            pass
        if cursor.position != position:
            raise ProtocolError(
                f"{self._chain.by} says that {self._view.server} stands at "
                f"{position.epoch}/{position.sequence}, which is not in this journal",
                code="position-unknown",
            )
