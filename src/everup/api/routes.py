"""The routes under /v1 (see docs/protocol/api.md): thin; check, call the agent, answer.

What enters: requests of the command line, the console, and peers on behalf of theirs. What leaves:
JSON. No policy is here.
"""

import secrets
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from everup.agent.membership.membership import Membership
from everup.api import bodies
from everup.api.facade import Facade, Json
from everup.config.load import parse_group
from everup.config.schema import GroupSettings
from everup.errors import BadInput, Refused

EVENTS_MAX = 500


class Routes:
    """Handlers over one agent and its membership."""

    def __init__(self, agent: Facade, membership: Membership) -> None:
        self._agent = agent
        self._membership = membership

    def add_to(self, app: web.Application) -> None:
        table: list[tuple[str, str, Callable[[web.Request], Awaitable[web.Response]]]] = [
            ("GET", "/v1/status", self.status),
            ("GET", "/v1/events", self.events),
            ("GET", "/v1/group/events", self.group_events),
            ("GET", "/v1/jobs/{id}", self.job),
            ("POST", "/v1/protect", self.protect),
            ("POST", "/v1/unprotect", self.unprotect),
            ("POST", "/v1/switchover", self.switchover),
            ("POST", "/v1/failover", self.failover),
            ("GET", "/v1/config", self.config),
            ("POST", "/v1/config", self.set_config),
            ("POST", "/v1/tokens", self.new_token),
            ("POST", "/v1/login", self.login),
        ]
        for method, path, handler in table:
            app.router.add_route(method, path, handler)

    async def status(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(await self._agent.status())

    async def events(self, request: web.Request) -> web.Response:
        after = _number(request.query.get("after", "0"), "after")
        return web.json_response({"events": await self._agent.events(after, _limit(request))})

    async def group_events(self, request: web.Request) -> web.Response:
        cursors = _cursors(request.query.get("after", ""))
        return web.json_response(await self._agent.group_events(cursors, _limit(request)))

    async def job(self, request: web.Request) -> web.Response:
        return web.json_response({"job": await self._agent.job(request.match_info["id"])})

    async def protect(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Protect)
        job = await self._agent.protect(list(body.paths), list(body.units), body.mode)
        return accepted(job)

    async def unprotect(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Unprotect)
        return accepted(await self._agent.unprotect(list(body.paths)))

    async def switchover(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Switchover)
        return accepted(await self._agent.switchover(body.to, body.dry_run))

    async def failover(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Failover)
        return accepted(await self._agent.failover(body.force))

    async def config(self, request: web.Request) -> web.Response:
        del request
        settings = self._membership.settings
        return web.json_response({"version": settings.current.version, "toml": settings.text()})

    async def set_config(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Config)
        new = parse_group(body.toml, "the new settings")
        stored = await self._membership.change(lambda old: _edited(old, new))
        return web.json_response({"version": stored.version})

    async def new_token(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.NewToken)
        text = self._membership.invite(body.kind)
        return web.json_response({"link" if body.kind == "page" else "token": text})

    async def login(self, request: web.Request) -> web.Response:
        """Redeem the secret of a page's link."""
        body = await bodies.read(request, bodies.Login)
        try:
            secret = bytes.fromhex(body.secret)
        except ValueError:
            secret = b""
        # A holder of its own for every login: the same link never works twice.
        self._membership.tokens.redeem(["page"], secret, secrets.token_hex())
        return web.json_response({"role": "operator"})


def accepted(job: Json) -> web.Response:
    """The answer to a request for long work."""
    return web.json_response({"job": job}, status=202)


def _limit(request: web.Request) -> int:
    return min(_number(request.query.get("limit", "100"), "limit"), EVENTS_MAX)


def _cursors(text: str) -> dict[str, int]:
    """`primary:12,secondary:7` as {"primary": 12, "secondary": 7}."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition(":")
        found[name] = _number(number, "after")
    return found


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadInput(f"{name} must be a whole number, not {text!r}")
    return int(text)


_FIXED = {
    "group": "the group's name cannot be changed",
    "group_id": "the group's id cannot be changed",
    "members": "members come with everup join and everup witness",
    "protect": "paths are changed with everup protect and everup unprotect",
}


def _edited(old: GroupSettings, new: GroupSettings) -> GroupSettings:
    """The settings that a person sent, unless somebody else was faster or something is fixed."""
    if new.version != old.version:
        raise Refused(
            f"the settings have version {old.version} now, yours were made from {new.version}",
            remedy="everup config show, make your change there, send it again",
            code="settings-older",
        )
    for key, why in _FIXED.items():
        if getattr(new, key) != getattr(old, key):
            raise Refused(f"{key} is not changed here", remedy=why, code="config-fixed")
    return msgspec.structs.replace(new)
