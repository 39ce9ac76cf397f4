"""The conversation of two replicators on a stream channel, without sockets or clocks (pure).

What enters: frames that arrived. What leaves: events for the owner, and frames to send. A frame
that does not fit the state raises ProtocolError. Called by the source and target loops of
`replicate`. Protocol: docs/protocol/replication.md.
"""

from collections import deque
from enum import Enum, auto
from typing import NamedTuple

from everup.errors import EverupError, ProtocolError, Refused, error_from_json
from everup.model.position import Position
from everup.wire.frames import (
    BatchFrame,
    Frame,
    Kind,
    Packer,
    Unpacker,
    decode_batch,
    encode,
    encode_batch,
)
from everup.wire.messages import (
    CHANNELS,
    PROTOCOL_VERSIONS,
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

WINDOW_BYTES = 16 << 20
"""A source sends no further batch while this much is not acknowledged."""

Pieces = list[bytes | memoryview]


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
        self._packer = Packer()

    def hello(self, hello: Hello) -> Pieces:
        assert self.state is State.GREETING
        return encode(Kind.HELLO, pack(hello))

    def receive(self, frame: Frame) -> Welcome | Acknowledged | TargetState | None:
        """What a frame means; None for a sign of life. Raises the peer's refusal as its error."""
        if frame.kind is Kind.REFUSE:
            self.state = State.OVER
            raise error_of(unpack(frame.payload, Refuse))
        if frame.kind is Kind.IDLE:
            return None
        if frame.kind is Kind.WELCOME and self.state is State.GREETING:
            self.state = State.DECIDING
            return unpack(frame.payload, Welcome)
        if frame.kind is Kind.ACKNOWLEDGE and self.state is State.STREAMING:
            return self._acknowledged(unpack(frame.payload, Acknowledge))
        if frame.kind is Kind.STATE and self.state is State.STREAMING:
            return unpack(frame.payload, TargetState)
        raise ProtocolError(f"a {frame.kind.name} frame is not expected while {self.state.name}")

    def start(self, start: Start) -> Pieces:
        assert self.state is State.DECIDING
        self.state = State.STREAMING
        return encode(Kind.START, pack(start))

    @property
    def may_send(self) -> bool:
        return self.state is State.STREAMING and self.in_flight_bytes < WINDOW_BYTES

    def batch(
        self, data: bytes, end_bytes: int, sequence: int, records: int, now_ns: int
    ) -> Pieces:
        """Frame for a batch that ends at `sequence`; it counts against the window from now on."""
        assert self.state is State.STREAMING
        waiting_bytes = self.in_flight_bytes
        self.in_flight.append(InFlight(sequence, len(data), records, now_ns))
        self.in_flight_bytes += len(data)
        self.in_flight_records += records
        return encode_batch(data, end_bytes, self._packer, waiting_bytes)

    def tell(self, state: SourceState) -> Pieces:
        return encode(Kind.STATE, pack(state))

    def _acknowledged(self, message: Acknowledge) -> Acknowledged:
        durable = message.durable.position()
        while self.in_flight and self.in_flight[0].sequence <= durable.sequence:
            gone = self.in_flight.popleft()
            self.in_flight_bytes -= gone.byte_count
            self.in_flight_records -= gone.records
        applied = message.applied.position() if message.applied else None
        return Acknowledged(durable, applied)


class TargetSession:
    """The side that listens and receives batches."""

    def __init__(self) -> None:
        self.state = State.GREETING
        self._unpacker = Unpacker()

    def receive(self, frame: Frame) -> Hello | Start | BatchFrame | SourceState | None:
        """What a frame means; None for a sign of life."""
        if frame.kind is Kind.IDLE:
            return None
        if frame.kind is Kind.STATE and self.state is State.STREAMING:
            return unpack(frame.payload, SourceState)
        if frame.kind is Kind.BATCH and self.state is State.STREAMING:
            return decode_batch(frame.payload, self._unpacker)
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

    def acknowledge(self, durable: Position, applied: Position | None) -> Pieces:
        message = Acknowledge(WirePosition.of(durable), wire_or_none(applied))
        return encode(Kind.ACKNOWLEDGE, pack(message))

    def tell(self, state: TargetState) -> Pieces:
        return encode(Kind.STATE, pack(state))
