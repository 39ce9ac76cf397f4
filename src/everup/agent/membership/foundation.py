"""Make a new group on its first server.

What enters: names and addresses. What leaves: an authority, this server's key and certificate, the
heartbeat key, the group's first settings, and tokens for those who shall join. Called by
`everup init`. Nothing is written before everything that can be refused has been looked at.
"""

import secrets
import time
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path

from everup.agent.membership.authority import fingerprint, issue, make_authority, make_request
from everup.agent.membership.joining import refuse_second_membership
from everup.agent.membership.static_address import move_out
from everup.agent.membership.stored import save_group, save_server
from everup.agent.membership.tokens import Kind, Token, TokenStore
from everup.config.load import NAME_PATTERN
from everup.config.schema import GroupSettings, Member, PublicAddress, ServerSettings
from everup.errors import BadInput, Refused
from everup.places import AGENT_PEER_PORT, CONSOLE_PORT, Places
from everup.system.files import save_bytes
from everup.system.installation import root_of

HEARTBEAT_KEY_BYTES = 32


@dataclass(frozen=True)
class Founding:
    """What the first server's operator says."""

    group: str
    name: str
    public: tuple[PublicAddress, ...]
    management: str
    channels: tuple[str, ...]


def parse_public(text: str) -> PublicAddress:
    """Read ADDRESS/PREFIX@INTERFACE. Raises BadInput."""
    address, at, interface = text.partition("@")
    try:
        if not at or "/" not in address:
            raise ValueError
        value = ip_interface(address)
    except ValueError as error:
        raise BadInput(
            f"{text!r} is not a public address",
            remedy="write ADDRESS/PREFIX@INTERFACE, for example 192.0.2.10/24@eth0",
            code="bad-address",
        ) from error
    if not interface or len(interface) > 15 or "/" in interface:
        raise BadInput(f"{interface!r} is not the name of a network interface", code="bad-address")
    return PublicAddress(address=str(value), interface=interface)


def found(places: Places, founding: Founding) -> tuple[GroupSettings, list[Path]]:
    """The new group and the network files that were changed. Raises Refused or BadInput."""
    refuse_second_membership(places)
    _check(founding, places)
    changed = move_out(places, [public.address for public in founding.public])
    places.make()
    authority = make_authority(founding.group)
    key, csr = make_request(founding.name)
    addresses = (*founding.channels, founding.management)
    certificate = issue(authority, csr, founding.name, addresses)
    member = Member(
        name=founding.name,
        identity="primary",
        management=founding.management,
        channels=founding.channels,
    )
    group = GroupSettings(
        version=1,
        group=founding.group,
        group_id=secrets.token_hex(16),
        members=(member,),
        public=founding.public,
    )
    save_bytes(places.ca_certificate, authority.certificate, operation="save-ca", mode=0o644)
    save_bytes(places.ca_key, authority.key, operation="save-ca-key")
    save_bytes(places.private_key, key, operation="save-key")
    save_bytes(places.certificate, certificate, operation="save-certificate")
    # As text, so that no reader or editor can take a byte of it for a line end.
    heartbeat_key = secrets.token_hex(HEARTBEAT_KEY_BYTES).encode()
    save_bytes(places.heartbeat_key, heartbeat_key, operation="save-heartbeat-key")
    save_group(places.group_settings, group)
    # Last, since every unit starts only when this file exists.
    save_server(
        places.server_settings,
        ServerSettings(
            name=member.name,
            identity="primary",
            group=founding.group,
            management=founding.management,
            channels=founding.channels,
        ),
    )
    return group, changed


def token_store(places: Places) -> TokenStore:
    """The tokens that this server has given out."""
    return TokenStore(places.state / "tokens.json", time.time)


def invite(places: Places, group: GroupSettings, name: str, kind: Kind) -> str:
    """A new token text for a server or witness, or for `page` the link that logs a person in."""
    member = group.member(name)
    assert member is not None
    secret = token_store(places).mint(kind)
    if kind == "page":
        return f"https://{host_text(member.management)}:{CONSOLE_PORT}/login/{secret.hex()}"
    token = Token(
        kind=kind,
        group=group.group,
        addresses=(member.management, *member.channels),
        port=AGENT_PEER_PORT,
        fingerprint=fingerprint(places.ca_certificate.read_bytes()),
        secret=secret,
    )
    return token.encode()


def host_text(address: str) -> str:
    """An address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def _check(founding: Founding, places: Places) -> None:
    for what, name in (("group", founding.group), ("server", founding.name)):
        if not NAME_PATTERN.fullmatch(name):
            raise BadInput(
                f"{name!r} cannot be the name of a {what}",
                remedy="use small letters, digits and hyphens, at most 63",
                code="bad-name",
            )
    own = [founding.management, *founding.channels]
    for address in own:
        try:
            ip_address(address)
        except ValueError as error:
            raise BadInput(f"{address!r} is not an IP address", code="bad-address") from error
    for public in founding.public:
        if str(ip_interface(public.address).ip) in own:
            raise Refused(
                f"{public.address} cannot be public and this server's own address",
                remedy="the public address moves; management and channel addresses stay",
                code="address-taken",
            )
        if root_of(places) == Path("/") and not Path("/sys/class/net", public.interface).exists():
            raise Refused(
                f"this server has no network interface {public.interface!r}",
                remedy="ip -brief link shows their names",
                code="no-interface",
            )
