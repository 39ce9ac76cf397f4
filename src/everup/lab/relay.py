"""A slow cable: copies frames between two devices, late and at a limited rate.

Run as a file, with the standard library alone: `relay.py GROUP_FILE DEVICE DEVICE RATE DELAY` (bit
per second, 0 = unlimited; milliseconds, added in each direction). Written because netem is often
not in the kernel. Frames keep the virtio header of their packet socket, so that unfinished
checksums and large segments pass as they are. Each direction holds at most a bounded number of
bytes; what comes on top is dropped, as a switch does.
"""

import os
import selectors
import socket
import sys
import time
from collections import deque

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_LARGEST_FRAME = 70_000
_QUEUE_BYTES = 4 << 20


class Direction:
    """Frames under way from one end to the other."""

    def __init__(self, source: socket.socket, target: socket.socket, rate: int, delay_s: float):
        self._source = source
        self._target = target
        self._rate = rate
        self._delay_s = delay_s
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._line_free_at = 0.0

    def take(self, now: float) -> None:
        """Read what has arrived."""
        while True:
            try:
                frame = self._source.recv(_LARGEST_FRAME)
            except BlockingIOError:
                return
            if self._queued_bytes + len(frame) > _QUEUE_BYTES:
                continue
            start = max(now, self._line_free_at)
            seconds = len(frame) * 8 / self._rate if self._rate else 0.0
            self._line_free_at = start + seconds
            self._queue.append((self._line_free_at + self._delay_s, frame))
            self._queued_bytes += len(frame)

    def give(self, now: float) -> float | None:
        """Send what is due; returns when the next frame is."""
        while self._queue:
            due, frame = self._queue[0]
            if due > now:
                return due
            self._queue.popleft()
            self._queued_bytes -= len(frame)
            try:
                self._target.send(frame)
            except OSError:
                continue  # the cable is down or its buffer full: the frame is lost, as on a wire
        return None


def open_device(device: str) -> socket.socket:
    """A packet socket that sees only what arrives at `device`."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
    opened.bind((device, _ETH_P_ALL))
    opened.setblocking(False)
    return opened


def main(group_file: str, one: str, other: str, rate: int, delay_ms: float) -> None:
    with open(group_file, "w", encoding="ascii") as handle:  # noqa: PTH123 - import of pathlib costs 5 ms
        handle.write(str(os.getpid()))
    ends = [open_device(one), open_device(other)]
    directions = [
        Direction(ends[0], ends[1], rate, delay_ms / 1000),
        Direction(ends[1], ends[0], rate, delay_ms / 1000),
    ]
    selector = selectors.DefaultSelector()
    for end, direction in zip(ends, directions, strict=True):
        selector.register(end, selectors.EVENT_READ, direction)
    os.write(1, b"ready\n")
    os.close(1)
    while True:
        now = time.monotonic()
        due = [moment for moment in (each.give(now) for each in directions) if moment is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        for key, _ in selector.select(timeout):
            try:
                key.data.take(time.monotonic())
            except OSError:
                # A cable that goes down reports it once; one that was removed never comes back.
                if not (_exists(one) and _exists(other)):
                    return


def _exists(device: str) -> bool:
    try:
        return socket.if_nametoindex(device) > 0
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
