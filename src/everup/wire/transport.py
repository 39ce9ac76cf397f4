"""Connections between replicators: TCP with mutual TLS 1.3.

What enters: addresses, the group's CA, this server's certificate and key. What leaves: frames.
Both sides must show a certificate of the group's CA; the peer's name is what its certificate says.
A `Connection` never blocks and belongs to one thread. Called by `replicate`.
"""

import math
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from everup.errors import DeadlinePassed, EverupError, NotConnected
from everup.places import Places
from everup.wire.bandwidth import Throttle
from everup.wire.frames import Frame, FrameDecoder
from everup.wire.linkspeed import LinkSpeed

CONNECT_MS = 1500
HANDSHAKE_MS = 3000
READ_BYTES = 256 << 10
READ_AT_ONCE_MAX = 4 << 20
"""After this much a caller gets its turn, even if more has arrived."""
WRITE_BYTES = 256 << 10
JOINED_BELOW_BYTES = 64 << 10
HELD_BYTES_MAX = 64 << 10
"""More than this is not held back."""
BACKLOG = 16


def server_context(places: Places) -> ssl.SSLContext:
    """For the listening side. Raises OSError when certificate, key or CA cannot be read."""
    return _context(ssl.PROTOCOL_TLS_SERVER, places)


def client_context(places: Places) -> ssl.SSLContext:
    """For the dialling side. Names are compared by the caller: addresses may change."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, places)


def _context(protocol: int, places: Places) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(places.certificate, places.private_key)
    context.load_verify_locations(cafile=places.ca_certificate)
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


def certificate_name(certificate: Any) -> str:
    """Name of a server in the form that `SSLSocket.getpeercert` gives; empty if it has none."""
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "DNS":
            return str(value)
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


class Connection:
    """Frames over one TLS socket. Raises NotConnected when the peer is gone."""

    throttle: Throttle | None = None
    """Limits what is sent; shared with the other connections to this peer."""

    def __init__(self, channel: ssl.SSLSocket, address: str) -> None:
        channel.setblocking(False)
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel = channel
        self._decoder = FrameDecoder()
        self._out: deque[memoryview] = deque()
        self._buffer = bytearray(READ_BYTES)
        self._more = False
        self._begun = 0
        self._held_until = 0.0
        self._speed = LinkSpeed()
        self.queued_bytes = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.address = address
        self.peer_name = certificate_name(channel.getpeercert())

    def fileno(self) -> int:
        return self._channel.fileno()

    def send(self, pieces: Sequence[bytes | memoryview], hold_ms: int = 0) -> None:
        """Queue a frame; `flush` (also called here) writes as much as the socket takes.

        `hold_ms`: it may wait so long for others that go with it; each by itself would cost a
        hundred bytes more on the wire. What may not wait takes along what does.
        """
        total = sum(map(len, pieces))
        if not hold_ms:
            self._held_until = 0.0
        elif not self._out:
            self._held_until = time.monotonic() + hold_ms / 1000
        if total < JOINED_BELOW_BYTES:
            self._out.append(memoryview(b"".join(pieces)))
        else:
            # A large body goes out in slices; only its short header would be a record of its own.
            head, *rest = pieces
            first = b"".join([head, *rest[:-1]])
            self._out.append(memoryview(first))
            body = memoryview(rest[-1])
            for offset in range(0, len(body), WRITE_BYTES):
                self._out.append(body[offset : offset + WRITE_BYTES])
        self.queued_bytes += total
        self.flush()

    def flush(self) -> bool:
        """Write what can be written, and may be, now; True when nothing is left."""
        if self._out and self._pause_ms() > 0:
            return False
        self._join_small()
        try:
            while self._out:
                part = self._next_part()
                if not part:
                    return False
                self._begun = len(part)
                count = self._channel.send(part)
                self._begun = 0
                self._sent(count)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        except (OSError, ValueError) as problem:
            raise self._gone(problem) from problem
        return True

    def _pause_ms(self) -> int:
        """How long nothing is to be written yet."""
        held_ms = 0
        if self._held_until and self.queued_bytes < HELD_BYTES_MAX:
            held_ms = math.ceil((self._held_until - time.monotonic()) * 1000)
        return max(held_ms, self.throttle.wait_ms() if self.throttle is not None else 0)

    def _join_small(self) -> None:
        """What was held back goes as one, not each in a record and a packet of its own."""
        joined: list[memoryview] = []
        size = 0
        while self._out and size + len(self._out[0]) <= JOINED_BELOW_BYTES:
            size += len(self._out[0])
            joined.append(self._out.popleft())
        if joined:
            self._out.appendleft(joined[0] if len(joined) == 1 else memoryview(b"".join(joined)))

    def _next_part(self) -> memoryview:
        """What may go of the first piece; empty while the cap says so."""
        piece = self._out[0]
        if self.throttle is None:
            return piece
        # TLS must be offered at least as much again as when it could not finish.
        return piece[: max(self.throttle.allowed(), self._begun)]

    def _sent(self, count: int) -> None:
        self.queued_bytes -= count
        self.sent_bytes += count
        if self.throttle is not None:
            self.throttle.spend(count)
        if count == len(self._out[0]):
            self._out.popleft()
        else:
            self._out[0] = self._out[0][count:]

    def speed(self) -> LinkSpeed:
        """How fast the link is, as known now."""
        self._speed.look(self._channel, time.monotonic())
        return self._speed

    def receive(self) -> list[Frame]:
        """Every frame that has arrived. Raises NotConnected at the end, ProtocolError."""
        frames: list[Frame] = []
        taken = 0
        self._more = False
        try:
            while True:
                count = self._channel.recv_into(self._buffer)
                if count == 0:
                    raise NotConnected(f"{self.peer_name} closed the connection")
                self.received_bytes += count
                taken += count
                with memoryview(self._buffer) as view:
                    frames += self._decoder.feed(view[:count])
                if taken >= READ_AT_ONCE_MAX:
                    self._more = True
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except NotConnected:
            if not frames:
                raise
        except (OSError, ValueError) as problem:
            if not frames:
                raise self._gone(problem) from problem
        return frames

    def wait(self, timeout_ms: int, *others: int) -> set[int]:
        """Descriptors that are ready: this connection's own, or one of `others` to read from."""
        if self._more:
            timeout_ms = 0
        writes = bool(self._out)
        if writes and (pause_ms := self._pause_ms()) > 0:
            writes = False
            timeout_ms = min(timeout_ms, pause_ms)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN | (select.POLLOUT if writes else 0))
        for other in others:
            poll.register(other, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(timeout_ms)}
        if self._more:
            ready.add(self.fileno())
        return ready

    def drain(self, deadline_ms: int) -> None:
        """Write everything that is queued. Raises DeadlinePassed."""
        poll = select.poll()
        poll.register(self._channel, select.POLLOUT)
        while not self.flush():
            time.sleep(max(0, self._pause_ms()) / 1000)
            if not poll.poll(deadline_ms):
                raise DeadlinePassed(f"{self.peer_name} takes no data")

    def close(self) -> None:
        try:
            self._channel.close()
        except OSError:
            pass

    def _gone(self, problem: Exception) -> NotConnected:
        return NotConnected(f"the connection to {self.peer_name} ended: {problem}")


