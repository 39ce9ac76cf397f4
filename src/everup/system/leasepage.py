"""The deadline page: until when this server may answer, in memory that two processes share.

What enters: epoch and deadline, written by the keeper only. What leaves: the same, read by the
guard on every operation, without a message and without a lock (a sequence lock: the counter is
odd while the page is being written).

Layout (64 bytes, little endian): magic "EVRLEAS1", counter u64, epoch u64, deadline u64
(CLOCK_BOOTTIME in nanoseconds, 0 = no lease), boot id 16 bytes, 16 bytes reserved.
"""

import mmap
import os
import struct
from pathlib import Path

PAGE_BYTES = 64
MAGIC = b"EVRLEAS1"
_COUNTER = struct.Struct("<Q")
_BODY = struct.Struct("<QQ16s16x")
_WHOLE = struct.Struct("<8sQQQ16s16x")
_READ_TRIES_MAX = 100


def _map(path: Path, writable: bool) -> mmap.mmap:
    flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        if writable:
            # Not only truncated: a full /run would kill the keeper when it writes (SIGBUS).
            os.posix_fallocate(descriptor, 0, PAGE_BYTES)
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return mmap.mmap(descriptor, PAGE_BYTES, access=access)
    finally:
        os.close(descriptor)


class LeasePageWriter:
    """The keeper's side. A new writer keeps what the page says, so a restart loses no lease."""

    def __init__(self, path: Path, boot_id: bytes) -> None:
        self._page = _map(path, writable=True)
        self._boot_id = boot_id
        magic, counter, epoch, deadline, boot = _WHOLE.unpack_from(self._page)
        self._counter = counter + (counter & 1)
        self.epoch, self.deadline_ns = (epoch, deadline)
        if magic != MAGIC or boot != boot_id:
            self.write(0, 0)

    def write(self, epoch: int, deadline_ns: int) -> None:
        """Publish a lease of `epoch` until `deadline_ns`; 0 as deadline clears it."""
        page = self._page
        page[0:8] = MAGIC
        _COUNTER.pack_into(page, 8, self._counter + 1)
        _BODY.pack_into(page, 16, epoch, deadline_ns, self._boot_id)
        self._counter += 2
        _COUNTER.pack_into(page, 8, self._counter)
        self.epoch, self.deadline_ns = (epoch, deadline_ns)


class LeasePageReader:
    """The guard's side: opens the page when it appears, answers (0, 0) until then."""

    def __init__(self, path: Path, boot_id: bytes) -> None:
        self._path = path
        self._boot_id = boot_id
        self._page: mmap.mmap | None = None

    def read(self) -> tuple[int, int]:
        """(epoch, deadline in CLOCK_BOOTTIME nanoseconds); (0, 0) means no lease."""
        page = self._page
        if page is None:
            page = self._open()
            if page is None:
                return (0, 0)
        for _ in range(_READ_TRIES_MAX):
            magic, counter, epoch, deadline, boot = _WHOLE.unpack_from(page)
            if counter & 1 == 0 and _COUNTER.unpack_from(page, 8)[0] == counter:
                if magic != MAGIC or boot != self._boot_id:
                    return (0, 0)
                return (epoch, deadline)
        return (0, 0)

    def _open(self) -> mmap.mmap | None:
        try:
            if self._path.stat().st_size < PAGE_BYTES:
                return None
            self._page = _map(self._path, writable=False)
        except FileNotFoundError:
            return None
        return self._page
