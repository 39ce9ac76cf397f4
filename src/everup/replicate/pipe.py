"""What goes into the stream of one peer, and how: compressed as its link needs it, and without the
bytes that the peer has.

What enters: batches as they stand in the journal. What leaves: frames on the connection. Owned by
the peer's link, or by a relay, in its thread; one pipe per connection.
"""

import time
from collections.abc import Callable
from typing import Any

from everup.journal.reader import Batch
from everup.journal.recovery import END_BYTES
from everup.journal.writer import CAUSE_FSYNC
from everup.replicate.known import Known, Piece, pieces_of
from everup.replicate.lean import lean
from everup.replicate.tuning import Tuner
from everup.wire.messages import LEAN, SPARSE
from everup.wire.references import Need
from everup.wire.session import SourceSession
from everup.wire.transport import Connection

QUEUED_BYTES_MAX = 4 << 20
HOLD_MS = 40


class Pipe:
    """Raises NotConnected like the connection, Corrupt for a damaged batch."""

    def __init__(
        self,
        connection: Connection,
        session: SourceSession,
        known: Known,
        waited_for: Callable[[], bool],
    ) -> None:
        """`waited_for`: somebody may wait for acknowledgements (durable mode)."""
        self._connection = connection
        self._waited_for = waited_for
        self._session = session
        self._known = known
        self._tuner = Tuner(connection, session.packer)

    @property
    def open(self) -> bool:
        """Whether another batch may go now."""
        return self._session.may_send and self._connection.queued_bytes < QUEUED_BYTES_MAX

    def send(self, batch: Batch, applied_sequence: int) -> None:
        """`applied_sequence`: what the peer's trees surely hold."""
        session, now_ns = self._session, time.monotonic_ns()
        flight = session.in_flight
        self._tuner.adapt((now_ns - flight[0].sent_ns) / 1e6 if flight else 0.0)
        thin = lean(batch.data) if self._tuner.slow and LEAN in session.features else None
        data = thin.data if thin is not None else batch.data
        pieces: list[Piece] = []
        if self._tuner.slow and SPARSE in session.features:
            pieces = pieces_of(batch, thin.payloads if thin is not None else ())
        references = self._known.references(pieces, applied_sequence)
        self._known.learn(pieces, batch.end.sequence)
        end = batch.end.sequence
        with self._tuner.measured(len(data)) as made:
            made.pieces = session.batch(
                data, END_BYTES, end, batch.records, now_ns, references, lean=thin is not None
            )
        self._connection.send(made.pieces, self._hold_ms(batch))

    def _hold_ms(self, batch: Batch) -> int:
        """On a slow link small batches go together, unless somebody may wait for this one."""
        urgent = batch.cause == CAUSE_FSYNC and self._waited_for()
        return HOLD_MS if self._tuner.slow and not urgent else 0

    def fill(self, need: Need) -> None:
        """The peer has not found some bytes: here they are."""
        pieces, wanted = self._session.fill(need)
        self._known.forget(wanted)
        self._connection.send(pieces)

    def status(self) -> dict[str, Any]:
        throttle = self._connection.throttle
        return {
            "level": self._session.packer.level,
            "link_bytes_per_s": int(self._tuner.link_bytes_per_s),
            "cap_bytes_per_s": throttle.bytes_per_s if throttle is not None else 0,
        }
