"""Founding and joining over real TLS on loopback; every refusal leaves everything as it was."""

import asyncio
import ipaddress
import itertools
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from everup.agent.membership.authority import issue, make_authority, make_request
from everup.agent.membership.foundation import Founding, found, invite, parse_public
from everup.agent.membership.joining import Newcomer, join
from everup.agent.membership.membership import Membership
from everup.agent.membership.remote import proven_context, request
from everup.agent.membership.tokens import Token
from everup.api.memory import MemoryAgent
from everup.api.server import ApiServer
from everup.api.witness import WitnessApi
from everup.config.load import load_group, load_server
from everup.errors import BadInput, EverupError, NotConnected
from everup.places import AGENT_PEER_PORT, Places
from everup.system.installation import install

_networks = itertools.count(os.getpid() * 7)


class Group:
    """Servers on loopback addresses of their own, with the real ports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        net = next(_networks) % 60000 + 1000
        self.prefix = f"127.{net >> 8 & 127 | 64}.{net & 255}"
        self.servers: list[ApiServer | WitnessApi] = []
        self.memberships: dict[str, Membership] = {}

    def places(self, name: str) -> Places:
        return Places.below(self.root / name)

    def installed(self, name: str) -> Places:
        """The places of a server on which `everup install` was run."""
        install(self.places(name))
        return self.places(name)

    def address(self, number: int) -> str:
        return f"{self.prefix}.{number}"

    async def found(self, name: str = "primary", group: str = "shop") -> Places:
        places = self.places(name)
        public = parse_public("192.0.2.10/24@eth0")
        found(places, Founding(group, name, (public,), self.address(1), ()))
        await self.serve(name, 1)
        return places

    async def serve(self, name: str, number: int) -> None:
        membership = Membership(self.places(name), lambda: None)
        self.memberships[name] = membership
        api = ApiServer(MemoryAgent(), membership, peer_host=self.address(number))
        await api.start()
        self.servers.append(api)

    async def serve_witness(self, name: str, number: int) -> WitnessApi:
        api = WitnessApi(self.places(name), host=self.address(number))
        await api.start()
        self.servers.append(api)
        return api

    def newcomer(self, name: str, number: int) -> Newcomer:
        return Newcomer(name, self.address(number), (), "0.1.0")

    async def close(self) -> None:
        for server in self.servers:
            await server.stop()
        for membership in self.memberships.values():
            await membership.close()


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    group = Group(tmp_path)
    yield group
    await group.close()


async def refusal(
    group: Group, token: str, newcomer: Newcomer, kind: str = "server"
) -> EverupError:
    """The error of a join that must be refused, after checking that nothing has changed."""
    places = group.places("refused")
    before = load_group(group.places("primary").group_settings)
    with pytest.raises(EverupError) as caught:
        await asyncio.to_thread(join, places, token, kind, newcomer)
    assert not places.etc.exists()
    assert not places.var.exists()
    assert load_group(group.places("primary").group_settings) == before
    return caught.value


def new_token(group: Group, kind: str = "server") -> str:
    places = group.places("primary")
    return invite(places, load_group(places.group_settings), "primary", kind)


async def test_join_gives_a_server_everything(group: Group) -> None:
    founder = await group.found()
    places = group.installed("secondary")
    joined = await asyncio.to_thread(
        join, places, new_token(group), "server", group.newcomer("secondary", 2)
    )
    assert [(m.name, m.identity) for m in joined.members] == [
        ("primary", "primary"),
        ("secondary", "secondary"),
    ]
    assert load_group(founder.group_settings) == joined == load_group(places.group_settings)
    assert load_server(places.server_settings).identity == "secondary"
    assert places.heartbeat_key.read_bytes() == founder.heartbeat_key.read_bytes()
    assert len(bytes.fromhex(places.heartbeat_key.read_text())) == 32
    assert places.ca_key.read_bytes() == founder.ca_key.read_bytes()
    for secret in (places.ca_key, places.private_key, places.heartbeat_key):
        assert secret.stat().st_mode & 0o777 == 0o600


async def test_join_private_key_is_made_on_the_server_and_certified(group: Group) -> None:
    founder = await group.found()
    await asyncio.to_thread(
        join, group.installed("b"), new_token(group), "server", group.newcomer("b", 2)
    )
    certificate = x509.load_pem_x509_certificate(group.places("b").certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["b"]
    expected = [ipaddress.ip_address(group.address(2))]
    assert names.get_values_for_type(x509.IPAddress) == expected
    assert group.places("b").private_key.read_bytes() != founder.private_key.read_bytes()


async def test_join_second_server_reaches_all_members(group: Group) -> None:
    await group.found()
    for number, name in ((2, "secondary"), (3, "tertiary")):
        newcomer = group.newcomer(name, number)
        await asyncio.to_thread(join, group.installed(name), new_token(group), "server", newcomer)
        await group.serve(name, number)
    # The one that joined first heard of the third from the founder, without asking.
    assert [m.name for m in group.memberships["secondary"].settings.current.members] == [
        "primary",
        "secondary",
        "tertiary",
    ]
    accounts = await group.memberships["tertiary"].peers.accounts("secondary")
    assert accounts["users"]["root"] == 0
    status = await group.memberships["secondary"].peers.status("primary")
    assert status["server"] == "primary"
    assert status["settings_version"] == 3


async def test_join_witness_has_no_authority_and_takes_settings(group: Group) -> None:
    await group.found()
    token = new_token(group, "witness")
    places = group.installed("witness")
    joined = await asyncio.to_thread(join, places, token, "witness", group.newcomer("witness", 4))
    assert joined.witness is not None
    assert not places.ca_key.exists()
    api = await group.serve_witness("witness", 4)
    primary = group.memberships["primary"]
    await primary.change(lambda old: msgspec.structs.replace(old, mode="async"))
    assert api.settings.current.mode == "async"
    assert load_group(places.group_settings).version == primary.settings.current.version == 3


async def test_join_refusals_change_nothing(group: Group) -> None:
    await group.found()
    good = new_token(group)
    newcomer = group.newcomer("secondary", 2)
    wrong = Token.decode(good)
    forged = Token(
        wrong.kind, wrong.group, wrong.addresses, wrong.port, wrong.fingerprint, b"x" * 16
    )
    assert (await refusal(group, forged.encode(), newcomer)).code == "token-unknown"
    assert (await refusal(group, good[:-3], newcomer)).code == "token-malformed"
    assert (await refusal(group, good, newcomer, "witness")).code == "token-kind"
    taken = group.newcomer("primary", 2)
    assert (await refusal(group, good, taken)).code == "name-taken"
    same_address = group.newcomer("secondary", 1)
    assert (await refusal(group, good, same_address)).code == "address-taken"
    bad_name = group.newcomer("Second Server", 2)
    assert (await refusal(group, good, bad_name)).code == "bad-name"
    foreign = Token(
        wrong.kind, "other", wrong.addresses, wrong.port, wrong.fingerprint, wrong.secret
    )
    assert (await refusal(group, foreign.encode(), newcomer)).code == "foreign-group"
    old = Newcomer("secondary", group.address(2), (), "9.0", protocols=(99,))
    refused = await refusal(group, good, old)
    assert refused.code == "no-common-protocol"
    assert "99" in refused.sentence
    # After all of these the token is still good.
    await asyncio.to_thread(join, group.installed("secondary"), good, "server", newcomer)
    third = group.newcomer("tertiary", 3)
    assert (await refusal(group, good, third)).code == "token-used"


async def test_join_without_install_is_refused_and_leaves_the_token_good(group: Group) -> None:
    await group.found()
    for kind, name, number in (("server", "secondary", 2), ("witness", "witness", 4)):
        token, newcomer = new_token(group, kind), group.newcomer(name, number)
        refused = await refusal(group, token, newcomer, kind)
        assert refused.code == "not-installed"
        assert "everup install" in refused.remedy
        joined = await asyncio.to_thread(join, group.installed(name), token, kind, newcomer)
        assert joined.member(name) is not None
        # Once it is used that is said first, though this server is not installed either.
        assert (await refusal(group, token, newcomer, kind)).code == "token-used"


async def test_join_secret_is_not_sent_to_an_impostor(group: Group) -> None:
    await group.found()
    token = Token.decode(new_token(group))
    other = Token(token.kind, token.group, token.addresses, token.port, b"\0" * 32, token.secret)
    assert (await refusal(group, other.encode(), group.newcomer("b", 2))).code == "wrong-authority"
    primary = group.memberships["primary"]
    primary.tokens.check(["server"], token.secret, "nobody has used it")


async def test_join_is_repeated_when_its_answer_was_lost(group: Group) -> None:
    await group.found()
    token, newcomer = new_token(group), group.newcomer("secondary", 2)
    places = group.installed("secondary")
    before = await asyncio.to_thread(join, places, token, "server", newcomer)
    # As after a power cut in the moment of the answer: the key is there, nothing else is.
    key = places.private_key.read_bytes()
    places.server_settings.unlink()
    places.private_key.rename(places.state / "joining.key")
    assert await asyncio.to_thread(join, places, token, "server", newcomer) == before
    assert places.private_key.read_bytes() == key
    assert not (places.state / "joining.key").exists()


async def test_join_a_refused_key_is_not_kept(group: Group) -> None:
    await group.found()
    places = group.installed("secondary")
    with pytest.raises(EverupError):
        await asyncio.to_thread(
            join, places, new_token(group), "server", group.newcomer("primary", 2)
        )
    assert not list(places.state.iterdir())


async def test_join_nobody_takes_over_a_members_identity(group: Group) -> None:
    await group.found()
    newcomer = group.newcomer("secondary", 2)
    await asyncio.to_thread(
        join, group.installed("secondary"), new_token(group), "server", newcomer
    )
    assert (await refusal(group, new_token(group), newcomer)).code == "name-taken"


async def test_join_a_witness_may_only_read(group: Group) -> None:
    founder = await group.found()
    places = group.installed("witness")
    token = new_token(group, "witness")
    await asyncio.to_thread(join, places, token, "witness", group.newcomer("witness", 4))
    context = proven_context(founder.ca_certificate.read_text())
    context.load_cert_chain(places.certificate, places.private_key)

    def ask(method: str, path: str, body: bytes | None = None) -> bytes:
        return request([group.address(1)], AGENT_PEER_PORT, context, method, path, body)

    assert b"settings_version" in await asyncio.to_thread(ask, "GET", "/peer/status")
    forward = b'{"method":"POST","path":"/v1/tokens","body":{"kind":"server"}}'
    for path, body in (("/peer/forward", forward), ("/peer/settings", b'{"toml":""}')):
        with pytest.raises(EverupError) as caught:
            await asyncio.to_thread(ask, "POST", path, body)
        assert caught.value.code == "not-permitted"


async def test_join_a_member_does_not_join_again(group: Group) -> None:
    await group.found()
    newcomer = group.newcomer("secondary", 2)
    await asyncio.to_thread(
        join, group.installed("secondary"), new_token(group), "server", newcomer
    )
    with pytest.raises(EverupError) as caught:
        await asyncio.to_thread(
            join, group.installed("secondary"), new_token(group), "server", newcomer
        )
    assert caught.value.code == "already-member"
    with pytest.raises(EverupError) as caught:
        await group.found("secondary")
    assert caught.value.code == "already-member"


async def test_join_a_group_has_three_servers_and_one_witness(group: Group) -> None:
    await group.found()
    for number, name in ((2, "b"), (3, "c")):
        newcomer = group.newcomer(name, number)
        await asyncio.to_thread(join, group.installed(name), new_token(group), "server", newcomer)
    assert (await refusal(group, new_token(group), group.newcomer("d", 4))).code == "group-full"


async def test_join_nobody_answers(group: Group) -> None:
    await group.found()
    token = Token.decode(new_token(group))
    away = Token(token.kind, "shop", (group.address(99),), 7573, token.fingerprint, token.secret)
    error = await refusal(group, away.encode(), group.newcomer("b", 2))
    assert isinstance(error, NotConnected)


async def test_join_foreign_certificates_are_no_members(group: Group, tmp_path: Path) -> None:
    founder = await group.found()
    ca = founder.ca_certificate.read_text()
    address, port = group.address(1), AGENT_PEER_PORT

    def ask(context: ssl.SSLContext, path: str = "/peer/status") -> bytes:
        return request([address], port, context, "GET", path)

    with pytest.raises(EverupError) as caught:
        await asyncio.to_thread(ask, proven_context(ca))
    assert caught.value.code == "not-permitted"

    def with_certificate(authority, name: str) -> ssl.SSLContext:
        key, csr = make_request(name)
        (tmp_path / "key").write_bytes(key)
        (tmp_path / "pem").write_bytes(issue(authority, csr, name, ["127.0.0.1"]))
        context = proven_context(ca)
        context.load_cert_chain(tmp_path / "pem", tmp_path / "key")
        return context

    foreign = with_certificate(make_authority("shop"), "primary")
    with pytest.raises(NotConnected):
        await asyncio.to_thread(ask, foreign)
    with pytest.raises(NotConnected):
        await asyncio.to_thread(ask, foreign, "/ca")
    removed = with_certificate(group.memberships["primary"].doorkeeper._authority(), "gone")
    with pytest.raises(EverupError) as caught:
        await asyncio.to_thread(ask, removed)
    assert "gone is no member" in caught.value.sentence


@pytest.mark.parametrize("text", ["192.0.2.10", "192.0.2.10/24", "x/24@eth0", "192.0.2.10/24@"])
def test_init_public_address_is_checked(text: str) -> None:
    with pytest.raises(BadInput):
        parse_public(text)


def test_init_refuses_before_it_writes(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    public = parse_public("192.0.2.10/24@eth0")
    for founding, code in (
        (Founding("shop", "a", (public,), "192.0.2.10", ()), "address-taken"),
        (Founding("shop", "a b", (public,), "192.0.2.11", ()), "bad-name"),
        (Founding("shop", "a", (public,), "192.0.2.11", ("nowhere",)), "bad-address"),
    ):
        with pytest.raises(EverupError) as caught:
            found(places, founding)
        assert caught.value.code == code
    assert not places.etc.exists()
