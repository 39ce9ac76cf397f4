"""The open batch, seen at any moment as a killed process would leave it."""

import mmap
import os
import signal
import time
from pathlib import Path

from everup.journal.openbatch import OpenBatch
from everup.model.position import CHECKSUM_BYTES, Position

WATCH_S = 0.4
READS_AT_ONCE = 1000
APPENDS = 1000


def test_the_length_is_never_less_than_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "open-batch"
    batch = OpenBatch(path)
    batch.begin(Position(1, 1, bytes(CHECKSUM_BYTES)))
    batch.append(b"first", b"")
    with path.open("rb") as file:
        length = memoryview(mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ))[:8].cast("Q")
    child = os.fork()
    if not child:
        while True:
            batch.keep(len(b"first"))
            for _ in range(APPENDS):
                batch.append(b"more", b"")
    try:
        give_up = time.monotonic() + WATCH_S
        shortest = length[0]
        while time.monotonic() < give_up:
            shortest = min(shortest, *(length[0] for _ in range(READS_AT_ONCE)))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert shortest == len(b"first")
