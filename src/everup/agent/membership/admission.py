"""Let a server or a witness into the group: the side that gave the token out.

What enters: a `JoinRequest` with the secret of a token. What leaves: an `Admission`, or the reason
for a refusal; a refused request has changed nothing. Called by the peer API.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import get_args

import msgspec

from everup.agent.membership.authority import Authority, issue, key_fingerprint
from everup.agent.membership.messages import Admission, Greeting, JoinRequest
from everup.agent.membership.settings import Edit, SettingsStore
from everup.agent.membership.tokens import Kind, TokenStore
from everup.config.load import NAME_PATTERN
from everup.config.schema import GroupSettings, Identity, Member
from everup.config.text import group_text
from everup.errors import BadInput, EverupError, Refused
from everup.places import Places
from everup.wire.messages import PROTOCOL_VERSIONS

Change = Callable[[Edit], Awaitable[GroupSettings]]


class Doorkeeper:
    """Checks who wants in, and lets in. `change` stores new settings, the active server first."""

    def __init__(
        self,
        places: Places,
        settings: SettingsStore,
        tokens: TokenStore,
        change: Change,
        version: str,
        protocols: Sequence[int] = PROTOCOL_VERSIONS,
    ) -> None:
        self._places = places
        self._settings = settings
        self._tokens = tokens
        self._change = change
        self._version = version
        self._protocols = tuple(protocols)
        self._one_at_a_time = asyncio.Lock()

    def greet(self) -> Greeting:
        """What anybody may know."""
        return Greeting(
            ca=self._places.ca_certificate.read_text(),
            group=self._settings.current.group,
            protocols=self._protocols,
            version=self._version,
        )

    async def admit(self, asked: JoinRequest, kind: Kind) -> Admission:
        """Make the asking server a member. Raises Refused with a code for each reason."""
        async with self._one_at_a_time:
            secret, holder = _secret(asked), key_fingerprint(asked.request.encode())
            group = self._settings.current
            member = self._checked(asked, kind, group)
            authority = self._authority()
            addresses = (*member.channels, member.management)
            certificate = issue(authority, asked.request.encode(), member.name, addresses)
            self._tokens.redeem([kind], secret, holder, member.name)
            if member not in group.members:
                try:
                    group = await self._change(lambda old: _with_member(old, member))
                except EverupError:
                    self._tokens.give_back(secret)
                    raise
        return Admission(
            certificate=certificate.decode(),
            ca=authority.certificate.decode(),
            ca_key=authority.key.decode() if kind == "server" else "",
            heartbeat_key=self._places.heartbeat_key.read_text(),
            identity=member.identity,
            settings=group_text(group),
        )

    async def check(self, asked: JoinRequest, kind: Kind) -> None:
        """Refuse what `admit` would refuse, and change nothing; the token stays good."""
        async with self._one_at_a_time:
            self._checked(asked, kind, self._settings.current)
            self._authority()

    def _checked(self, asked: JoinRequest, kind: Kind, group: GroupSettings) -> Member:
        """The member that the asking server may become."""
        secret, holder = _secret(asked), key_fingerprint(asked.request.encode())
        self._tokens.check([kind], secret, holder)
        repeated = self._tokens.name_of(secret) == asked.name
        return self._new_member(asked, kind, group, repeated=repeated)

    def _authority(self) -> Authority:
        try:
            key = self._places.ca_key.read_bytes()
        except FileNotFoundError as error:
            raise Refused(
                "this server does not hold the group's authority",
                remedy="make the token on another server",
                code="no-authority",
            ) from error
        return Authority(self._places.ca_certificate.read_bytes(), key)

    def _new_member(
        self, asked: JoinRequest, kind: Kind, group: GroupSettings, *, repeated: bool
    ) -> Member:
        """`repeated`: this token has been redeemed under this name before."""
        if asked.group != group.group:
            raise Refused(
                f"this server belongs to the group {group.group!r}, not to {asked.group!r}",
                remedy="use a token of the right group",
                code="foreign-group",
            )
        if not set(asked.protocols) & set(self._protocols):
            raise Refused(
                f"no common protocol version: here {list(self._protocols)} ({self._version}), "
                f"there {list(asked.protocols)} ({asked.version})",
                remedy="install the same release of Everup on both",
                code="no-common-protocol",
            )
        _check_name_and_addresses(asked)
        known = group.member(asked.name)
        member = Member(
            name=asked.name,
            identity=known.identity if known else _free_identity(kind, group),
            management=asked.management,
            channels=asked.channels,
        )
        # A request is repeated when its answer was lost; with any other token the same name and
        # addresses would be somebody who takes over a member's identity.
        if known is not None and not (repeated and known == member):
            raise Refused(
                f"the group has a member {asked.name!r} already",
                remedy="choose another name with --name",
                code="name-taken",
            )
        if known is None:
            _refuse_taken_addresses(member, group)
        return member


def _secret(asked: JoinRequest) -> bytes:
    try:
        return bytes.fromhex(asked.secret)
    except ValueError:
        return b""


def _with_member(group: GroupSettings, member: Member) -> GroupSettings:
    return msgspec.structs.replace(group, members=(*group.members, member))


def _check_name_and_addresses(asked: JoinRequest) -> None:
    if not NAME_PATTERN.fullmatch(asked.name):
        raise BadInput(
            f"{asked.name!r} is not a name: small letters, digits and hyphens, at most 63",
            remedy="choose a name with --name",
            code="bad-name",
        )
    for address in (asked.management, *asked.channels):
        try:
            ip_address(address)
        except ValueError as error:
            raise BadInput(f"{address!r} is not an IP address", code="bad-address") from error


def _free_identity(kind: Kind, group: GroupSettings) -> Identity:
    taken = {member.identity for member in group.members}
    wanted = [i for i in get_args(Identity) if (i == "witness") == (kind == "witness")]
    for identity in wanted:
        if identity not in taken:
            return identity  # type: ignore[no-any-return]
    raise Refused(
        f"the group has {len(wanted)} {kind}{'s' if len(wanted) > 1 else ''} already",
        remedy="remove one first",
        code="group-full",
    )


def _refuse_taken_addresses(member: Member, group: GroupSettings) -> None:
    for other in group.members:
        for address in set(member.addresses) & set(other.addresses):
            raise Refused(
                f"the address {address} is that of {other.name} already",
                remedy="give every server its own --management and --channel",
                code="address-taken",
            )
