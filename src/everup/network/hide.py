"""Every public address is mute unless it is leased: the kernel's rules, whoever configures it.

What enters: the group's public addresses. What leaves: the nftables tables `inet everup` and
`arp everup`. Called at early boot (everup-hide), by the keeper when it starts, and again when
somebody has flushed the rules. One `nft -f -` call is one transaction: no moment without rules.

Sets whose elements have a timeout say which address may speak; `permission` keeps them alive while
the lease lasts. ARP and neighbour discovery are part of speaking. A mute server probes for
duplicates silently too, so that a static configuration of the same address on two servers does
not disable it on the one that comes second.
"""

import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, ip_interface

from everup.errors import EverupError

TABLE = "everup"
BOOT_TIMEOUT_S = 20.0
LOOP_TIMEOUT_S = 1.0
"""Longest wait of a process that has heartbeats to send meanwhile."""

_RULES = """\
add table inet everup
add set inet everup public4 { type ipv4_addr; }
add set inet everup public6 { type ipv6_addr; }
add set inet everup target6 { typeof @th,64,128; }
add set inet everup leased4 { type ipv4_addr; flags timeout; }
add set inet everup leased6 { type ipv6_addr; flags timeout; }
add set inet everup leased_target6 { typeof @th,64,128; flags timeout; }
add chain inet everup input { type filter hook input priority -300; policy accept; }
add chain inet everup output { type filter hook output priority -300; policy accept; }
flush set inet everup public4
flush set inet everup public6
flush set inet everup target6
flush chain inet everup input
flush chain inet everup output
add rule inet everup input ip daddr @public4 ip daddr != @leased4 counter drop
add rule inet everup input ip6 daddr @public6 ip6 daddr != @leased6 counter drop
add rule inet everup input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } \
@th,64,128 @target6 @th,64,128 != @leased_target6 counter drop
add rule inet everup output ip saddr @public4 ip saddr != @leased4 counter drop
add rule inet everup output ip6 saddr @public6 ip6 saddr != @leased6 counter drop
add rule inet everup output icmpv6 type nd-neighbor-advert \
@th,64,128 @target6 @th,64,128 != @leased_target6 counter drop
add rule inet everup output icmpv6 type nd-neighbor-solicit ip6 saddr :: \
@th,64,128 @target6 @th,64,128 != @leased_target6 counter drop
add table arp everup
add set arp everup public4 { type ipv4_addr; }
add set arp everup leased4 { type ipv4_addr; flags timeout; }
add chain arp everup input { type filter hook input priority -300; policy accept; }
add chain arp everup output { type filter hook output priority -300; policy accept; }
flush set arp everup public4
flush chain arp everup input
flush chain arp everup output
add rule arp everup input arp daddr ip @public4 arp daddr ip != @leased4 counter drop
add rule arp everup output arp saddr ip @public4 arp saddr ip != @leased4 counter drop
add rule arp everup output arp saddr ip 0.0.0.0 arp daddr ip @public4 \
arp daddr ip != @leased4 counter drop
"""

_EGRESS_TABLE = """\
add table netdev everup
add set netdev everup public4 { type ipv4_addr; }
add set netdev everup public6 { type ipv6_addr; }
add set netdev everup leased4 { type ipv4_addr; flags timeout; }
add set netdev everup leased6 { type ipv6_addr; flags timeout; }
flush set netdev everup public4
flush set netdev everup public6
"""
_EGRESS_CHAIN = """\
add chain netdev everup {chain} {{ type filter hook egress device "{device}" priority 0; \
policy accept; }}
flush chain netdev everup {chain}
add rule netdev everup {chain} arp saddr ip @public4 arp saddr ip != @leased4 counter drop
add rule netdev everup {chain} ip saddr @public4 ip saddr != @leased4 counter drop
add rule netdev everup {chain} ip6 saddr @public6 ip6 saddr != @leased6 counter drop
"""


def rules(addresses: Iterable[str]) -> str:
    """The nft script that mutes exactly `addresses` ("192.0.2.10/24" or without length).

    Running it again keeps what is leased now.
    """
    four, six = _split(addresses)
    lines = [_elements(f"{family} everup public4", four) for family in ("inet", "arp")]
    lines.append(_elements("inet everup public6", [str(a) for a in six]))
    lines.append(_elements("inet everup target6", [f"0x{int(a):032x}" for a in six]))
    return _RULES + "".join(lines)


def egress_rules(addresses: Iterable[str], interfaces: Iterable[str]) -> str:
    """The nft script that mutes `addresses` at the very exit of `interfaces` as well.

    Packet sockets pass no other hook: our own gratuitous ARP leaves through one, and this process
    may be stopped between looking at its lease and sending.
    """
    four, six = _split(addresses)
    lines = [_elements("netdev everup public4", four)]
    lines.append(_elements("netdev everup public6", [str(a) for a in six]))
    for interface in interfaces:
        chain = "out_" + interface.encode().hex()
        lines.append(_EGRESS_CHAIN.format(chain=chain, device=interface))
    return _EGRESS_TABLE + "".join(lines)


def _split(addresses: Iterable[str]) -> tuple[list[str], list[IPv6Address]]:
    parsed = [ip_interface(address) for address in addresses]
    four = [str(a.ip) for a in parsed if isinstance(a, IPv4Interface)]
    return four, [a.ip for a in parsed if isinstance(a, IPv6Interface)]


def _elements(where: str, values: list[str]) -> str:
    if not values:
        return ""
    return f"add element {where} {{ {', '.join(sorted(set(values)))} }}\n"


def hide(addresses: Iterable[str], timeout_s: float = BOOT_TIMEOUT_S) -> None:
    """Make every one of `addresses` mute unless it is leased. Raises EverupError."""
    _nft(rules(addresses), timeout_s)


def hide_at_exit(addresses: Iterable[str], interfaces: Iterable[str]) -> None:
    """`egress_rules`, made. Raises EverupError, also when the kernel is older than 5.16."""
    _nft(egress_rules(addresses, interfaces), LOOP_TIMEOUT_S)


def _nft(script: str, timeout_s: float) -> None:
    try:
        done = subprocess.run(
            ["nft", "-f", "-"],
            input=script.encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EverupError(
            f"the public address cannot be muted, nft did not run: {error}",
            remedy="apt-get install nftables",
            code="nft-failed",
        ) from error
    if done.returncode:
        raise EverupError(
            "the public address cannot be muted: " + done.stderr.decode(errors="replace").strip(),
            remedy="nft list ruleset, and check that the kernel has nf_tables",
            code="nft-failed",
        )
