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
    Range,
    block_count,
    data_ranges,
    hash_block,
    read_range,
)
from everup.replicate.syncchannel import SyncChannel
from everup.wire.syncmessages import FileEnd, Have, Hole

FILES_OPEN_MAX = 128
SEND_BYTES = 1 << 20


@dataclass
class _Open:
    """A file whose blocks the target may still ask for."""

    descriptor: int
    size: int
    mtime_ns: int


class ContentSource:
    """`absorb(timeout_ms)` takes what has come on the channel and hands its Haves to `note`."""

    def __init__(self, channel: SyncChannel, absorb: Callable[[int], None]) -> None:
        self._channel = channel
        self._absorb = absorb
        self._files: dict[int, _Open] = {}
        self._haves: deque[Have] = deque()
        self._next_handle = 1
        self.done_bytes = 0

    def open(self, descriptor: int) -> int:
        """Take over an open file; its handle."""
        status = os.fstat(descriptor)
        handle = self._next_handle
        self._next_handle += 1
        self._files[handle] = _Open(descriptor, status.st_size, status.st_mtime_ns)
        return handle

    def note(self, have: Have) -> None:
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

    def _serve(self, have: Have) -> None:
        file = self._files.get(have.handle)
        if file is None:
            raise ProtocolError(f"file {have.handle} is not open", code="sync-order")
        blocks = block_count(file.size)
        count = len(have.hashes) // HASH_BYTES
        for index in range(min(count, blocks - have.first_block)):
            theirs = have.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
            block = have.first_block + index
            mine = hash_block(file.descriptor, block, file.size)
            if mine != theirs:
                self._send_block(have.handle, file, block, mine, theirs)
        if have.last:
            start = (have.first_block + count) * BLOCK_BYTES
            self._send_data(have.handle, file, Range(start, file.size))
            self._end_file(have.handle, file)

    def _send_block(self, handle: int, file: _Open, block: int, mine: bytes, theirs: bytes) -> None:
        start = block * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, file.size)
        ranges = [] if mine == HOLE else list(data_ranges(file.descriptor, start, end))
        whole = ranges == [Range(start, end)]
        if theirs != HOLE and not whole:
            self._channel.send(Hole(handle, start, end - start))
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
