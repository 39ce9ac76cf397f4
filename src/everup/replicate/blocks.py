"""Content of files as blocks: hashes, data and holes.

What enters: open files. What leaves: 16 bytes per block of 128 KiB, ranges that hold data. Both
sides of a sync and of a proof use this code, so that they mean the same by a block. A block that
lies wholly in a hole has the hash HOLE: a hole stays a hole on the other side.
"""

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from blake3 import blake3

from everup.limits import COMPARED_BLOCK_BYTES

BLOCK_BYTES = COMPARED_BLOCK_BYTES
HASH_BYTES = 16
HOLE = bytes(HASH_BYTES)
PIECE_BYTES = 4 << 10
"""A block that differs is compared in pieces of this size when bytes are dear."""
PIECE_HASH_BYTES = 8
"""Short: what they miss the proof finds, which compares whole hashes of blocks."""


class Range(NamedTuple):
    """Bytes from `start` to before `end`."""

    start: int
    end: int


def block_count(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def data_ranges(descriptor: int, start: int, end: int) -> Iterator[Range]:
    """Ranges of a file that are not holes, within [start, end)."""
    at = start
    while at < end:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as problem:
            if problem.errno == errno.ENXIO:
                return
            raise
        if data >= end:
            return
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        yield Range(data, min(hole, end))
        at = hole


def is_hole(descriptor: int, start: int, end: int) -> bool:
    return next(data_ranges(descriptor, start, end), None) is None


def read_range(descriptor: int, start: int, end: int) -> bytes:
    """Bytes of a range; shorter when the file ends before."""
    parts = []
    while start < end:
        part = os.pread(descriptor, end - start, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def hash_block(descriptor: int, block: int, size: int, *, mark_holes: bool = True) -> bytes:
    """Hash of a block of a file that counts as `size` long; what is missing counts as zeros.

    Without `mark_holes` a hole counts as the zeros that it reads as: file systems differ in what
    they call a hole, which no proof of equal content may stumble over.
    """
    start = block * BLOCK_BYTES
    end = min(start + BLOCK_BYTES, size)
    if is_hole(descriptor, start, end):
        return HOLE if mark_holes else hash_bytes(b"")
    return hash_bytes(read_range(descriptor, start, end))


def hash_bytes(data: bytes) -> bytes:
    """Hash of a block's content; zeros at its end do not change it (a hole may begin there)."""
    return blake3(data.rstrip(b"\0")).digest(length=HASH_BYTES)


def hash_blocks(descriptor: int, first: int, count: int, size: int) -> bytes:
    """Hashes of `count` blocks behind each other."""
    return b"".join(hash_block(descriptor, first + n, size) for n in range(count))


def piece_hashes(descriptor: int, block: int, size: int) -> bytes:
    """Hashes of the pieces of a block of a file that counts as `size` long."""
    start = block * BLOCK_BYTES
    data = read_range(descriptor, start, min(start + BLOCK_BYTES, size))
    return b"".join(
        blake3(data[at : at + PIECE_BYTES].rstrip(b"\0")).digest(length=PIECE_HASH_BYTES)
        for at in range(0, len(data), PIECE_BYTES)
    )


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset += count
