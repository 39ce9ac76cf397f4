"""Asks the echo on the public address every 20 ms and writes down who answers when.

What enters: address, port, file. What leaves: one line per answer: monotonic seconds of the answer,
monotonic seconds of its question, name of the server. Lines are flushed at once; the host reads
the file while we write. Questions never wait for answers.
"""

import select
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

INTERVAL_S = 0.02


def probe(address: str, port: int, path: Path) -> None:
    """Ask until killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened,
        path.open("a", buffering=1) as answers,
    ):
        opened.setblocking(False)
        due = time.monotonic()
        while True:
            try:
                opened.sendto(f"{time.monotonic():.6f}".encode(), (address, port))
            except OSError:
                pass  # nobody has the address now
            due += INTERVAL_S
            _listen_until(due, opened, answers)


def _listen_until(due: float, opened: socket.socket, answers: TextIO) -> None:
    while (left := due - time.monotonic()) > 0:
        readable, _, _ = select.select([opened], [], [], left)
        if not readable:
            return
        try:
            words = opened.recv(512).decode().split()
        except OSError:
            continue  # an ICMP answer: the port is closed there
        if len(words) == 2:
            print(f"{time.monotonic():.6f} {words[0]} {words[1]}", file=answers)


if __name__ == "__main__":
    probe(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
