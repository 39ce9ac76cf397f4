"""What members ask of each other, and what a newcomer asks: HTTPS with the group's certificates.

What enters: requests on TCP 7573 (on the witness 7572). What leaves: JSON. Without a certificate
only `/ca`, `/join`, `/join-witness` and their `/check` are open; all but the first need the secret
of a token.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from everup import __version__
from everup.agent.membership.accounts import local_accounts
from everup.agent.membership.admission import Doorkeeper
from everup.agent.membership.messages import JoinRequest, decode
from everup.agent.membership.settings import SettingsStore
from everup.agent.membership.tokens import Kind
from everup.api import bodies
from everup.api.facade import Json
from everup.api.handlers import Handler, add_routes, giving

Forward = Callable[[str, str, Json | None], Awaitable[Json]]
Status = Callable[[], Awaitable[Json]]


class MemberRoutes:
    """What every member answers, the witness too."""

    def __init__(self, name: str, settings: SettingsStore, status: Status) -> None:
        self._name = name
        self._settings = settings
        self._status = status

    def add_to(self, app: web.Application) -> None:
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/peer/status", giving(self.status)),
            ("GET", "/peer/settings", giving(self.settings)),
            ("POST", "/peer/settings", self.take_settings),
        ]
        add_routes(app, table)

    async def status(self) -> Json:
        return {
            "server": self._name,
            "version": __version__,
            "settings_version": self._settings.current.version,
            "settings_digest": self._settings.digest(),
            "status": await self._status(),
        }

    async def settings(self) -> Json:
        return {"toml": self._settings.text()}

    async def take_settings(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Config)
        # In a thread: it syncs to disk.
        changed = await asyncio.to_thread(self._settings.accept, body.toml)
        return web.json_response({"changed": changed})


class ServerRoutes:
    """What only servers that hold data answer."""

    def __init__(self, doorkeeper: Doorkeeper, events: Handler, forward: Forward) -> None:
        self._doorkeeper = doorkeeper
        self._events = events
        self._forward = forward

    def add_to(self, app: web.Application) -> None:
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/ca", self.greet),
            ("POST", "/join", self.join),
            ("POST", "/join-witness", self.join_witness),
            ("POST", "/join/check", self.check_server),
            ("POST", "/join-witness/check", self.check_witness),
            ("GET", "/peer/accounts", giving(self.accounts)),
            ("GET", "/peer/events", self._events),
            ("POST", "/peer/forward", self.forward),
        ]
        add_routes(app, table)

    async def greet(self, request: web.Request) -> web.Response:
        del request
        return _json(self._doorkeeper.greet())

    async def join(self, request: web.Request) -> web.Response:
        return await self._admit(request, "server")

    async def join_witness(self, request: web.Request) -> web.Response:
        return await self._admit(request, "witness")

    async def check_server(self, request: web.Request) -> web.Response:
        return await self._check(request, "server")

    async def check_witness(self, request: web.Request) -> web.Response:
        return await self._check(request, "witness")

    async def _admit(self, request: web.Request, kind: Kind) -> web.Response:
        asked = decode(await request.read(), JoinRequest)
        return _json(await self._doorkeeper.admit(asked, kind))

    async def _check(self, request: web.Request, kind: Kind) -> web.Response:
        asked = decode(await request.read(), JoinRequest)
        await self._doorkeeper.check(asked, kind)
        return web.json_response({})

    async def accounts(self) -> Json:
        return await asyncio.to_thread(local_accounts)

    async def forward(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Forward)
        return web.json_response(await self._forward(body.method, body.path, body.body))


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
