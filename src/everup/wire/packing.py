"""Bodies of frames, compressed and back (pure).

What enters: the bytes of a batch or of a file. What leaves: an encoding and a body, and back.
Called by `frames`. Format: docs/protocol/replication.md.

With a peer that can, all bodies of a connection go through one context, so that what repeats
something of an earlier body costs a few bytes: a database writes the same block of its log again
and again, each time with a little more in it. The context is flushed behind every body. Another
peer gets every body compressed by itself.
"""

from typing import IO, cast

import zstandard

from everup.errors import ProtocolError
from everup.wire.levels import LADDER, SLOW_FROM, Rung

ENCODING_RAW = 0
ENCODING_ZSTD = 1
ENCODING_BEGIN = 2
"""The first body of a context; what an earlier context knew is forgotten."""
ENCODING_MORE = 3
"""A further body of the context."""

COMPRESSED_FROM_BYTES = 256
"""Shorter bodies are not worth the call."""
STREAMED_FROM_BYTES = 64
"""In a context little is enough: most of it was said before."""
PAYS_ABOVE = 1.05
"""Compressing pays when raw / compressed is at least this."""
SKIPPED_MAX = 16
TABLE_LOG_MAX = 22
"""Bounds the compressor's two tables (2^22 entries of 4 bytes each)."""
WINDOW_LOG_MAX = 24
"""A peer that wants more memory than this from us (2^24 bytes) is refused."""

Packed = tuple[int, bytes | memoryview]


class Packer:
    """Compresses bodies when it pays. One thread at a time.

    After bodies that did not pay it skips the attempt for a while (up to 16 bodies), since random
    or already compressed data tends to come in runs; not on the rungs for slow links, where a
    repeat of such data is worth finding.
    """

    def __init__(self) -> None:
        self.in_context = False
        """The peer can undo contexts."""
        self._rung = LADDER[0]
        self._compressor: zstandard.ZstdCompressor | None = None
        self._context: zstandard.ZstdCompressionObj | None = None
        self._skip = 0
        self._skip_next = 1

    def use(self, rung: Rung) -> None:
        """From the next body on."""
        if rung != self._rung:
            self._rung = rung
            self._compressor = self._context = None
            self._skip = 0

    @property
    def level(self) -> int:
        return self._rung.level

    def pack(self, data: bytes | memoryview) -> Packed:
        """(encoding, body)."""
        if len(data) < (STREAMED_FROM_BYTES if self.in_context else COMPRESSED_FROM_BYTES):
            return ENCODING_RAW, data
        if self._skip:
            self._skip -= 1
            return ENCODING_RAW, data
        encoding, body = self._in_context(data) if self.in_context else self._alone(data)
        if len(body) * PAYS_ABOVE <= len(data):
            self._skip_next = 1
            return encoding, body
        if self._rung in LADDER[:SLOW_FROM]:
            self._skip = self._skip_next
            self._skip_next = min(SKIPPED_MAX, self._skip_next * 2)
        # What a context has taken in must arrive, or it would refer to what nobody got.
        return (encoding, body) if self.in_context else (ENCODING_RAW, data)

    def _alone(self, data: bytes | memoryview) -> Packed:
        if self._compressor is None:
            self._compressor = zstandard.ZstdCompressor(level=self._rung.level)
        return ENCODING_ZSTD, self._compressor.compress(data)

    def _in_context(self, data: bytes | memoryview) -> Packed:
        encoding = ENCODING_MORE
        if self._context is None:
            parameters = context_parameters(self._rung)
            compressor = zstandard.ZstdCompressor(compression_params=parameters)
            self._context = compressor.compressobj()
            encoding = ENCODING_BEGIN
        context = self._context
        return encoding, context.compress(data) + context.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


def context_parameters(rung: Rung) -> zstandard.ZstdCompressionParameters:
    """zstd's own choice for the level, but for the window and for tables that are bounded."""
    usual = zstandard.ZstdCompressionParameters.from_level(rung.level)
    return zstandard.ZstdCompressionParameters.from_level(
        rung.level,
        window_log=rung.window_log,
        hash_log=min(usual.hash_log, TABLE_LOG_MAX),
        chain_log=min(usual.chain_log, TABLE_LOG_MAX),
    )


class _Feed:
    """Where a context reads from: one body at a time."""

    def __init__(self) -> None:
        self.left = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        if not self.left:
            raise ProtocolError("a compressed body is shorter than it says", code="frame-body")
        part = bytes(self.left if size < 0 else self.left[:size])
        self.left = self.left[len(part) :]
        return part


class Unpacker:
    """Undoes `Packer`. One thread at a time; bodies in the order in which they were packed."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG_MAX)
        self._feed = _Feed()
        self._context: zstandard.ZstdDecompressionReader | None = None

    def unpack(self, encoding: int, body: memoryview, length: int) -> bytes:
        """The raw bytes, exactly `length` of them. Raises ProtocolError."""
        if encoding == ENCODING_RAW:
            raw = bytes(body)
        elif encoding in (ENCODING_ZSTD, ENCODING_BEGIN, ENCODING_MORE):
            try:
                raw = self._unpacked(encoding, body, length)
            except zstandard.ZstdError as problem:
                raise ProtocolError(
                    f"a compressed body is not readable: {problem}", code="frame-body"
                ) from problem
        else:
            raise ProtocolError(f"unknown encoding {encoding}", code="frame-encoding")
        if len(raw) != length:
            raise ProtocolError("a body has a wrong size", code="frame-body")
        return raw

    def _unpacked(self, encoding: int, body: memoryview, length: int) -> bytes:
        if encoding == ENCODING_ZSTD:
            if zstandard.get_frame_parameters(body).content_size != length:
                raise ProtocolError("a compressed body has a wrong size", code="frame-body")
            return self._decompressor.decompress(body, max_output_size=length)
        if encoding == ENCODING_BEGIN:
            self._feed = _Feed()
            self._context = self._decompressor.stream_reader(cast(IO[bytes], self._feed))
        if self._context is None:
            raise ProtocolError("a context goes on that never began", code="frame-body")
        self._feed.left = body
        raw = self._context.read(length)
        if self._feed.left:
            raise ProtocolError("a compressed body is longer than it says", code="frame-body")
        return raw
