"""The kernel's permission for an address to speak, for as long as the lease has left.

What enters: addresses and milliseconds. What leaves: elements with a timeout in the sets that
`hide` made. Called by the keeper's process at every renewal, so it is one netlink transaction
without a subprocess (which costs 18 ms).

A second "add" of an element does not extend its timeout. So: add (it is there now, whatever was
before), delete, add with the new timeout; nobody sees anything but the result.
"""

import errno
import struct
from collections.abc import Iterable
from ipaddress import IPv4Interface, ip_interface

from everup.network.hide import TABLE
from everup.network.netlink import ACK, CREATE, REQUEST, NetlinkSocket, attribute, message, nested

_NETLINK_NETFILTER = 12
_NFTABLES = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_GET_TABLE, _NEW_ELEMENT, _DELETE_ELEMENT = 1, 12, 14
_INET, _ARP, _NETDEV = 1, 3, 5
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT, _KEY, _VALUE, _TIMEOUT = 1, 1, 1, 4
_TABLE_NAME = 1

Place = tuple[int, str, bytes]
"""(family, set, key)"""


def places(addresses: Iterable[str], at_exit: bool) -> list[Place]:
    """Every set that has to name each of `addresses`; `at_exit`: those of `hide_at_exit` too."""
    found: list[Place] = []
    for address in addresses:
        parsed = ip_interface(address)
        key = parsed.ip.packed
        if isinstance(parsed, IPv4Interface):
            name = "leased4"
            found += [(_INET, name, key), (_ARP, name, key)]
        else:
            name = "leased6"
            found += [(_INET, name, key), (_INET, "leased_target6", key)]
        if at_exit:
            found.append((_NETDEV, name, key))
    return found


class Permission:
    """Owns one netlink socket. Every method raises OSError; ENOENT means that `hide` is undone."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(_NETLINK_NETFILTER)
        self.at_exit = False
        """Whether the rules of `hide_at_exit` are there and need to be told too."""

    def close(self) -> None:
        self._netlink.close()

    def grant(self, addresses: Iterable[str], timeout_ms: int) -> None:
        """Let `addresses` speak for `timeout_ms` from now, not longer and not shorter."""
        where = places(addresses, self.at_exit)
        if timeout_ms <= 0 or not where:
            return
        self._transact(
            [self._element(_NEW_ELEMENT, place, None) for place in where]
            + [self._element(_DELETE_ELEMENT, place, None) for place in where]
            + [self._element(_NEW_ELEMENT, place, timeout_ms) for place in where]
        )

    def mute(self, addresses: Iterable[str]) -> None:
        """Forbid at once."""
        where = places(addresses, self.at_exit)
        if not where:
            return
        self._transact(
            [self._element(_NEW_ELEMENT, place, None) for place in where]
            + [self._element(_DELETE_ELEMENT, place, None) for place in where]
        )

    def in_force(self) -> bool:
        """Whether the tables that `hide` makes are still there; somebody may flush the rules."""
        families = (_INET, _ARP, _NETDEV) if self.at_exit else (_INET, _ARP)
        return all(self._has_table(family) for family in families)

    def find_exit(self) -> None:
        """Take note of rules of `hide_at_exit` that an earlier run of this process has made."""
        self.at_exit = self._has_table(_NETDEV)

    def _has_table(self, family: int) -> bool:
        sequence = self._netlink.next_sequence()
        body = _family(family, 0) + attribute(_TABLE_NAME, TABLE.encode() + b"\0")
        try:
            kind = _NFTABLES << 8 | _GET_TABLE
            self._netlink.call(message(kind, REQUEST | ACK, sequence, body), sequence)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def _element(self, kind: int, place: Place, timeout_ms: int | None) -> bytes:
        family, name, key = place
        parts = [nested(_KEY, attribute(_VALUE, key))]
        if timeout_ms is not None:
            parts.append(attribute(_TIMEOUT, struct.pack(">Q", timeout_ms)))
        body = (
            _family(family, 0)
            + attribute(_LIST_TABLE, TABLE.encode() + b"\0")
            + attribute(_LIST_SET, name.encode() + b"\0")
            + nested(_LIST_ELEMENTS, nested(_ELEMENT, *parts))
        )
        flags = REQUEST | ACK | (CREATE if kind == _NEW_ELEMENT else 0)
        return message(_NFTABLES << 8 | kind, flags, self._netlink.next_sequence(), body)

    def _transact(self, messages: list[bytes]) -> None:
        last = self._netlink.sequence
        head = message(_BATCH_BEGIN, REQUEST, 0, _family(0, _NFTABLES))
        tail = message(_BATCH_END, REQUEST, 0, _family(0, _NFTABLES))
        self._netlink.call(head + b"".join(messages) + tail, last)


def _family(family: int, resource: int) -> bytes:
    return struct.pack(">BBH", family, 0, resource)
