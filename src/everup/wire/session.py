"""The conversation of two replicators on a stream channel, without sockets or clocks (pure).

What enters: frames that arrived. What leaves: events for the owner, and frames to send. A frame
that does not fit the state raises ProtocolError. Called by the source and target loops of
`replicate`. Protocol: docs/protocol/replication.md.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from itertools import pairwise
from typing import NamedTuple

from everup.errors import EverupError, ProtocolError, Refused, error_from_json
from everup.model.position import Position
from everup.wire.frames import (
    BatchFrame,
    Frame,
    Kind,
    Pieces,
    decode_batch,
    encode,
    encode_batch,
)
from everup.wire.messages import (
    CHANNELS,
    CONTEXT,
    PROTOCOL_VERSIONS,
    SPARSE,
    Acknowledge,
    Hello,
    Refuse,
    SourceState,
    Start,
    TargetState,
    Welcome,
    WirePosition,
    pack,
    unpack,
    wire_or_none,
)
from everup.wire.packing import Packer, Unpacker
from everup.wire.references import (
    Fill,
    Need,
    Reference,
    SparseBatch,
    decode_fill,
    decode_sparse,
    encode_fill,
    encode_sparse,
)

WINDOW_BYTES = 16 << 20
"""A source sends no further batch while this much is not acknowledged."""


class Self(NamedTuple):
    """What the answering side holds against a Hello."""

    group_id: str
    server: str
    servers: frozenset[str]
    sealed_epoch: int


def judge_hello(hello: Hello, peer_name: str, own: Self) -> int:
    """The protocol version to speak. Raises Refused with the reason."""
    if hello.group_id != own.group_id:
        raise Refused(
            f"{hello.server} belongs to another group",
            remedy="check that both servers were joined with tokens of the same group",
            code="foreign-group",
        )
    if hello.server != peer_name or hello.server not in own.servers or hello.server == own.server:
        raise Refused(
            f"{hello.server!r} (certificate of {peer_name!r}) is not another server of this group",
            remedy="everup status lists the servers; join it again if it was replaced",
            code="unknown-server",
        )
    if hello.channel not in CHANNELS:
        raise Refused(f"unknown channel {hello.channel!r}", code="unknown-channel")
    common = [version for version in PROTOCOL_VERSIONS if version in hello.versions]
    if not common:
        theirs = ", ".join(map(str, hello.versions))
        raise Refused(
            f"no common protocol version: {hello.server} speaks {theirs}, "
            f"{own.server} speaks {', '.join(map(str, PROTOCOL_VERSIONS))}",
            remedy="upgrade the older one of the two servers",
            code="no-common-version",
        )
    check_epoch(hello.epoch, own.sealed_epoch, hello.server)
    return common[0]


def check_epoch(epoch: int, sealed_epoch: int, server: str) -> None:
    """Raises Refused (`sealed-epoch`) for an epoch older than the one promised."""
    if epoch < sealed_epoch:
        raise Refused(
            f"{server} writes in epoch {epoch}, but epoch {sealed_epoch} has been promised",
            remedy="the older one must rejoin as passive; it does so by itself",
            code="sealed-epoch",
        )


class Acknowledged(NamedTuple):
    durable: Position
    applied: Position | None


class InFlight(NamedTuple):
    sequence: int
    byte_count: int
    records: int
    sent_ns: int
    sparse: int
    """Number of the sparse batch; 0: it was sent whole."""


class State(Enum):
    GREETING = auto()
    DECIDING = auto()
    STREAMING = auto()
    OVER = auto()


def error_of(refuse: Refuse) -> EverupError:
    return error_from_json(
        {"code": refuse.code, "sentence": refuse.sentence, "remedy": refuse.remedy}
    )


def refuse_frame(error: EverupError) -> Pieces:
    refuse = Refuse(code=error.code, sentence=error.sentence[:4096], remedy=error.remedy[:4096])
    return encode(Kind.REFUSE, pack(refuse))


def idle_frame() -> Pieces:
    return encode(Kind.IDLE)


class SourceSession:
    """The side that dials and sends batches."""

    def __init__(self) -> None:
        self.state = State.GREETING
        self.in_flight: deque[InFlight] = deque()
        self.in_flight_bytes = 0
        self.in_flight_records = 0
        self.packer = Packer()
        self.features: frozenset[str] = frozenset()
        """What the target can; known from its WELCOME on."""
        self._sparse_sent = 0
        self._kept: dict[int, tuple[bytes, Sequence[Reference]]] = {}

    def hello(self, hello: Hello) -> Pieces:
        assert self.state is State.GREETING
        return encode(Kind.HELLO, pack(hello))

    def receive(self, frame: Frame) -> Welcome | Acknowledged | TargetState | Need | None:
        """What a frame means; None for a sign of life. Raises the peer's refusal as its error."""
        if frame.kind is Kind.REFUSE:
            self.state = State.OVER
            raise error_of(unpack(frame.payload, Refuse))
        if frame.kind is Kind.IDLE:
            return None
        if frame.kind is Kind.WELCOME and self.state is State.GREETING:
            self.state = State.DECIDING
            welcome = unpack(frame.payload, Welcome)
            self.features = frozenset(welcome.features)
            self.packer.in_context = CONTEXT in self.features
            return welcome
        if frame.kind is Kind.ACKNOWLEDGE and self.state is State.STREAMING:
            return self._acknowledged(unpack(frame.payload, Acknowledge))
        if frame.kind is Kind.STATE and self.state is State.STREAMING:
            return unpack(frame.payload, TargetState)
        if frame.kind is Kind.NEED and self.state is State.STREAMING:
            return unpack(frame.payload, Need)
        raise ProtocolError(f"a {frame.kind.name} frame is not expected while {self.state.name}")

    def start(self, start: Start) -> Pieces:
        assert self.state is State.DECIDING
        self.state = State.STREAMING
        return encode(Kind.START, pack(start))

    @property
    def may_send(self) -> bool:
        return self.state is State.STREAMING and self.in_flight_bytes < WINDOW_BYTES

    def batch(
        self,
        data: bytes,
        end_bytes: int,
        sequence: int,
        records: int,
        now_ns: int,
        references: Sequence[Reference] = (),
        *,
        lean: bool = False,
    ) -> Pieces:
        """Frame for a batch that ends at `sequence`; it counts against the window from now on.

        `references`: bytes of `data` that the target has; `lean`: `data` is the lean form of the
        batch; both for a target that knows what this is.
        """
        assert self.state is State.STREAMING
        sparse = 0
        if references:
            assert SPARSE in self.features
            self._sparse_sent += 1
            sparse = self._sparse_sent
            self._kept[sparse] = data, references
        self.in_flight.append(InFlight(sequence, len(data), records, now_ns, sparse))
        self.in_flight_bytes += len(data)
        self.in_flight_records += records
        if sparse:
            return encode_sparse(sparse, data, end_bytes, references, self.packer, lean=lean)
        return encode_batch(data, end_bytes, self.packer, lean=lean)

    def fill(self, need: Need) -> tuple[Pieces, list[Reference]]:
        """Answer to a Need, and the references that led nowhere."""
        if any(later <= index for index, later in pairwise(need.missing)):
            # One named again and again would make a frame of any size.
            raise ProtocolError("what the target needs is not in order", code="references")
        data, references = self._kept.get(need.number, (b"", ()))
        if max(need.missing) >= len(references):
            raise ProtocolError("the target needs what was never referred to", code="references")
        wanted = [references[index] for index in need.missing]
        view = memoryview(data)
        parts = [view[each.at : each.at + each.length] for each in wanted]
        return encode_fill(need.number, parts, self.packer), wanted

    def tell(self, state: SourceState) -> Pieces:
        return encode(Kind.STATE, pack(state))

    def _acknowledged(self, message: Acknowledge) -> Acknowledged:
        durable = message.durable.position()
        while self.in_flight and self.in_flight[0].sequence <= durable.sequence:
            gone = self.in_flight.popleft()
            self.in_flight_bytes -= gone.byte_count
            self.in_flight_records -= gone.records
            self._kept.pop(gone.sparse, None)
        applied = message.applied.position() if message.applied else None
        return Acknowledged(durable, applied)


