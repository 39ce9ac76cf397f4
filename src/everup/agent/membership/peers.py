"""The other members, as the agent calls them: HTTPS with both certificates checked.

What enters: a member's name and a request. What leaves: its JSON answer, or the error that it
named. Every call has a deadline, every answer a size limit; addresses are tried best first, and the
one that answered last is tried first the next time. Called by the agent and the API.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import aiohttp

from everup.agent.membership.foundation import host_text
from everup.agent.membership.tls import dial_context
from everup.config.schema import GroupSettings, Member
from everup.errors import EverupError, NotConnected, ProtocolError, error_from_json
from everup.places import AGENT_PEER_PORT, WITNESS_PORT, Places

log = logging.getLogger(__name__)

CALL_DEADLINE_MS = 5_000
CONNECT_DEADLINE_MS = 1_500
ANSWER_BYTES_MAX = 4 << 20

Json = dict[str, Any]


class Peers:
    """All members but this one. `group` gives the settings of the moment."""

    def __init__(self, places: Places, name: str, group: Callable[[], GroupSettings]) -> None:
        self._places = places
        self._name = name
        self._group = group
        self._session: aiohttp.ClientSession | None = None
        self._last_good: dict[str, str] = {}

    def names(self) -> tuple[str, ...]:
        """Every other member, the witness too."""
        return tuple(m.name for m in self._group().members if m.name != self._name)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def status(self, server: str) -> Json:
        """What a member says about itself: {server, version, settings_version, status}."""
        return await self.call(server, "GET", "/peer/status")

    async def events(self, server: str, after: int, limit: int) -> list[Json]:
        """A server's own events with a greater id than `after`; 0 means the newest."""
        answer = await self.call(server, "GET", f"/peer/events?after={after}&limit={limit}")
        return [event for event in answer.get("events", ()) if isinstance(event, dict)]

    async def accounts(self, server: str) -> Json:
        """Users and groups of a server with their numbers."""
        return await self.call(server, "GET", "/peer/accounts")

    async def forward(self, server: str, method: str, path: str, body: Json | None = None) -> Json:
        """Ask another server's agent what its own command line could ask it."""
        asked = {"method": method, "path": path, "body": body}
        return await self.call(server, "POST", "/peer/forward", asked, deadline_ms=15_000)

    async def push_settings(self, server: str, text: str) -> None:
        """Give a member the group's settings; raises its reason for not taking them."""
        await self.call(server, "POST", "/peer/settings", {"toml": text})

    async def spread_settings(self, text: str) -> dict[str, EverupError]:
        """Give everybody the settings; those that did not take them, with the reason."""
        names = self.names()
        results = await asyncio.gather(
            *(self.push_settings(name, text) for name in names), return_exceptions=True
        )
        failed: dict[str, EverupError] = {}
        for name, result in zip(names, results, strict=True):
            if isinstance(result, EverupError):
                log.info("%s did not take the settings: %s", name, result)
                failed[name] = result
            elif result is not None:
                raise result
        return failed

    async def call(
        self,
        server: str,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        deadline_ms: int = CALL_DEADLINE_MS,
    ) -> Json:
        """One request to one member. Raises NotConnected when no address of it answers in time."""
        member = self._group().member(server)
        if member is None:
            raise NotConnected(f"the group has no member {server!r}", code="unknown-member")
        reasons = []
        for address in self._addresses(member):
            try:
                answer = await self._ask(address, member, method, path, body, deadline_ms)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                reasons.append(f"{address}: {_reason(error)}")
                continue
            self._last_good[server] = address
            return answer
        raise NotConnected(
            f"{server} does not answer ({'; '.join(reasons)})",
            remedy=f"check that {server} runs and can be reached",
            code="peer-not-connected",
        )

    def _addresses(self, member: Member) -> list[str]:
        best = self._last_good.get(member.name)
        addresses = [member.management, *member.channels]
        if best in addresses:
            addresses.remove(best)
            addresses.insert(0, best)
        return addresses

    async def _ask(
        self,
        address: str,
        member: Member,
        method: str,
        path: str,
        body: Json | None,
        deadline_ms: int,
    ) -> Json:
        port = WITNESS_PORT if member.identity == "witness" else AGENT_PEER_PORT
        url = f"https://{host_text(address)}:{port}{path}"
        timeout = aiohttp.ClientTimeout(
            total=deadline_ms / 1000, sock_connect=CONNECT_DEADLINE_MS / 1000
        )
        session = self._open_session()
        async with session.request(
            method, url, json=body, timeout=timeout, server_hostname=member.name
        ) as answer:
            data = await answer.content.read(ANSWER_BYTES_MAX + 1)
            while len(data) <= ANSWER_BYTES_MAX and (
                part := await answer.content.read(ANSWER_BYTES_MAX + 1 - len(data))
            ):
                data += part
            return _checked(data, answer.status, member.name)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # A pooled connection would hide that the way to a peer is gone until its time-out.
            connector = aiohttp.TCPConnector(ssl=dial_context(self._places), force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._session


def _checked(data: bytes, status: int, server: str) -> Json:
    if len(data) > ANSWER_BYTES_MAX:
        raise ProtocolError(f"{server} sent an answer of more than 4 MiB")
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ProtocolError(f"{server} did not answer with JSON (HTTP {status})") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"{server} did not answer with a JSON object")
    if status >= 400:
        raise error_from_json(value.get("error", {}))
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not of this group"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
