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
from pathlib import Path

from everup.errors import EverupError
from everup.network.netlink import (
    ACK,
    CREATE,
    EXCLUDE,
    REPLACE,
    REQUEST,
    NetlinkSocket,
    attribute,
    message,
)

VALID_S = 5
RENEW_NS = 1_000_000_000

_NEW_ADDRESS, _DELETE_ADDRESS, _NEW_ROUTE = 20, 21, 24
_ADDRESS, _LOCAL, _BROADCAST, _CACHE_INFO, _FLAGS = 1, 2, 4, 6, 8
_NO_DAD, _NO_PREFIX_ROUTE = 0x02, 0x200
_ROUTE = struct.Struct("=BBBBBBBBI")
_ROUTE_TO, _ROUTE_INTERFACE, _ROUTE_METRIC = 1, 4, 6
_TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_ALL, _UNICAST, _METRIC = 254, 4, 0, 1, 256
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


def keep_neighbours_of(interface: str) -> None:
    """Let the other addresses of a network stay when its first one goes.

    Without this an IPv4 address that was configured first takes the management address along.
    Raises OSError.
    """
    path = Path("/proc/sys/net/ipv4/conf") / interface / "promote_secondaries"
    path.write_text("1")


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
        four = isinstance(parsed, IPv4Interface)
        preferred_s, flags = (VALID_S, _NO_DAD) if four else (0, _NO_DAD | _NO_PREFIX_ROUTE)
        body = _head(parsed, index) + attribute(_LOCAL, packed) + attribute(_ADDRESS, packed)
        if isinstance(parsed, IPv4Interface) and parsed.network.prefixlen < 31:
            body += attribute(_BROADCAST, parsed.network.broadcast_address.packed)
        body += attribute(_FLAGS, struct.pack("=I", flags))
        body += attribute(_CACHE_INFO, struct.pack("=IIII", preferred_s, VALID_S, 0, 0))
        self._call(_NEW_ADDRESS, REQUEST | ACK | CREATE | REPLACE, body)
        if isinstance(parsed, IPv6Interface):
            self._reach_neighbours(parsed, index)

    def _reach_neighbours(self, parsed: IPv6Interface, index: int) -> None:
        """The route to the address's own network, when there is none yet.

        The kernel would make it itself, and would let it end with the address, although the
        management address of the same network needs it too.
        """
        network = parsed.network
        if network.prefixlen == 128:
            return
        body = _ROUTE.pack(
            socket.AF_INET6,
            network.prefixlen,
            0,
            0,
            _TABLE_MAIN,
            _PROTOCOL_STATIC,
            _SCOPE_ALL,
            _UNICAST,
            0,
        )
        body += attribute(_ROUTE_TO, network.network_address.packed)
        body += attribute(_ROUTE_INTERFACE, struct.pack("=I", index))
        body += attribute(_ROUTE_METRIC, struct.pack("=I", _METRIC))
        try:
            self._call(_NEW_ROUTE, REQUEST | ACK | CREATE | EXCLUDE, body)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

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
