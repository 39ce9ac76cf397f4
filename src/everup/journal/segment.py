"""Files of a journal: names, headers, appending, listing.

What enters: bytes of records. What leaves: segments on disk. Called by the guard's writer and by
the receive log of the replicator, which keep the same format.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

from everup.errors import Corrupt
from everup.limits import SEGMENT_BYTES
from everup.model.position import Position
from everup.system.files import REAL_DOOR, Door, sync_directory

MAGIC = b"EVSEGM01"
HEADER = Struct("<8sQQQ16sI8xI")
HEADER_BYTES = HEADER.size
SUFFIX = ".segment"
AFTER_GAP = 1
"""Flag of a segment that does not go on where the one before it ends."""

assert HEADER_BYTES == 64

Buffer = bytes | bytearray | memoryview


class SegmentInfo(NamedTuple):
    """A segment on disk and the position at which it begins."""

    path: Path
    first_sequence: int
    start: Position
    byte_count: int
    after_gap: bool = False
    """What was changed between the segment before and this one is not in the journal."""


def encode_header(first_sequence: int, start: Position, flags: int = 0) -> bytes:
    head = HEADER.pack(MAGIC, first_sequence, start.epoch, start.sequence, start.checksum, flags, 0)
    return head[:60] + crc32c(head[:60]).to_bytes(4, "little")


def decode_header(path: Path, data: bytes) -> tuple[int, Position, bool]:
    """(first sequence, position at the start, behind a gap). Raises Corrupt."""
    if len(data) < HEADER_BYTES:
        raise Corrupt(f"segment {path} has no whole header", code="segment-header")
    magic, first, epoch, sequence, checksum, flags, check = HEADER.unpack_from(data)
    if magic != MAGIC or crc32c(data[:60]) != check:
        raise Corrupt(f"the header of segment {path} is damaged", code="segment-header")
    if first != sequence + 1 or path.name != segment_path(path.parent, first).name:
        raise Corrupt(
            f"segment {path} holds what follows {epoch}/{sequence}, which is not its name",
            code="segment-foreign",
        )
    return first, Position(epoch, sequence, checksum), bool(flags & AFTER_GAP)


def segment_path(directory: Path, first_sequence: int) -> Path:
    return directory / f"{first_sequence:016x}{SUFFIX}"


def list_segments(directory: Path) -> list[SegmentInfo]:
    """All segments in order. Raises Corrupt for a damaged header and for a file that only looks
    like a segment (another name, a link, a copy).

    A last segment whose header was never written whole (power cut right after its creation) holds
    nothing and is left out.
    """
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    found = []
    for path in paths:
        try:
            size, head = _head(path)
        except FileNotFoundError:
            # Released at this moment.
            continue
        if path == paths[-1] and (len(head) < HEADER_BYTES or not any(head)):
            continue
        first, start, after_gap = decode_header(path, head)
        found.append(SegmentInfo(path, first, start, size, after_gap))
    return found


def _head(path: Path) -> tuple[int, bytes]:
    """Size and header; never waits on a file that is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as problem:
        if problem.errno not in (errno.ELOOP, errno.EACCES, errno.ENXIO):
            raise
        raise Corrupt(
            f"{path} cannot be opened as a segment: {problem.strerror}", code="segment-foreign"
        ) from problem
    try:
        status = os.fstat(descriptor)
        if not S_ISREG(status.st_mode):
            raise Corrupt(f"{path} is not a file", code="segment-foreign")
        return status.st_size, os.pread(descriptor, HEADER_BYTES, 0)
    finally:
        os.close(descriptor)


class SegmentAppender:
    """Appends to the newest segment and begins the next one at a batch border.

    Not locked: its owner orders the calls. Raises OSError; after a failed append the segment is
    cut back to what it held before, so that a full disk leaves no half record behind.
    """

    def __init__(
        self,
        directory: Path,
        door: Door = REAL_DOOR,
        operation: str = "append",
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._door = door
        self._operation = operation
        self._descriptor = -1
        self.path: Path | None = None
        self.offset = 0
        self.unsynced = False
        self._trouble: OSError | None = None

    def open_at(self, path: Path, offset: int) -> None:
        """Go on in an existing segment; what lies behind `offset` is cut."""
        self.close()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(self._descriptor, offset)
        self.path, self.offset = path, offset
        # Whoever wrote before us may not have come to the sync.
        self.unsynced = True

    def begin(self, first_sequence: int, start: Position) -> None:
        """Start a new segment; the one before it is made durable first."""
        self.sync()
        self.close()
        path = segment_path(self._directory, first_sequence)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self.path, self.offset = path, 0
        self.append([encode_header(first_sequence, start)])
        sync_directory(self._directory, self._operation, self._door)

    @property
    def full(self) -> bool:
        return self.offset >= self._segment_bytes or self._descriptor < 0

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write the buffers behind each other; returns the offset at which they begin."""
        before = self.offset
        length = sum(map(len, buffers))
        try:
            written = os.pwritev(self._descriptor, buffers, before)
            if written != length:
                rest = memoryview(b"".join(buffers))[written:]
                while rest:
                    count = os.pwrite(self._descriptor, rest, before + length - len(rest))
                    rest = rest[count:]
        except OSError as problem:
            if self._descriptor < 0:
                raise self._trouble or problem from None
            os.ftruncate(self._descriptor, before)
            raise
        self.offset = before + length
        self.unsynced = True
        return before

    def sync(self) -> None:
        """Make everything appended so far durable."""
        if self.unsynced and self._descriptor >= 0:
            self.unsynced = False
            try:
                self._door.fdatasync(self._operation, self._descriptor)
            except OSError:
                self.unsynced = True
                raise

    def forget(self, trouble: OSError | None = None) -> None:
        """Stand in no segment; appending raises `trouble` until one is opened or begun."""
        self.close()
        self.path, self.offset, self.unsynced, self._trouble = None, 0, False, trouble

    def duplicate(self) -> int:
        """A descriptor of the current segment, for a sync outside the owner's lock."""
        return os.dup(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
