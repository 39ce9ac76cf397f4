"""Damaged frames, messages and control lines: the declared error, in bounded time and memory."""

import os
import socket
import threading
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.damaging import DEEP, FUZZED, damaged, survives

from everup.errors import EverupError, ProtocolError
from everup.limits import BATCH_BYTES_MAX, FRAME_BYTES_MAX
from everup.model.position import ORIGIN
from everup.wire import syncmessages as sync
from everup.wire.frames import (
    HEADER,
    Frame,
    FrameDecoder,
    Kind,
    decode_batch,
    decode_blocks,
    decode_sync,
    encode,
    encode_batch,
    encode_blocks,
    encode_sync,
)
from everup.wire.local import LINE_BYTES_MAX, LineChannel, LocalServer, call
from everup.wire.messages import (
    Acknowledge,
    Hello,
    PastEpoch,
    Refuse,
    SourceState,
    Start,
    TargetState,
    Welcome,
    WirePosition,
    pack,
    unpack,
)
from everup.wire.packing import ENCODING_ZSTD, Packer, Unpacker
from everup.wire.references import (
    Need,
    Reference,
    decode_fill,
    decode_sparse,
    encode_fill,
    encode_sparse,
    whole,
)
from everup.wire.session import SourceSession, TargetSession

HERE = WirePosition.of(ORIGIN)
OBJECT = bytes(range(16))
ATTRIBUTES = sync.Attributes(0o100644, 1, 2, -3, 0, {b"user.a": b"b"})
ENTRY = sync.Entry(b"name", OBJECT, ATTRIBUTES, 1, 5, 0, b"small")
MESSAGES: list[msgspec.Struct] = [
    Hello(
        versions=(1,), group_id="cd" * 16, server="alpha", channel="stream", epoch=3,
        history=(PastEpoch(1, HERE),), position=HERE, features=("a",), trees=(1, 2),
    ),
    Welcome(version=1, server="beta", sealed_epoch=3, tree_state="at", position=HERE),
    Refuse(code="sealed-epoch", sentence="no", remedy="wait"),
    Start(catch_up="stream", position=HERE, sentence="goes on", sync_id="ab"),
    Acknowledge(HERE, None),
    TargetState(consistent=True, receive_bytes=5, error_code="x"),
    SourceState(in_sync=True),
    Need(7, [0, 3]),
]  # fmt: skip
SYNC_MESSAGES: list[sync.AnySync] = [
    sync.Begin((1,), 5, 6),
    sync.Listing(
        1, b"a/b", OBJECT, ATTRIBUTES,
        [ENTRY], True, False,
    ),
    sync.Have(1, 0, bytes(32), True), sync.Hole(1, 0, 5), sync.FileEnd(1, 5, -6, False),
    sync.CopyEnd(HERE, HERE), sync.CopyEnded(5), sync.Hold(True), sync.Held(None),
    sync.Prove([sync.ProofItem(1, b"a", OBJECT, 5, True, OBJECT, [1, 2], bytes(32))]),
    sync.Proved([sync.Failure(1, True, [1])]), sync.ProofEnd(HERE, 1, 2),
    sync.Stopped("code", "sentence", "remedy"), sync.ListingsEnd(), sync.ListingsTaken(),
    sync.Want(1, OBJECT, b"a/b", b"name", OBJECT, [(0, 5), (9, 1)]),
    sync.Content(1, OBJECT, ENTRY),
    sync.Finer(1, [0, 9]), sync.Fine(1, [0, 9], bytes(16)),
]  # fmt: skip
PACKED = [pack(message) for message in MESSAGES]
SYNC_PACKED = [sync.pack_sync(message) for message in SYNC_MESSAGES]
TEXT = b"some text that can be made shorter " * 40


def joined(pieces: list[bytes | memoryview]) -> bytes:
    return b"".join(pieces)


BODIES = [
    joined(encode_batch(TEXT, 113, Packer()))[12:],
    joined(encode_batch(os.urandom(300), 113, Packer()))[12:],
    joined(encode_blocks(1, 4096, TEXT, Packer()))[12:],
]


def in_context() -> Packer:
    packer = Packer()
    packer.in_context = True
    return packer


REFERENCES = [Reference(40, 200, OBJECT, 1, b"a/b", 131072), Reference(300, 9, OBJECT, 1, b"", 0)]
CONTEXT_BODIES = [
    joined(encode_batch(TEXT, 113, in_context()))[12:],
    joined(encode_sync(TEXT, in_context()))[12:],
    joined(encode_sparse(3, TEXT, 113, REFERENCES, in_context()))[12:],
    joined(encode_sparse(3, TEXT, 113, REFERENCES, Packer()))[12:],
    joined(encode_fill(3, [TEXT[:200]], in_context()))[12:],
]
STREAM = [
    joined(encode(Kind.HELLO, PACKED[0])) + joined(encode(Kind.IDLE)),
    joined(encode_batch(TEXT, 113, Packer())) * 3,
    joined(encode(Kind.SYNC, SYNC_PACKED[1])) + joined(encode_blocks(1, 0, TEXT, Packer())),
]


@FUZZED
@given(damaged(STREAM), st.integers(1, 200))
def test_streams(data: bytes, part: int) -> None:
    """Whatever arrives in whatever parts; at most one unfinished frame is held."""
    decoder = FrameDecoder()

    def feed() -> list[Frame]:
        return [
            frame
            for at in range(0, len(data), part)
            for frame in decoder.feed(data[at : at + part])
        ]

    survives(feed, ProtocolError)
    assert decoder.held_bytes <= len(data)


