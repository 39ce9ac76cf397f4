"""The netlink messages that the public address needs, encoded by hand.

What enters: typed values. What leaves: bytes for a netlink socket, and its answers checked. Called
by permission and address. pyroute2 was measured and left out: its import takes 230 ms, the process
that needs this has to be back within 200 ms.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

REQUEST, ACK, DUMP, REPLACE, EXCLUDE, CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
ANSWER_BYTES = 65536


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute in `data`."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & ~_NESTED, data[_ATTRIBUTE.size : length]
        data = data[length + (-length % 4) :]


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


class NetlinkSocket:
    """One socket of one netlink family; calls wait for the kernel's answer (at most 1 s)."""

    def __init__(self, family: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, family)
        self._socket.settimeout(1)
        self._socket.bind((0, 0))
        self.sequence = 0

    def close(self) -> None:
        self._socket.close()

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def send(self, data: bytes) -> None:
        self._socket.send(data)

    def answers(self) -> Iterator[tuple[int, int, bytes]]:
        """(kind, sequence, body) of the messages of the next datagram."""
        data = self._socket.recv(ANSWER_BYTES)
        while len(data) >= _HEADER.size:
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            if not _HEADER.size <= length <= len(data):
                return
            yield kind, sequence, data[_HEADER.size : length]
            data = data[length + (-length % 4) :]

    def call(self, data: bytes, last_sequence: int) -> None:
        """Send and wait for the acknowledgement of `last_sequence`. Raises OSError."""
        self.send(data)
        while True:
            for kind, sequence, body in self.answers():
                if kind != _ERROR:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    self._drain()
                    raise OSError(code, os.strerror(code))
                if sequence == last_sequence:
                    return

    def dump(self, data: bytes) -> list[tuple[int, bytes]]:
        """Send a dump request; all (kind, body) of its answer. Raises OSError."""
        self.send(data)
        found: list[tuple[int, bytes]] = []
        while True:
            for kind, _, body in self.answers():
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, os.strerror(code))
                found.append((kind, body))

    def _drain(self) -> None:
        """Forget what else is said about a call that has failed."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(ANSWER_BYTES):
                pass
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                raise
        finally:
            self._socket.settimeout(1)
