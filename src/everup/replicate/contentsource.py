"""The source's side of a copy: content of files, as far as the target lacks it.

What enters: open files, and hashes of what the target has of each. What leaves: the blocks that
differ, holes, and the end of each file. Owned by `copysource`, on its thread.
"""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from everup.errors import ProtocolError
from everup.replicate.blocks import (
    BLOCK_BYTES,
    HASH_BYTES,
    HOLE,
    PIECE_BYTES,
    PIECE_HASH_BYTES,
    Range,
    block_count,
    data_ranges,
    hash_block,
    piece_hashes,
    read_range,
)
from everup.replicate.syncchannel import SyncChannel
from everup.wire.messages import FINE
from everup.wire.syncmessages import FINER_BLOCKS_MAX, FileEnd, Fine, Finer, Have, Hole

FILES_OPEN_MAX = 128
SEND_BYTES = 1 << 20
TRIED_BYTES = 4 << 20
"""After this much of a file it is known whether finer comparing pays there."""
PAYS_PERCENT = 25
"""It does when at least this part of the blocks that differ was equal after all."""


@dataclass
class _Open:
    """A file whose blocks the target may still ask for."""

    descriptor: int
    size: int
    mtime_ns: int
    asked: int = 0
    """Fine answers that are still to come."""
    sent: bool = False
    """Nothing but these is missing."""
    differing_bytes: int = 0
    """Of blocks that were compared in pieces."""
    equal_bytes: int = 0

    @property
    def finer_pays(self) -> bool:
        tried = self.differing_bytes
        return tried < TRIED_BYTES or self.equal_bytes * 100 >= tried * PAYS_PERCENT


class ContentSource:
    """`absorb(timeout_ms)` takes what has come on the channel and hands its Haves to `note`."""

    def __init__(self, channel: SyncChannel, absorb: Callable[[int], None]) -> None:
        self._channel = channel
        self._absorb = absorb
        self._files: dict[int, _Open] = {}
        self._haves: deque[Have | Fine] = deque()
        self._next_handle = 1
        self.done_bytes = 0

    def open(self, descriptor: int) -> int:
        """Take over an open file; its handle."""
        status = os.fstat(descriptor)
        handle = self._next_handle
        self._next_handle += 1
        self._files[handle] = _Open(descriptor, status.st_size, status.st_mtime_ns)
        return handle

    def note(self, have: Have | Fine) -> None:
        self._haves.append(have)

    def pump(self) -> None:
        """Serve what the target asks for, until there is room for more."""
        self._absorb(0)
        while self._haves or self._channel.clogged or len(self._files) > FILES_OPEN_MAX:
            if self._haves:
                self._serve(self._haves.popleft())
            else:
                self._absorb(200)

    def finish(self) -> None:
        """Until every file has been sent."""
        while self._files:
            self.pump()
            if self._files and not self._haves:
                self._absorb(200)

    def close(self) -> None:
        for file in self._files.values():
            os.close(file.descriptor)
        self._files.clear()

    def _serve(self, message: Have | Fine) -> None:
        file = self._files.get(message.handle)
        if file is None:
            raise ProtocolError(f"file {message.handle} is not open", code="sync-order")
        if isinstance(message, Fine):
            self._send_pieces(message, file)
        else:
            self._send_blocks(message, file)
        if file.sent and not file.asked:
            self._end_file(message.handle, file)

    def _send_blocks(self, have: Have, file: _Open) -> None:
        blocks = block_count(file.size)
        count = len(have.hashes) // HASH_BYTES
        finer: list[int] = []
        for index in range(min(count, blocks - have.first_block)):
            theirs = have.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            block = have.first_block + index
            mine = hash_block(file.descriptor, block, file.size)
            if mine == theirs:
                continue
            if HOLE not in (mine, theirs) and FINE in self._channel.features and file.finer_pays:
                finer.append(block)
                if len(finer) == FINER_BLOCKS_MAX:
                    self._ask(have.handle, file, finer)
                    finer = []
            else:
                self._send_block(have.handle, file, block, mine, theirs)
        if finer:
            self._ask(have.handle, file, finer)
        if have.last:
            start = (have.first_block + count) * BLOCK_BYTES
            self._send_data(have.handle, file, Range(start, file.size))
            file.sent = True

    def _ask(self, handle: int, file: _Open, blocks: list[int]) -> None:
        file.asked += 1
        self._channel.send(Finer(handle, blocks))

    def _send_block(self, handle: int, file: _Open, block: int, mine: bytes, theirs: bytes) -> None:
        start = block * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, file.size)
        if mine == HOLE:
            self._channel.send(Hole(handle, start, end - start))
        else:
            self._send_range(handle, file, Range(start, end), holes=theirs != HOLE)

    def _send_pieces(self, fine: Fine, file: _Open) -> None:
        """Those pieces of the blocks that differ."""
        if not file.asked:
            raise ProtocolError("nobody asked for finer hashes", code="sync-order")
        file.asked -= 1
        at = 0
        for block in fine.blocks:
            start = block * BLOCK_BYTES
            mine = piece_hashes(file.descriptor, block, file.size)
            theirs = fine.hashes[at : at + BLOCK_BYTES // PIECE_BYTES * PIECE_HASH_BYTES]
            at += len(theirs)
            size = min(BLOCK_BYTES, file.size - start)
            file.differing_bytes += size
            file.equal_bytes += size
            for run in _differing(mine, theirs, start, start + size):
                file.equal_bytes -= run.end - run.start
                self._send_range(fine.handle, file, run, holes=True)

    def _send_range(self, handle: int, file: _Open, wanted: Range, *, holes: bool) -> None:
        """`holes`: the target may have data where there is none here."""
        ranges = list(data_ranges(file.descriptor, wanted.start, wanted.end))
        if holes and ranges != [wanted]:
            self._channel.send(Hole(handle, wanted.start, wanted.end - wanted.start))
        for data in ranges:
            self._send_data(handle, file, data)

    def _send_data(self, handle: int, file: _Open, wanted: Range) -> None:
        if wanted.start >= wanted.end:
            return
        for data in data_ranges(file.descriptor, wanted.start, wanted.end):
            at = data.start
            while at < data.end:
                part = read_range(file.descriptor, at, min(at + SEND_BYTES, data.end))
                if not part:
                    break
                self._channel.send_blocks(handle, at, part)
                at += len(part)
                while self._channel.clogged:
                    self._absorb(200)

    def _end_file(self, handle: int, file: _Open) -> None:
        self._channel.send(FileEnd(handle, file.size, file.mtime_ns, False))
        os.close(file.descriptor)
        del self._files[handle]
        self.done_bytes += file.size


def _differing(mine: bytes, theirs: bytes, start: int, end: int) -> list[Range]:
    """Ranges of a block whose pieces have other hashes; what the target lacks differs."""
    found: list[Range] = []
    step = PIECE_HASH_BYTES
    for at in range(0, len(mine), step):
        if mine[at : at + step] == theirs[at : at + step]:
            continue
        begin = start + at // step * PIECE_BYTES
        stop = min(begin + PIECE_BYTES, end)
        if found and found[-1].end == begin:
            found[-1] = Range(found[-1].start, stop)
        else:
            found.append(Range(begin, stop))
    return found