class TargetSession:
    """The side that listens and receives batches."""

    def __init__(self) -> None:
        self.state = State.GREETING
        self._unpacker = Unpacker()

    def receive(
        self, frame: Frame
    ) -> Hello | Start | BatchFrame | SparseBatch | Fill | SourceState | None:
        """What a frame means; None for a sign of life."""
        if frame.kind is Kind.IDLE:
            return None
        if frame.kind is Kind.STATE and self.state is State.STREAMING:
            return unpack(frame.payload, SourceState)
        if frame.kind is Kind.BATCH and self.state is State.STREAMING:
            return decode_batch(frame.payload, self._unpacker)
        if frame.kind is Kind.BATCH_SPARSE and self.state is State.STREAMING:
            return decode_sparse(frame.payload, self._unpacker)
        if frame.kind is Kind.FILL and self.state is State.STREAMING:
            return decode_fill(frame.payload, self._unpacker)
        if frame.kind is Kind.HELLO and self.state is State.GREETING:
            self.state = State.DECIDING
            return unpack(frame.payload, Hello)
        if frame.kind is Kind.START and self.state is State.DECIDING:
            self.state = State.STREAMING
            return unpack(frame.payload, Start)
        if frame.kind is Kind.REFUSE:
            self.state = State.OVER
            raise error_of(unpack(frame.payload, Refuse))
        raise ProtocolError(f"a {frame.kind.name} frame is not expected while {self.state.name}")

    def welcome(self, welcome: Welcome) -> Pieces:
        assert self.state is State.DECIDING
        return encode(Kind.WELCOME, pack(welcome))

    def need(self, need: Need) -> Pieces:
        """Ask for the bytes of references that are not to be found here."""
        return encode(Kind.NEED, pack(need))

    def acknowledge(self, durable: Position, applied: Position | None) -> Pieces:
        message = Acknowledge(WirePosition.of(durable), wire_or_none(applied))
        return encode(Kind.ACKNOWLEDGE, pack(message))

    def tell(self, state: TargetState) -> Pieces:
        return encode(Kind.STATE, pack(state))
