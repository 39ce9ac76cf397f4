"""Become a member: the side that got the token.

What enters: a token text and this server's name and addresses. What leaves: settings, keys and
certificate in their places; or a refusal, after which nothing has changed. Called by `everup join`
and `everup witness`. The private key is made here and never leaves.
"""

import shutil
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path

import msgspec

from everup.agent.membership.authority import fingerprint, make_request
from everup.agent.membership.messages import Admission, Greeting, JoinRequest, decode
from everup.agent.membership.remote import proven_context, request, unproven_context
from everup.agent.membership.stored import save_group, save_server
from everup.agent.membership.tokens import Kind, Token
from everup.config.load import parse_group
from everup.config.schema import GroupSettings, ServerSettings
from everup.errors import EverupError, NotConnected, Refused
from everup.places import Places
from everup.system.files import save_bytes
from everup.system.installation import require_installed
from everup.wire.messages import PROTOCOL_VERSIONS


@dataclass(frozen=True)
class Newcomer:
    """How this server presents itself."""

    name: str
    management: str
    channels: tuple[str, ...]
    version: str
    protocols: tuple[int, ...] = PROTOCOL_VERSIONS


def refuse_second_membership(places: Places) -> None:
    """Raises Refused when this server belongs to a group."""
    if places.server_settings.exists():
        raise Refused(
            "this server belongs to a group already",
            remedy="everup status shows it; a server belongs to one group",
            code="already-member",
        )


def join(places: Places, text: str, kind: Kind, newcomer: Newcomer) -> GroupSettings:
    """Redeem a token, then write everything. Raises with a code for each reason of a refusal.

    The token's own refusals come before `not-installed`, which does not use it up.
    """
    refuse_second_membership(places)
    token = Token.decode(text)
    if token.kind != kind:
        raise Refused(
            f"this token invites a {token.kind}, not a {kind}",
            remedy="everup witness TOKEN" if token.kind == "witness" else "everup join TOKEN",
            code="token-kind",
        )
    greeting = _greet(token, newcomer)
    try:
        require_installed(places)
    except Refused:
        # What is wrong with the token is said first: it may be the only thing that is.
        _, csr = _known_or_new(places, newcomer.name)
        _ask(token, greeting, "/check", _request(token, newcomer, csr))
        raise
    key, csr = _key_and_request(places, newcomer.name)
    try:
        answer = _ask(token, greeting, "", _request(token, newcomer, csr))
    except NotConnected:
        raise  # It may have been admitted: the key is kept for the next try.
    except EverupError:
        _pending_key(places).unlink(missing_ok=True)
        raise
    admission = decode(answer, Admission)
    group = parse_group(admission.settings, "the group's settings")
    _settle(places, newcomer, admission, group, key)
    return group


def _greet(token: Token, newcomer: Newcomer) -> Greeting:
    """Fetch the authority and prove it; only after that may the secret be sent."""
    data = request(token.addresses, token.port, unproven_context(), "GET", "/ca")
    greeting = decode(data, Greeting)
    if not compare_digest(fingerprint(greeting.ca.encode()), token.fingerprint):
        raise Refused(
            "the server that answered is not the one that made the token",
            remedy="somebody may be in between; check the addresses, then make a new token",
            code="wrong-authority",
        )
    if greeting.group != token.group:
        raise Refused(
            f"the server that answered belongs to {greeting.group!r}, not to {token.group!r}",
            code="foreign-group",
        )
    if not set(greeting.protocols) & set(newcomer.protocols):
        raise Refused(
            f"no common protocol version: here {list(newcomer.protocols)} ({newcomer.version}), "
            f"there {list(greeting.protocols)} ({greeting.version})",
            remedy="install the same release of Everup on both",
            code="no-common-protocol",
        )
    return greeting


def _request(token: Token, newcomer: Newcomer, csr: bytes) -> bytes:
    asked = JoinRequest(
        secret=token.secret.hex(),
        group=token.group,
        name=newcomer.name,
        management=newcomer.management,
        channels=newcomer.channels,
        request=csr.decode(),
        protocols=newcomer.protocols,
        version=newcomer.version,
    )
    return msgspec.json.encode(asked)


def _ask(token: Token, greeting: Greeting, below: str, body: bytes) -> bytes:
    """Ask to be admitted, or with `below` "/check" only whether we would be."""
    path = ("/join-witness" if token.kind == "witness" else "/join") + below
    context = proven_context(greeting.ca)
    return request(token.addresses, token.port, context, "POST", path, body, deadline_ms=30_000)


def _pending_key(places: Places) -> Path:
    return places.state / "joining.key"


def _key_and_request(places: Places, name: str) -> tuple[bytes, bytes]:
    """A key, kept until the join has ended: when the answer is lost, or this server loses its
    power now, the same token works again for the same key and for no other."""
    key, csr = _known_or_new(places, name)
    save_bytes(_pending_key(places), key, operation="save-pending-key")
    return key, csr


def _known_or_new(places: Places, name: str) -> tuple[bytes, bytes]:
    """The key of an earlier try or a new one, and its request; writes nothing."""
    pending = _pending_key(places)
    return make_request(name, pending.read_bytes() if pending.exists() else None)


def _settle(
    places: Places, newcomer: Newcomer, admission: Admission, group: GroupSettings, key: bytes
) -> None:
    member = group.member(newcomer.name)
    assert member is not None, "an admission without the member that it admits"
    places.make()
    save_bytes(places.private_key, key, operation="save-key")
    save_bytes(places.certificate, admission.certificate.encode(), operation="save-certificate")
    save_bytes(places.ca_certificate, admission.ca.encode(), operation="save-ca", mode=0o644)
    if admission.ca_key:
        save_bytes(places.ca_key, admission.ca_key.encode(), operation="save-ca-key")
    heartbeat_key = admission.heartbeat_key.encode()
    save_bytes(places.heartbeat_key, heartbeat_key, operation="save-heartbeat-key")
    save_group(places.group_settings, group)
    # Last, since every unit starts only when this file exists: before it, we are no member.
    save_server(
        places.server_settings,
        ServerSettings(
            name=member.name,
            identity=member.identity,
            group=group.group,
            management=member.management,
            channels=member.channels,
        ),
    )
    _pending_key(places).unlink(missing_ok=True)


def forget(places: Places) -> None:
    """Undo a founding or joining whose last step failed: back to a server without a group."""
    places.server_settings.unlink(missing_ok=True)
    places.group_settings.unlink(missing_ok=True)
    shutil.rmtree(places.tls, ignore_errors=True)
    places.make()