@FUZZED
@given(damaged(BODIES))
def test_bodies(payload: bytes) -> None:
    for decode in (decode_batch, decode_blocks):
        survives(lambda decode=decode: decode(payload, Unpacker()), ProtocolError)


@FUZZED
@given(damaged(CONTEXT_BODIES), st.integers(0, 2))
def test_bodies_of_a_context(payload: bytes, before: int) -> None:
    """Also behind good ones, which a damaged one may refer to."""

    unpacker, packer = Unpacker(), in_context()
    for _ in range(before):
        good = joined(encode_batch(TEXT, 113, packer))[12:]
        assert decode_batch(good, unpacker).data == TEXT
    for decode in (decode_batch, decode_sync, decode_fill):
        survives(lambda decode=decode: decode(payload, unpacker), ProtocolError)
    sparse = survives(lambda: decode_sparse(payload, unpacker), ProtocolError)
    if not isinstance(sparse, ProtocolError):
        found = [bytes(reference.length) for reference in sparse.references]
        assert len(whole(sparse, found)) == sparse.length


@pytest.mark.parametrize("claimed", [BATCH_BYTES_MAX + 1, (1 << 32) - 1, 1000])
def test_a_compressed_bomb_takes_no_room(claimed: int) -> None:
    """One body that would grow to far more than it says, or says too much."""
    bomb = Packer().pack(bytes(200 << 20))[1]
    head = bytes([ENCODING_ZSTD, 0, 0, 0]) + claimed.to_bytes(4, "little") + bytes([1, 0, 0, 0])
    found = survives(lambda: decode_batch(head + bytes(bomb), Unpacker()), ProtocolError)
    assert isinstance(found, ProtocolError)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_length_that_is_too_large_is_refused_before_anything_is_held(kind: Kind) -> None:
    header = HEADER.pack(kind, 0, 0, FRAME_BYTES_MAX + 1, 0)
    assert isinstance(survives(lambda: FrameDecoder().feed(header), ProtocolError), ProtocolError)


@FUZZED
@given(st.sampled_from([type(message) for message in MESSAGES]), damaged(PACKED))
def test_messages(kind: type[msgspec.Struct], payload: bytes) -> None:
    survives(lambda: unpack(payload, kind), ProtocolError)


def test_every_sync_message_is_among_them() -> None:
    assert {type(message) for message in SYNC_MESSAGES} == set(get_args(sync.AnySync))
    assert [sync.unpack_sync(data) for data in SYNC_PACKED] == SYNC_MESSAGES


@FUZZED
@given(damaged(SYNC_PACKED))
def test_sync_messages(payload: bytes) -> None:
    survives(lambda: sync.unpack_sync(payload), ProtocolError)


GREEDY = (
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\x91" * 100_000, b"\x81\xa1a" * 50_000, b"\x9d" + b"\xdd\x7f\xff\xff\xff" * 20,
    b"\x81\xa7unknown" + b"\x91" * 100_000 + b"\xc0",
)  # fmt: skip
"""Lengths and depths that the bytes do not have."""


@pytest.mark.parametrize("payload", GREEDY)
def test_messages_that_promise_more_than_they_hold(payload: bytes) -> None:
    for kind in map(type, MESSAGES):
        survives(lambda kind=kind: unpack(payload, kind), ProtocolError)
    survives(lambda: sync.unpack_sync(payload), ProtocolError)


@FUZZED
@given(st.lists(st.tuples(st.sampled_from(list(Kind)), damaged(PACKED + BODIES)), max_size=6))
def test_conversations(frames: list[tuple[Kind, bytes]]) -> None:
    """Any frames in any order: an answer, the peer's refusal, or an error of the protocol."""
    for session in (SourceSession(), TargetSession()):

        def talk(session: SourceSession | TargetSession = session) -> None:
            for kind, payload in frames:
                session.receive(Frame(kind, payload))

        survives(talk, EverupError)


# control lines

LINES = [b'{"verb": "status"}\n', b'{"verb": "open", "epoch": 1, "x": [1, {"a": null}]}\n', b"{}\n"]


def lines_of(data: bytes) -> list[dict[str, object]]:
    """What a reader of these bytes gets until the other side closes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = threading.Thread(target=lambda: (theirs.sendall(data), theirs.close()))
        writer.start()
        channel = LineChannel(ours)
        found = []
        try:
            while (line := channel.receive()) is not None:
                found.append(line)
        finally:
            ours.close()
            writer.join()
    return found


@FUZZED
@given(damaged(LINES))
def test_control_lines(data: bytes) -> None:
    survives(lambda: lines_of(data), ProtocolError)


@pytest.mark.parametrize(
    "data", [*(deep + b"\n" for deep in DEEP), bytes(LINE_BYTES_MAX + 100_000)]
)
def test_control_lines_that_are_too_deep_or_too_long(data: bytes) -> None:
    found = survives(lambda: lines_of(data), ProtocolError, BrokenPipeError, ConnectionResetError)
    assert isinstance(found, ProtocolError)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("local") / "s"
    server = LocalServer(path, lambda verb, arguments: {"verb": verb})
    server.start()
    return path


@FUZZED
@given(data=damaged([*LINES, *DEEP]))
def test_a_server_outlives_any_caller(served: Path, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(served))
        caller.sendall(data)
    assert call(served, "ask") == {"ok": True, "verb": "ask"}
