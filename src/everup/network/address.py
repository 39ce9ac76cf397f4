"""The public address itself: present with a short lifetime, or absent.

What enters: address with prefix length, interface. What leaves: rtnetlink requests, answered by
the kernel. Called once a second by the keeper's process while the lease lasts.

The lifetime is the long stop behind `permission`: when nobody renews, the kernel removes the
address by itself (up to 1.1 s late, its check runs once a second).
"""

import errno
import socket
import struct
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from everup.errors import EverupError
from everup.network.netlink import ACK, CREATE, REPLACE, REQUEST, NetlinkSocket, attribute, message

VALID_S = 5
RENEW_NS = 1_000_000_000

_NEW_ADDRESS, _DELETE_ADDRESS = 20, 21
_ADDRESS, _LOCAL, _BROADCAST, _CACHE_INFO, _FLAGS = 1, 2, 4, 6, 8
_NO_DAD = 0x02
_HEAD = struct.Struct("=BBBBI")


def interface_index(interface: str) -> int:
    """Raises EverupError when there is no such interface."""
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise EverupError(
            f"there is no network interface {interface!r}",
            remedy="ip link; then correct public.interface in the group's settings",
            code="no-interface",
        ) from error


class AddressTable:
    """Owns one netlink socket. Every method raises OSError when the kernel refuses."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(socket.NETLINK_ROUTE)

    def close(self) -> None:
        self._netlink.close()

    def renew(self, address: str, index: int) -> None:
        """Make `address` present on interface `index` for VALID_S from now."""
        parsed = ip_interface(address)
        packed = parsed.ip.packed
        # An IPv6 address without preference is served, but not chosen for connections of ours:
        # they would break when it moves. In IPv4 the management address is the older one.
        preferred_s = VALID_S if isinstance(parsed, IPv4Interface) else 0
        body = _head(parsed, index) + attribute(_LOCAL, packed) + attribute(_ADDRESS, packed)
        if isinstance(parsed, IPv4Interface) and parsed.network.prefixlen < 31:
            body += attribute(_BROADCAST, parsed.network.broadcast_address.packed)
        body += attribute(_FLAGS, struct.pack("=I", _NO_DAD))
        body += attribute(_CACHE_INFO, struct.pack("=IIII", preferred_s, VALID_S, 0, 0))
        self._call(_NEW_ADDRESS, REQUEST | ACK | CREATE | REPLACE, body)

    def remove(self, address: str, index: int) -> None:
        """Make `address` absent; already so is a success."""
        parsed = ip_interface(address)
        body = _head(parsed, index) + attribute(_LOCAL, parsed.ip.packed)
        try:
            self._call(_DELETE_ADDRESS, REQUEST | ACK, body)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise

    def _call(self, kind: int, flags: int, body: bytes) -> None:
        sequence = self._netlink.next_sequence()
        self._netlink.call(message(kind, flags, sequence, body), sequence)


def _head(parsed: IPv4Interface | IPv6Interface, index: int) -> bytes:
    family = socket.AF_INET if isinstance(parsed, IPv4Interface) else socket.AF_INET6
    return _HEAD.pack(family, parsed.network.prefixlen, 0, 0, index)
