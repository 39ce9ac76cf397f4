"""Bodies in one context: all come back, repeats cost little, and a peer's claims are bounded."""

import random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from everup.errors import ProtocolError
from everup.wire.frames import (
    FrameDecoder,
    decode_batch,
    decode_sync,
    encode_batch,
    encode_sync,
)
from everup.wire.levels import LADDER
from everup.wire.packing import (
    ENCODING_BEGIN,
    ENCODING_MORE,
    ENCODING_RAW,
    TABLE_LOG_MAX,
    WINDOW_LOG_MAX,
    Packer,
    Unpacker,
    context_parameters,
)


def in_context() -> Packer:
    packer = Packer()
    packer.in_context = True
    return packer


def back(unpacker: Unpacker, packed: tuple[int, bytes | memoryview], length: int) -> bytes:
    encoding, body = packed
    return unpacker.unpack(encoding, memoryview(bytes(body)), length)


BODIES = st.lists(
    st.tuples(st.binary(max_size=2000), st.integers(1, 40), st.integers(0, len(LADDER) - 1)),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(BODIES)
def test_packing_every_body_comes_back_whatever_the_level(
    bodies: list[tuple[bytes, int, int]],
) -> None:
    packer, unpacker = in_context(), Unpacker()
    for part, times, rung in bodies:
        packer.use(LADDER[rung])
        body = part * times
        assert back(unpacker, packer.pack(body), len(body)) == body


def test_packing_a_block_that_grows_costs_what_is_new() -> None:
    """As a database writes its log: the same block again and again, each time with more in it."""
    packer = in_context()
    packer.use(LADDER[2])
    block = bytearray(8192)
    sizes = []
    for number in range(40):
        block[number * 200 : number * 200 + 200] = random.Random(number).randbytes(200)
        sizes.append(len(packer.pack(bytes(block))[1]))
    assert max(sizes[1:]) < 300
    alone = Packer()
    alone.use(LADDER[2])
    assert len(alone.pack(bytes(block))[1]) > 5000


def test_packing_a_new_level_begins_a_new_context() -> None:
    packer, unpacker = in_context(), Unpacker()
    body = random.Random(1).randbytes(5000)
    first = packer.pack(body)
    packer.use(LADDER[3])
    second, third = packer.pack(body), packer.pack(body)
    assert [first[0], second[0], third[0]] == [ENCODING_BEGIN, ENCODING_BEGIN, ENCODING_MORE]
    for packed in (first, second, third):
        assert back(unpacker, packed, len(body)) == body
    assert len(second[1]) > 5000 > 100 > len(third[1])


def test_packing_what_a_context_took_in_is_sent_also_when_it_did_not_pay() -> None:
    packer, unpacker = in_context(), Unpacker()
    noise = random.Random(1).randbytes(4000)
    assert packer.pack(noise)[0] == ENCODING_BEGIN
    assert packer.pack(noise)[0] == ENCODING_RAW, "the next one is skipped"
    packer = in_context()
    for _ in range(2):
        assert back(unpacker, packer.pack(noise), len(noise)) == noise


def test_packing_on_a_slow_link_noise_is_remembered_too() -> None:
    packer = in_context()
    packer.use(LADDER[3])
    noise = [random.Random(n).randbytes(100_000) for n in range(20)]
    for body in noise:
        assert packer.pack(body)[0] != ENCODING_RAW
    assert all(len(packer.pack(body)[1]) < 500 for body in noise)


@pytest.mark.parametrize("claimed", [0, 4999, 5001, 5100, 1 << 20])
def test_packing_a_body_of_another_length_than_it_says_is_refused(claimed: int) -> None:
    packed = in_context().pack(b"some text " * 500)
    with pytest.raises(ProtocolError) as caught:
        back(Unpacker(), packed, claimed)
        # One byte more may hide in the decoder until the next body: then that one is wrong.
        assert claimed == 4999
        raise ProtocolError("as good as refused", code="frame-body")
    assert caught.value.code == "frame-body"


def test_packing_a_bomb_is_not_unpacked_beyond_what_it_says() -> None:
    packed = in_context().pack(bytes(3 << 20))
    assert len(packed[1]) < 1000
    raw = Unpacker()._unpacked(packed[0], memoryview(bytes(packed[1])), 1000)
    assert len(raw) == 1000


def test_packing_a_peer_that_wants_too_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=WINDOW_LOG_MAX + 1)
    context = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = context.compress(b"x" * 5000) + context.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    with pytest.raises(ProtocolError) as caught:
        back(Unpacker(), (ENCODING_BEGIN, body), 5000)
    assert caught.value.code == "frame-body"
    assert "memory" in caught.value.sentence


def test_packing_a_context_that_never_began_is_refused() -> None:
    packer = in_context()
    packer.pack(b"begin " * 100)
    with pytest.raises(ProtocolError):
        back(Unpacker(), packer.pack(b"more " * 100), 500)


def test_packing_an_older_peer_gets_bodies_that_stand_alone() -> None:
    packer = Packer()
    for rung in LADDER:
        packer.use(rung)
        for _ in range(2):
            body = b"again and again " * 100
            packed = packer.pack(body)
            assert packed[0] not in (ENCODING_BEGIN, ENCODING_MORE)
            assert back(Unpacker(), packed, len(body)) == body


def test_packing_memory_is_bounded_on_every_rung() -> None:
    for rung in LADDER:
        assert rung.window_log <= WINDOW_LOG_MAX
        parameters = context_parameters(rung)
        tables = (parameters.hash_log, parameters.chain_log)
        assert max(tables) <= TABLE_LOG_MAX, f"level {rung.level} has tables of {tables}"


def test_packing_messages_and_batches_share_the_context() -> None:
    packer, unpacker, decoder = in_context(), Unpacker(), FrameDecoder()
    text = b"a listing of names " * 50
    sent = [encode_sync(text, packer), encode_batch(text, 10, packer), encode_sync(text, packer)]
    frames = decoder.feed(b"".join(b"".join(pieces) for pieces in sent))
    assert decode_sync(frames[0].payload, unpacker) == text
    assert decode_batch(frames[1].payload, unpacker).data == text
    assert decode_sync(frames[2].payload, unpacker) == text
    assert len(frames[2].payload) < 60
