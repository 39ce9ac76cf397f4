"""One file of the target while a copy is made: what it has, and what comes in.

What enters: blocks and holes of the source. What leaves: hashes of the content here, part by part,
so that a large file is hashed while its first blocks are already on their way. Called by
`synctarget`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator

from everup.replicate.blocks import block_count, hash_blocks, piece_hashes, write_all
from everup.replicate.operations import UNSUPPORTED, ZEROS
from everup.replicate.scope import Run
from everup.replicate.writebehind import WriteBehind
from everup.system.kernelcalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, allocate

PART_BLOCKS = 512
"""64 MiB are hashed at a time."""
BEHIND_FROM_BYTES = 256 << 10


class FileCopy:
    """Owns the descriptor; `changing` is called once, before the first change."""

    def __init__(
        self, descriptor: int, changing: Callable[[], None], runs: list[Run] | None = None
    ) -> None:
        """`runs`: the blocks that are compared; None: all."""
        self._descriptor = descriptor
        self._behind: WriteBehind | None = None
        self._changing: Callable[[], None] | None = changing
        self._size = os.fstat(descriptor).st_size
        self._parts = deque(_parts(runs, block_count(self._size)))

    def next_part(self) -> tuple[int, bytes, bool]:
        """(first block, hashes, whether it is the last part)."""
        first, count = self._parts.popleft()
        hashes = hash_blocks(self._descriptor, first, count, self._size)
        return first, hashes, not self._parts

    def fine_hashes(self, blocks: list[int]) -> bytes:
        """Hashes of the pieces of blocks that the source has found to differ."""
        self._settle()
        return b"".join(piece_hashes(self._descriptor, block, self._size) for block in blocks)

    def write(self, offset: int, data: bytes, behind: WriteBehind) -> None:
        """Long writes go on `behind` the caller. Raises OSError, also of an earlier one."""
        self._change()
        if len(data) < BEHIND_FROM_BYTES:
            # Not before the others: the file would have its size, and a hole if they fail.
            self._settle()
            write_all(self._descriptor, data, offset)
            return
        self._behind = behind
        behind.write(self._descriptor, data, offset)

    def _settle(self) -> None:
        """Nothing is written behind any more. Raises OSError."""
        if self._behind is not None:
            behind, self._behind = self._behind, None
            behind.drain()

    def punch(self, offset: int, length: int) -> None:
        self._settle()
        end = min(offset + length, os.fstat(self._descriptor).st_size)
        if end <= offset:
            return
        self._change()
        try:
            mode = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE
            allocate(self._descriptor, mode, offset, end - offset)
        except OSError as problem:
            if problem.errno not in UNSUPPORTED:
                raise
            while offset < end:
                count = min(len(ZEROS), end - offset)
                write_all(self._descriptor, ZEROS[:count], offset)
                offset += count

    def end(self, size: int, mtime_ns: int) -> None:
        """Size and time as on the source; the file is closed."""
        self._settle()
        if os.fstat(self._descriptor).st_size != size:
            self._change()
            os.ftruncate(self._descriptor, size)
        os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            if self._behind is not None:
                # Its number must not become another file's while somebody writes to it.
                self._behind.wait()
            os.close(self._descriptor)
            self._descriptor = -1

    def _change(self) -> None:
        if self._changing is not None:
            changing, self._changing = self._changing, None
            changing()


def _parts(runs: list[Run] | None, blocks: int) -> Iterator[Run]:
    """What is hashed at a time. The last part always ends where the file does: what the source has
    behind it is missing here."""
    wanted = [(0, blocks)] if runs is None else [*runs, (max(0, blocks - 1), blocks)]
    done = 0
    for first, count in wanted:
        start, end = max(first, done), min(first + count, blocks)
        while end - start > PART_BLOCKS:
            yield start, PART_BLOCKS
            start += PART_BLOCKS
        if start < end:
            yield start, end - start
            done = end
    if done < blocks or not blocks:
        yield blocks, 0