def dial(addresses: Sequence[str], port: int, context: ssl.SSLContext, expected: str) -> Connection:
    """Connection over the first address that answers as `expected`.

    Raises NotConnected, naming what was wrong with each address.
    """
    found: list[str] = []
    for address in addresses:
        try:
            raw = socket.create_connection((address, port), timeout=CONNECT_MS / 1000)
        except OSError as problem:
            found.append(f"{address}: {problem.strerror or problem}")
            continue
        try:
            connection = Connection(_handshake(raw, context, server=False), address)
        except (OSError, EverupError) as problem:
            found.append(f"{address}: {_reason(problem)}")
            continue
        if connection.peer_name == expected:
            return connection
        found.append(f"{address}: it is {connection.peer_name!r}")
        connection.close()
    raise NotConnected(f"{expected} cannot be reached ({'; '.join(found) or 'no address known'})")


def accept(raw: socket.socket, context: ssl.SSLContext, address: str) -> Connection:
    """TLS on an accepted socket. Raises NotConnected, for example for a foreign certificate."""
    try:
        return Connection(_handshake(raw, context, server=True), address)
    except OSError as problem:
        raise NotConnected(
            f"{address} has no certificate of this group: {_reason(problem)}", code="tls"
        ) from problem


def _handshake(raw: socket.socket, context: ssl.SSLContext, *, server: bool) -> ssl.SSLSocket:
    try:
        raw.settimeout(HANDSHAKE_MS / 1000)
        return context.wrap_socket(raw, server_side=server)
    except BaseException:
        raw.close()
        raise


def _reason(problem: Exception) -> str:
    if isinstance(problem, ssl.SSLError):
        return problem.reason or str(problem)
    return str(problem)


def listen(address: str, port: int) -> socket.socket:
    """Listening socket, on all addresses for the empty address. Raises OSError."""
    if not address:
        try:
            return _listen(socket.AF_INET6, "::", port)
        except OSError:
            return _listen(socket.AF_INET, "0.0.0.0", port)
    return _listen(socket.AF_INET6 if ":" in address else socket.AF_INET, address, port)


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
