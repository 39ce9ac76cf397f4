"""Frames: everything that was encoded comes back, everything else is refused with a code."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everup.errors import ProtocolError
from everup.limits import FRAME_BYTES_MAX
from everup.wire import frames
from everup.wire.frames import (
    FrameDecoder,
    Kind,
    decode_batch,
    decode_blocks,
    encode,
    encode_batch,
    encode_blocks,
)
from everup.wire.packing import ENCODING_RAW, ENCODING_ZSTD, Packer, Unpacker

KINDS = st.sampled_from(list(Kind))


def joined(pieces: list[bytes | memoryview]) -> bytes:
    return b"".join(pieces)


@given(st.lists(st.tuples(KINDS, st.binary(max_size=3000)), max_size=8), st.data())
def test_any_cut_of_the_stream_gives_the_same_frames(
    sent: list[tuple[Kind, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(joined(encode(kind, payload)) for kind, payload in sent)
    decoder = FrameDecoder()
    got = []
    while stream:
        count = data.draw(st.integers(1, len(stream)))
        got += decoder.feed(stream[:count])
        stream = stream[count:]
    assert [(frame.kind, frame.payload) for frame in got] == sent
    assert decoder.held_bytes == 0


@given(KINDS, st.binary(max_size=500), st.data())
@settings(max_examples=300)
def test_a_flipped_bit_is_never_taken_for_a_frame(
    kind: Kind, payload: bytes, data: st.DataObject
) -> None:
    stream = bytearray(joined(encode(kind, payload)))
    position = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[position // 8] ^= 1 << (position % 8)
    try:
        got = FrameDecoder().feed(bytes(stream))
    except ProtocolError as error:
        assert error.code.startswith("frame-")
        return
    # What is left: another known kind with the same bytes, or a longer frame that never ends.
    assert all(frame.payload == payload and frame.kind is not kind for frame in got)


@given(st.binary(max_size=200))
def test_rubbish_costs_the_connection_and_nothing_else(rubbish: bytes) -> None:
    try:
        FrameDecoder().feed(rubbish)
    except ProtocolError as error:
        assert error.code.startswith("frame-")


@pytest.mark.parametrize(
    ("kind", "length"), [(Kind.HELLO, (1 << 20) + 1), (Kind.BATCH, FRAME_BYTES_MAX + 1)]
)
def test_a_longer_frame_is_refused_from_its_header(kind: Kind, length: int) -> None:
    header = frames.HEADER.pack(kind, 0, 0, length, 0)
    with pytest.raises(ProtocolError) as caught:
        FrameDecoder().feed(header)
    assert caught.value.code == "frame-length"
    with pytest.raises(ProtocolError):
        encode(kind, bytes(length))


@given(st.binary(min_size=1, max_size=20_000), st.integers(1, 300))
def test_batches_survive_the_way(data: bytes, end_bytes: int) -> None:
    end_bytes = min(end_bytes, len(data))
    (frame,) = FrameDecoder().feed(joined(encode_batch(data, end_bytes, Packer())))
    batch = decode_batch(frame.payload, Unpacker())
    assert (batch.data, batch.end_bytes) == (data, end_bytes)


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60), st.binary(max_size=5000))
def test_blocks_survive_the_way(handle: int, offset: int, data: bytes) -> None:
    (frame,) = FrameDecoder().feed(joined(encode_blocks(handle, offset, data, Packer())))
    blocks = decode_blocks(frame.payload, Unpacker())
    assert (blocks.handle, blocks.offset, blocks.data) == (handle, offset, data)


@given(st.binary(max_size=60))
def test_a_broken_batch_frame_is_a_protocol_error(payload: bytes) -> None:
    for decode in (decode_batch, decode_blocks):
        try:
            decode(payload, Unpacker())
        except ProtocolError as error:
            assert error.code.startswith("frame-")


def test_a_lying_compressed_size_is_refused() -> None:
    data = bytes(10_000)
    payload = bytearray(joined(encode_batch(data, 100, Packer()))[frames.HEADER_BYTES :])
    payload[4:8] = (9_999).to_bytes(4, "little")
    with pytest.raises(ProtocolError) as caught:
        decode_batch(bytes(payload), Unpacker())
    assert caught.value.code == "frame-body"


def test_compression_pays_or_is_left() -> None:
    packer = Packer()
    assert packer.pack(bytes(8192))[0] == ENCODING_ZSTD
    assert packer.pack(os.urandom(8192))[0] == ENCODING_RAW
    # After a body that did not pay one is skipped, then it is tried again.
    assert packer.pack(bytes(8192))[0] == ENCODING_RAW
    assert packer.pack(bytes(8192))[0] == ENCODING_ZSTD
