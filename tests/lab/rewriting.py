"""Blocks of files that are rewritten and forced to the disk one by one, without end.

What enters: run as a program, a directory on the protected mount; imported, a ground and a server.
What leaves: files that were synced as a whole before, blocks of which are rewritten by `pwrite` and
`fdatasync` (which leaves no time of a change on the disk), and a line for each one that returned.
The program runs inside a lab server: standard library only.
"""

import os
import random
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILES = 600
BLOCK_BYTES = 4096
BLOCKS = 16
THREADS = 4
READY = "ready"
_STAMP = struct.Struct("<Q")


def prepare(directory: Path) -> list[int]:
    """All files, whole and on the disk; open."""
    directory.mkdir(exist_ok=True)
    found = []
    for number in range(FILES):
        found.append(os.open(directory / f"f{number}", os.O_RDWR | os.O_CREAT))
        os.pwrite(found[-1], bytes(BLOCKS * BLOCK_BYTES), 0)
    os.sync()
    return found


def rewrite(files: list[int], thread: int) -> None:
    """This thread's share of the files, at random; a line says (file, block, stamp)."""
    chance = random.Random()
    stamp = 0
    while True:
        number = chance.randrange(FILES // THREADS) * THREADS + thread
        block = chance.randrange(BLOCKS)
        stamp += 1
        data = _STAMP.pack(stamp) * (BLOCK_BYTES // _STAMP.size)
        try:
            os.pwrite(files[number], data, block * BLOCK_BYTES)
            os.fdatasync(files[number])
        except OSError:
            # The disk has lost its power, and we have a moment left.
            return
        os.write(1, f"{number} {block} {stamp}\n".encode())


def main(directory: Path) -> None:
    files = prepare(directory)
    os.write(1, f"{READY}\n".encode())
    for thread in range(THREADS):
        threading.Thread(target=rewrite, args=(files, thread), daemon=True).start()
    threading.Event().wait()


class Rewriting:
    """The program on a lab server; `lines` are the blocks that were forced to the disk so far."""

    def __init__(self, log: Path) -> None:
        self._log = log

    @property
    def ready(self) -> bool:
        return self._log.read_text().startswith(READY)

    @property
    def lines(self) -> list[tuple[int, int, int]]:
        whole = self._log.read_text().rpartition("\n")[0].split("\n")[1:]
        return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in whole)]

    def missing(self, directory: Path) -> list[tuple[int, int, int]]:
        """Blocks that were forced to the disk and are older than that below `directory`."""
        newest = {(number, block): stamp for number, block, stamp in self.lines}
        found = []
        for (number, block), stamp in newest.items():
            with (directory / f"f{number}").open("rb") as file:
                file.seek(block * BLOCK_BYTES)
                (there,) = _STAMP.unpack(file.read(_STAMP.size))
            if there < stamp:
                found.append((number, block, stamp))
        return found


@contextmanager
def rewriting(ground: Any, server: str, directory: str) -> Iterator[Rewriting]:
    """The program runs on `server` while the block does, or until its power is cut."""
    log = ground.lab.directory / "rewriting.log"
    program = ["python3", "-c", Path(__file__).read_text(), directory]
    process = ground.server(server).start(program, log)
    try:
        yield Rewriting(log)
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
