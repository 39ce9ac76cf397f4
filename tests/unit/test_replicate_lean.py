"""The lean form of a batch: byte for byte back, and anything else refused in bounded memory."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.damaging import FUZZED, damaged, survives

from everup.errors import ProtocolError
from everup.journal.operation import (
    Attributes,
    BatchEnd,
    encode_attributes,
    encode_batch_end,
    encode_write,
)
from everup.journal.record import Operation, encode_head
from everup.replicate.lean import lean, whole_again

NUMBER = st.integers(0, (1 << 64) - 1)
TIME = st.integers(0, (1 << 62) - 1)
IDS = [bytes([number]) * 16 for number in range(4)]


@st.composite
def batches(draw: st.DrawFn) -> bytes:
    epoch, sequence = draw(st.integers(0, 1 << 40)), draw(st.integers(1, 1 << 40))
    parts = []
    for number in range(draw(st.integers(1, 12))):
        if draw(st.booleans()):
            kind = Operation.WRITE
            arguments = encode_write(draw(NUMBER), draw(st.binary(max_size=8)))
        else:
            kind = Operation.ATTRIBUTES
            arguments = encode_attributes(Attributes(1, 2, 3, 4, 5, draw(st.binary(max_size=8))))
        payload = draw(st.binary(max_size=40))
        parts.append(
            encode_head(
                kind, draw(st.integers(0, 65535)), epoch, sequence + number,
                draw(st.sampled_from(IDS)), arguments, payload,
                unique=draw(st.one_of(TIME, NUMBER)), wall_ns=draw(TIME), boot_ns=draw(TIME),
                flags=draw(st.integers(0, 255)),
            )
            + payload
        )  # fmt: skip
    return b"".join(parts)


def usual(records: int = 50) -> bytes:
    """As a program writes its log."""
    choice, at, wall, parts = random.Random(1), 0, 10**18, []
    for number in range(records):
        line = b"%d: a line of a log\n" % choice.randrange(10**6)
        wall += choice.randrange(10**5)
        arguments = encode_write(at, b"var/log/service.log")
        parts.append(
            encode_head(
                Operation.WRITE, 1, 7, 100 + number, IDS[1], arguments, line,
                unique=2 * number, wall_ns=wall, boot_ns=wall - 10**17,
            )
            + line
        )  # fmt: skip
        at += len(line)
    end = encode_batch_end(BatchEnd(100, records, 5000, IDS[2], 2))
    return b"".join(
        [*parts, encode_head(Operation.BATCH, 0, 7, 100 + records, bytes(16), end, b"")]
    )


@settings(max_examples=200, deadline=None)
@given(batches())
def test_lean_is_byte_for_byte_the_same_again(data: bytes) -> None:
    found = lean(data)
    if found is not None:
        assert whole_again(found.data) == data


def test_lean_is_a_third_of_what_many_short_records_are() -> None:
    data = usual()
    found = lean(data)
    assert found is not None
    assert whole_again(found.data) == data
    assert len(found.data) * 3 < len(data)
    begin = found.payloads[3]
    assert b": a line of a log\n" in found.data[begin : begin + 30]


def test_lean_leaves_a_batch_alone_that_does_not_fit() -> None:
    head = [encode_head(Operation.WRITE, 1, epoch, epoch, IDS[0], encode_write(0, b"a"))
            for epoch in (1, 2)]  # fmt: skip
    assert lean(b"".join(head)) is None, "two epochs"
    gap = [encode_head(Operation.WRITE, 1, 1, sequence, IDS[0], encode_write(0, b"a"))
           for sequence in (1, 3)]  # fmt: skip
    assert lean(b"".join(gap)) is None, "a sequence is missing"


GOOD = lean(usual())
assert GOOD is not None


@FUZZED
@given(damaged([GOOD.data]))
def test_lean_rubbish_is_refused(data: bytes) -> None:
    survives(lambda: whole_again(data), ProtocolError)
