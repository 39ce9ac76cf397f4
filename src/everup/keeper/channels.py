"""The datagrams of a keeper: sealed, sent over every channel at once, opened, taken once.

What enters: messages for members. What leaves: (sender, message) of what came in fresh. Called by
the keeper's process from its loop.

There is a socket for each of our own addresses, because the kernel would otherwise choose the
source, and could choose the public address, which is mute. An address that is not there yet can be
bound already (IP_FREEBIND); sending fails until it is.
"""

import socket
from dataclasses import dataclass, field

from everup.errors import ProtocolError
from everup.keeper.messages import Message, decode, encode
from everup.keeper.seal import DATAGRAM_BYTES_MAX, Freshness, Sealer
from everup.keeper.settings import KeeperSettings, MemberPlace

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
TAKE_MAX = 64
"""Datagrams taken from one socket before the loop looks at its clock again."""


@dataclass(slots=True)
class Counts:
    sent: int = 0
    received: int = 0
    refused: int = 0
    send_errors: int = 0
    reason: str = ""


@dataclass(slots=True)
class Channels:
    """All sockets of one keeper; `incarnation` and a counter mark every datagram."""

    settings: KeeperSettings
    incarnation: int
    counts: Counts = field(default_factory=Counts)
    _by_address: dict[str, socket.socket] = field(default_factory=dict)
    _counter: int = 0
    _fresh: Freshness = field(default_factory=Freshness)
    _sealer: Sealer | None = None
    _routes: dict[str, list[tuple[socket.socket, tuple[str, int]]]] = field(default_factory=dict)

    @property
    def sockets(self) -> list[socket.socket]:
        return list(self._by_address.values())

    def open(self, settings: KeeperSettings) -> None:
        """Bind our addresses; what is bound already stays, the counter goes on.

        Raises OSError when an address cannot be bound; the others are served all the same.
        """
        own = settings.own
        self.settings = settings
        self._sealer = None
        if settings.key and settings.group_id:
            self._sealer = Sealer(settings.key, settings.group_id)
        for address in set(self._by_address) - set(own.addresses):
            self._by_address.pop(address).close()
        try:
            for address in own.addresses:
                if address not in self._by_address:
                    self._by_address[address] = _socket(address, own.port)
        finally:
            self._routes = {p.name: _routes(own, p, self._by_address) for p in settings.peers}

    def close(self) -> None:
        for each in self._by_address.values():
            each.close()
        self._by_address.clear()

    def send(self, to: str, message: Message) -> None:
        """One datagram over every route; what cannot leave is counted, the protocol repeats."""
        if self._sealer is None:
            return
        self._counter += 1
        datagram = self._sealer.seal(
            self.settings.server, to, self.incarnation, self._counter, encode(message)
        )
        for each, target in self._routes.get(to, ()):
            try:
                each.sendto(datagram, target)
                self.counts.sent += 1
            except OSError as error:
                self.counts.send_errors += 1
                self.counts.reason = f"{target[0]}: {error.strerror}"

    def take(self, ready: socket.socket) -> list[tuple[str, Message]]:
        """What has arrived on one socket, without what is stale, foreign or for somebody else."""
        found = []
        for _ in range(TAKE_MAX):
            try:
                datagram = ready.recv(DATAGRAM_BYTES_MAX + 1)
            except BlockingIOError:
                break
            except OSError:
                continue
            opened = self._open(datagram)
            if opened is not None:
                found.append(opened)
        return found

    def _open(self, datagram: bytes) -> tuple[str, Message] | None:
        if self._sealer is None:
            return None
        try:
            opened = self._sealer.open(datagram)
            if opened.recipient != self.settings.server or opened.sender not in self._routes:
                raise ProtocolError(f"a datagram from {opened.sender} to {opened.recipient}")
            if not self._fresh.accept(opened.sender, opened.incarnation, opened.counter):
                return None
            message = decode(opened.body)
        except ProtocolError as error:
            self.counts.refused += 1
            self.counts.reason = error.sentence
            return None
        self.counts.received += 1
        return opened.sender, message


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _socket(address: str, port: int) -> socket.socket:
    family = _family(address)
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    made = socket.socket(family, kind)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    made.bind((address, port))
    return made


def _routes(
    own: MemberPlace, peer: MemberPlace, sockets: dict[str, socket.socket]
) -> list[tuple[socket.socket, tuple[str, int]]]:
    """Channel n to channel n, management to management; otherwise from management."""
    found = []
    for place, address in enumerate(peer.addresses):
        last = place == len(peer.addresses) - 1
        first = own.addresses[-1] if last else own.addresses[min(place, len(own.addresses) - 1)]
        for source in (first, *reversed(own.addresses)):
            if source in sockets and _family(source) == _family(address):
                found.append((sockets[source], (address, peer.port)))
                break
    return found
