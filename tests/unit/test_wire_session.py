"""The conversation on a stream channel, without sockets."""

import pytest

from everup.errors import ProtocolError, Refused
from everup.model.position import ORIGIN, Position
from everup.wire.frames import BatchFrame, Frame, FrameDecoder, Kind
from everup.wire.messages import (
    CHANNEL_STREAM,
    FEATURES,
    Hello,
    SourceState,
    Start,
    TargetState,
    Welcome,
    WirePosition,
    pack,
    unpack,
)
from everup.wire.packing import ENCODING_ZSTD
from everup.wire.references import Reference
from everup.wire.session import (
    WINDOW_BYTES,
    Acknowledged,
    Pieces,
    Self,
    SourceSession,
    TargetSession,
    idle_frame,
    judge_hello,
    refuse_frame,
)

HERE = Position(3, 40, bytes(range(16)))


def frames(pieces: Pieces) -> list[Frame]:
    return FrameDecoder().feed(b"".join(pieces))


def hello(**changes: object) -> Hello:
    values: dict[str, object] = {
        "versions": (1,),
        "group_id": "ab",
        "server": "alpha",
        "channel": CHANNEL_STREAM,
        "epoch": 3,
    }
    return Hello(**(values | changes))  # type: ignore[arg-type]


def own(**changes: object) -> Self:
    value = Self("ab", "beta", frozenset({"alpha", "beta"}), 3)
    return value._replace(**changes)


def connected(features: tuple[str, ...] = ()) -> tuple[SourceSession, TargetSession]:
    source, target = SourceSession(), TargetSession()
    (frame,) = frames(source.hello(hello()))
    assert isinstance(target.receive(frame), Hello)
    welcome = Welcome(version=1, server="beta", sealed_epoch=3, tree_state="at", features=features)
    (frame,) = frames(target.welcome(welcome))
    assert source.receive(frame) == welcome
    start = Start(catch_up="stream", position=WirePosition.of(HERE), sentence="why")
    (frame,) = frames(source.start(start))
    assert target.receive(frame) == start
    return source, target


def test_a_whole_conversation() -> None:
    source, target = connected()
    (frame,) = frames(source.batch(b"x" * 500, 100, 41, 2, 0))
    assert target.receive(frame) == BatchFrame(b"x" * 500, 100)
    (frame,) = frames(target.acknowledge(HERE, ORIGIN))
    assert source.receive(frame) == Acknowledged(HERE, ORIGIN)
    state = TargetState(consistent=True, receive_bytes=7)
    (frame,) = frames(target.tell(state))
    assert source.receive(frame) == state
    (frame,) = frames(source.tell(SourceState(in_sync=True)))
    assert target.receive(frame) == SourceState(in_sync=True)
    for side in (source, target):
        (frame,) = frames(idle_frame())
        assert side.receive(frame) is None


def test_the_window_closes_and_opens_by_bytes() -> None:
    source, target = connected()
    sequence = 40
    while source.may_send:
        sequence += 1
        source.batch(b"y" * (1 << 20), 100, sequence, 3, 0)
    assert source.in_flight_bytes == WINDOW_BYTES
    acknowledged = Position(3, 45, bytes(16))
    (frame,) = frames(target.acknowledge(acknowledged, None))
    assert source.receive(frame) == Acknowledged(acknowledged, None)
    assert source.may_send
    assert source.in_flight_bytes == WINDOW_BYTES - (5 << 20)
    assert source.in_flight_records == (WINDOW_BYTES >> 20) * 3 - 15


@pytest.mark.parametrize(
    ("changes", "peer", "code"),
    [
        ({"group_id": "zz"}, "alpha", "foreign-group"),
        ({"versions": (7, 8)}, "alpha", "no-common-version"),
        ({"epoch": 2}, "alpha", "sealed-epoch"),
        ({}, "gamma", "unknown-server"),
        ({"server": "gamma"}, "gamma", "unknown-server"),
        ({"server": "beta"}, "beta", "unknown-server"),
        ({"channel": "other"}, "alpha", "unknown-channel"),
    ],
)
def test_who_is_refused_and_why(changes: dict[str, object], peer: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        judge_hello(hello(**changes), peer, own())
    assert caught.value.code == code
    assert caught.value.sentence
    source = SourceSession()
    source.hello(hello())
    (frame,) = frames(refuse_frame(caught.value))
    with pytest.raises(Exception) as told:
        source.receive(frame)
    assert told.value.code == code  # type: ignore[attr-defined]


def test_the_newest_common_version_and_a_newer_epoch_are_taken() -> None:
    assert judge_hello(hello(versions=(9, 1)), "alpha", own()) == 1
    assert judge_hello(hello(epoch=99), "alpha", own()) == 1


def test_frames_out_of_turn_end_the_conversation() -> None:
    source, target = connected()
    batch = frames(source.batch(b"x" * 10, 5, 41, 1, 0))[0]
    with pytest.raises(ProtocolError):
        TargetSession().receive(batch)
    acknowledgement = frames(target.acknowledge(HERE, None))[0]
    with pytest.raises(ProtocolError):
        SourceSession().receive(acknowledgement)
    with pytest.raises(ProtocolError):
        target.receive(Frame(Kind.HELLO, pack(hello())))


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x80", b"\x81\xa8versions\x01"])
def test_an_unreadable_message_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        unpack(payload, Hello)
    assert caught.value.code == "message"


def test_a_newer_peer_may_say_more() -> None:
    import msgspec

    value = msgspec.msgpack.decode(pack(hello())) | {"added_later": 5}
    assert unpack(msgspec.msgpack.encode(value), Hello) == hello()


def test_an_older_target_gets_what_it_knows() -> None:
    """Without features in its WELCOME every body stands alone, as version 1 has it."""
    source, target = connected()
    older, newer = source, connected(FEATURES)[0]
    assert not older.packer.in_context and newer.packer.in_context
    for sequence in (41, 42):
        (frame,) = frames(older.batch(b"again " * 500, 100, sequence, 2, 0))
        assert frame.kind is Kind.BATCH and frame.payload[0] == ENCODING_ZSTD
        assert target.receive(frame) == BatchFrame(b"again " * 500, 100)
    with pytest.raises(AssertionError):
        reference = Reference(0, 5, bytes(16), 1, b"a", 0)
        older.batch(b"again " * 500, 100, 43, 2, 0, [reference])
