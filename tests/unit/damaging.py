"""Bytes that a decoder must survive: random ones, and valid ones that were cut, flipped or glued.

What enters: valid encodings. What leaves: strategies of damaged ones, and a frame around a decoder
that lets only its declared errors out and bounds its time and memory. Used by the fuzz tests.
"""

import os
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st

EXAMPLES = 150 * int(os.environ.get("EVERUP_LONGER", "1"))
FUZZED = settings(max_examples=EXAMPLES, deadline=None, print_blob=True)
SECONDS_MAX = 1.0
BYTES_MAX = 32 << 20

Decoded = TypeVar("Decoded")


@st.composite
def damaged(draw: st.DrawFn, valid: Sequence[bytes]) -> bytes:
    """One of `valid` with up to three injuries, or bytes that mean nothing."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=300))
    data = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, 3))):
        data = _injured(draw, data, valid)
    return data


def _injured(draw: st.DrawFn, data: bytes, valid: Sequence[bytes]) -> bytes:
    at = draw(st.integers(0, max(0, len(data) - 1)))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return data[:at]
    if kind == 1 and data:
        return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
    if kind == 2:
        rubbish = draw(st.binary(min_size=1, max_size=8))
        return data[:at] + rubbish + data[at + len(rubbish) :]
    if kind == 3:
        other = draw(st.sampled_from(valid))
        return data[:at] + other[draw(st.integers(0, len(other))) :]
    return data[:at] + draw(st.binary(max_size=20)) + data[at:]


def survives(
    decode: Callable[[], Decoded], *errors: type[BaseException]
) -> Decoded | BaseException:
    """What `decode` gives, or the declared error; any other error leaves, and too much fails."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        return decode()
    except errors as error:
        return error
    finally:
        seconds = time.perf_counter() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < SECONDS_MAX, f"{seconds:.1f} s"
        assert peak < BYTES_MAX, f"{peak >> 20} MiB"


DEEP = (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 3000 + b"]" * 3000)
"""JSON that is deeper than any stack."""
