"""Memory of a worker that knows a million files, and over ten million changes of what it knows.

What enters: counts, as arguments (files, changes). What leaves: JSON lines with sizes in bytes. A
process of its own, with everything loaded that a worker loads, and the node table filled directly:
through a mount the same would take an hour. What a mount adds is bounded: 8,192 open descriptors
and the buffers of its threads.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import everup.capture.worker
from everup.capture.nodes import NodeTable

PARTS = 10


def resident() -> int:
    """Bytes of this process in memory, the shared pages among them."""
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) * 1024


def tell(**values: float | str) -> None:
    print(json.dumps(values), flush=True)


def main(files: int, changes: int) -> None:
    assert everup.capture.worker
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    chance = random.Random(1)
    unique = 0

    def node_of(inode: int) -> int:
        return chance.getrandbits(32) << 32 | inode

    try:
        table = NodeTable(directory)
        nodes = [node_of(inode) for inode in range(100, 100 + files)]
        for number, node in enumerate(nodes):
            unique += 2
            table.learn(number % 6, unique, [(node, nodes[number // 1000], b"f%012d.dat" % number)])
        tell(state="filled", changes=0, resident=resident())
        for change in range(1, changes + 1):
            number = chance.randrange(files)
            unique += 4
            table.forget(change % 6, unique - 2, [(nodes[number], 1)])
            nodes[number] = node = node_of(number + 100)
            table.learn(change % 6, unique, [(node, nodes[number // 1000], b"f%012d" % change)])
            if change % (changes // PARTS) == 0:
                tell(state="changing", changes=change, resident=resident())
        assert len(table) == files and table.miscounted == 0
        del table
        begin = time.monotonic()
        assert len(NodeTable(directory)) == files
        tell(state="found again", seconds=round(time.monotonic() - begin, 2))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
