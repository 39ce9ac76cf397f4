"""Which addresses are this server's own.

What enters: addresses that an operator typed, or those of another server. What leaves: a refusal,
or our own address on the way there. Called by `everup init`, `join` and `witness` before anything
is written: a typing mistake here would become a certificate that nobody can use.
"""

import errno
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from everup.errors import BadInput, NotConnected, Refused
from everup.places import AGENT_PEER_PORT


def refuse_foreign_addresses(addresses: Sequence[str]) -> None:
    """Raises BadInput for what is no address, Refused for one that no interface here carries."""
    for address in addresses:
        try:
            version = ip_address(address).version
        except ValueError as error:
            raise BadInput(f"{address!r} is not an IP address", code="bad-address") from error
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                raise Refused(
                    f"{address} is not an address of this server",
                    remedy="ip -brief address shows those that are",
                    code="address-not-here",
                ) from error


def own_address_towards(addresses: Sequence[str]) -> str:
    """Our own address on the way to the first of `addresses` that has a route; sends nothing."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((address, AGENT_PEER_PORT))
                return str(probe.getsockname()[0])
            except OSError:
                continue
    raise NotConnected(
        f"there is no route to {', '.join(addresses)}",
        remedy="check the network, or say this server's address with --management",
    )
