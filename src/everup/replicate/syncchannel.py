"""The sync channel: typed messages and blocks of files over one connection.

What enters: frames. What leaves: messages of `wire.syncmessages` and blocks, and the peer's
`Stopped` as an exception. Belongs to one thread; used by both sides of a sync.
"""

import time

from everup.errors import EverupError, NotConnected, ProtocolError, error_from_json
from everup.replicate.tuning import Tuner
from everup.wire.frames import (
    BlocksFrame,
    Frame,
    Kind,
    decode_blocks,
    decode_sync,
    encode_blocks,
    encode_sync,
)
from everup.wire.messages import CONTEXT, Refuse, unpack
from everup.wire.packing import Packer, Unpacker
from everup.wire.session import error_of
from everup.wire.syncmessages import AnySync, Stopped, pack_sync, unpack_sync
from everup.wire.transport import Connection

SILENCE_MS = 120_000
"""Long: removing a large tree or syncing a disk says nothing; the stream notices a dead peer."""
QUEUED_BYTES_MAX = 8 << 20


class SyncChannel:
    """Raises NotConnected, ProtocolError, or the error with which the peer stopped."""

    def __init__(
        self,
        connection: Connection,
        frames: list[Frame] | None = None,
        features: frozenset[str] = frozenset(),
    ) -> None:
        """`features`: what the other side can."""
        self.connection = connection
        self.features = features
        self._frames = frames or []
        self._packer = Packer()
        self._packer.in_context = CONTEXT in features
        self._tuner = Tuner(connection, self._packer)
        self._unpacker = Unpacker()
        self._heard_at = time.monotonic()
        self._heard_bytes = 0
        self.sent_raw_bytes = 0

    @property
    def clogged(self) -> bool:
        """More is queued than should be: read and write before making more."""
        return self.connection.queued_bytes > QUEUED_BYTES_MAX

    def send(self, message: AnySync) -> None:
        self.connection.send(encode_sync(pack_sync(message), self._packer))

    def send_blocks(self, handle: int, offset: int, data: bytes) -> None:
        self.sent_raw_bytes += len(data)
        self._tuner.adapt(self._tuner.queue_ms)
        with self._tuner.measured(len(data)) as made:
            made.pieces = encode_blocks(handle, offset, data, self._packer)
        self.connection.send(made.pieces)

    def stop(self, error: EverupError) -> None:
        """Tell the peer why this side gives up; never raises."""
        try:
            self.send(Stopped(error.code[:64], error.sentence[:4096], error.remedy[:4096]))
            self.connection.drain(1000)
        except EverupError:
            pass

    def poll(self, timeout_ms: int, *others: int) -> list[AnySync | BlocksFrame]:
        """What has arrived, waiting for at most `timeout_ms` for the first of it (or `others`)."""
        frames, self._frames = self._frames, []
        if not frames:
            ready = self.connection.wait(timeout_ms, *others)
            self.connection.flush()
            if self.connection.fileno() in ready:
                frames = self.connection.receive()
        now = time.monotonic()
        heard_bytes = self.connection.received_bytes
        if frames or heard_bytes != self._heard_bytes:
            self._heard_at, self._heard_bytes = now, heard_bytes
        elif now - self._heard_at > SILENCE_MS / 1000:
            raise NotConnected(f"{self.connection.peer_name} is silent during the sync")
        return [found for frame in frames if (found := self._read(frame)) is not None]

    def _read(self, frame: Frame) -> AnySync | BlocksFrame | None:
        if frame.kind is Kind.IDLE:
            return None
        if frame.kind is Kind.BLOCKS:
            return decode_blocks(frame.payload, self._unpacker)
        if frame.kind is Kind.REFUSE:
            raise error_of(unpack(frame.payload, Refuse))
        if frame.kind is Kind.SYNC_PACKED:
            message = unpack_sync(decode_sync(frame.payload, self._unpacker))
        elif frame.kind is Kind.SYNC:
            message = unpack_sync(frame.payload)
        else:
            raise ProtocolError(f"a {frame.kind.name} frame does not belong on a sync channel")
        if isinstance(message, Stopped):
            raise error_from_json(
                {"code": message.code, "sentence": message.sentence, "remedy": message.remedy}
            )
        return message
