"""Telling the network where the public address is now, and asking first whether it is free.

What enters: address and interface. What leaves: gratuitous ARP and unsolicited neighbour
advertisements; or, for a probe, who answers. Called by `public` only while the lease lasts.

The IPv4 frames leave through a packet socket, which netfilter's arp hooks do not see, so the
caller checks the lease right before each of them. The IPv6 ones pass the output rules of `hide`.
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

_ETHERTYPE_ARP = 0x0806
_ARP = struct.Struct(">HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_BROADCAST = b"\xff" * 6
_NS, _NA = 135, 136
_OVERRIDE = 0x20000000
_IPV6_MULTICAST_IF, _IPV6_MULTICAST_HOPS, _IPV6_UNICAST_HOPS = 17, 18, 16
_HOPS = 255


@dataclass(frozen=True, slots=True)
class Answer:
    """Somebody else has the address."""

    address: str
    hardware: str


def hardware_text(hardware: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in hardware)


class ArpSpeaker:
    """ARP for one IPv4 address on one interface."""

    def __init__(self, address: IPv4Address, interface: str) -> None:
        self.address = address
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self.socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETHERTYPE_ARP))
        self.socket.bind((interface, _ETHERTYPE_ARP))
        self._hardware: bytes = self.socket.getsockname()[4][:6].ljust(6, b"\0")

    def close(self) -> None:
        self.socket.close()

    def _send(self, operation: int, sender: bytes, target_hardware: bytes) -> None:
        frame = _BROADCAST + self._hardware + struct.pack(">H", _ETHERTYPE_ARP)
        target = self.address.packed
        frame += _ARP.pack(
            1, 0x0800, 6, 4, operation, self._hardware, sender, target_hardware, target
        )
        self.socket.send(frame)

    def probe(self) -> None:
        """Ask who has the address, without claiming it."""
        self._send(_REQUEST, bytes(4), bytes(6))

    def announce(self) -> None:
        """Both forms: some switches and hosts learn from one only."""
        self._send(_REQUEST, self.address.packed, bytes(6))
        self._send(_REPLY, self.address.packed, _BROADCAST)

    def answer(self) -> Answer | None:
        """Next sign of another owner among what has arrived; None when there is none."""
        while True:
            try:
                frame = self.socket.recv(2048)
            except BlockingIOError:
                return None
            if len(frame) < 14 + _ARP.size:
                continue
            _, _, _, _, _, hardware, sender, _, _ = _ARP.unpack_from(frame, 14)
            if sender == self.address.packed and hardware != self._hardware:
                return Answer(str(self.address), hardware_text(hardware))


class NeighbourSpeaker:
    """Neighbour discovery for one IPv6 address on one interface."""

    def __init__(self, address: IPv6Address, interface: str) -> None:
        self.address = address
        self._index = socket.if_nametoindex(interface)
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self.socket = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        level = socket.IPPROTO_IPV6
        self.socket.setsockopt(level, _IPV6_MULTICAST_IF, self._index)
        self.socket.setsockopt(level, _IPV6_MULTICAST_HOPS, _HOPS)
        self.socket.setsockopt(level, _IPV6_UNICAST_HOPS, _HOPS)
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0"
        )
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as link:
            link.bind((interface, 0))
            self._hardware: bytes = link.getsockname()[4][:6].ljust(6, b"\0")

    def close(self) -> None:
        self.socket.close()

    def _link_option(self, kind: int) -> bytes:
        return bytes((kind, 1)) + self._hardware

    def probe(self) -> None:
        """Solicit the address from our own link-local one."""
        group = "ff02::1:ff" + self.address.packed[13:14].hex()
        group += ":" + self.address.packed[14:].hex()
        body = struct.pack(">BBHI", _NS, 0, 0, 0) + self.address.packed + self._link_option(1)
        self.socket.sendto(body, (group, 0, 0, self._index))

    def announce(self) -> None:
        """Unsolicited advertisement to all nodes, from the address itself."""
        body = struct.pack(">BBHI", _NA, 0, 0, _OVERRIDE) + self.address.packed
        body += self._link_option(2)
        source = struct.pack("=16sI", self.address.packed, self._index)
        information = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
        self.socket.sendmsg([body], information, 0, ("ff02::1", 0, 0, self._index))

    def answer(self) -> Answer | None:
        """Next advertisement of another owner among what has arrived; None when there is none."""
        while True:
            try:
                body, sender = self.socket.recvfrom(2048)
            except BlockingIOError:
                return None
            if len(body) < 24 or body[0] != _NA or body[8:24] != self.address.packed:
                continue
            hardware = body[26:32] if len(body) >= 32 and body[24] == 2 else b""
            if hardware != self._hardware:
                return Answer(str(self.address), hardware_text(hardware) or sender[0])


Speaker = ArpSpeaker | NeighbourSpeaker


def speaker(address: IPv4Address | IPv6Address, interface: str) -> Speaker:
    """Raises OSError when the interface is missing or we may not use it."""
    if isinstance(address, IPv4Address):
        return ArpSpeaker(address, interface)
    return NeighbourSpeaker(address, interface)
