"""Serve an agent: its own socket for this server, TLS for the members.

What enters: an agent (`Facade`), its membership, and places. What leaves: two running listeners
until `stop`. Called by the agent's process; tests call it with a small group in memory.
"""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from everup.agent.membership.membership import Membership
from everup.agent.membership.tls import listen_context
from everup.api.access import local_access, member_access, who_is_local, who_is_remote
from everup.api.audit import audited
from everup.api.bodies import BODY_BYTES_MAX
from everup.api.data_routes import DataRoutes
from everup.api.errors import errors_as_json
from everup.api.facade import Facade, Json
from everup.api.peer import MemberRoutes, ServerRoutes
from everup.api.routes import Routes
from everup.errors import NotConnected, ProtocolError, error_from_json
from everup.places import AGENT_PEER_PORT
from everup.system.installation import USER

SHUTDOWN_S = 2.0


class ApiServer:
    """`peer_host` and `peer_port` are only changed by tests that run several on one machine."""

    def __init__(
        self,
        agent: Facade,
        membership: Membership,
        *,
        peer_host: str | None = None,
        peer_port: int = AGENT_PEER_PORT,
    ) -> None:
        self._agent = agent
        self._membership = membership
        self._peer_host = peer_host
        self._peer_port = peer_port
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Raises OSError when an address is taken."""
        await self._start_local()
        await self._start_peer()

    async def stop(self) -> None:
        while self._runners:
            await self._runners.pop().cleanup()

    async def _start_local(self) -> None:
        app = make_app(local_access, who_is_local)
        Routes(self._agent, self._membership).add_to(app)
        DataRoutes(self._agent).add_to(app)
        runner = await self._run(app)
        path = self._membership.places.agent_socket
        await web.SockSite(runner, listen_unix(path)).start()

    async def _start_peer(self) -> None:
        membership = self._membership
        app = make_app(member_access(lambda: membership.settings.current), who_is_remote)
        MemberRoutes(membership.name, membership.settings, self._agent.status).add_to(app)
        events = Routes(self._agent, membership).events
        ServerRoutes(membership.doorkeeper, events, self._ask_own_socket).add_to(app)
        runner = await self._run(app)
        context = listen_context(membership.places)
        await web.TCPSite(
            runner, self._peer_host, self._peer_port, ssl_context=context, reuse_address=True
        ).start()

    async def _run(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _ask_own_socket(self, method: str, path: str, body: Json | None) -> Json:
        """A forwarded request takes the way of a local one, with the same checks and audit."""
        connector = aiohttp.UnixConnector(str(self._membership.places.agent_socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://agent{path}", json=body) as answer,
        ):
            value: Any = await answer.json()
        if not isinstance(value, dict):
            raise ProtocolError("the agent did not answer with a JSON object")
        if answer.status == 503:
            raise NotConnected(**_words(value))
        if answer.status >= 400:
            raise error_from_json(value["error"])
        return value


def make_app(access: Any, who: Callable[[web.Request], str]) -> web.Application:
    """An application with the middlewares that all of ours have."""
    return web.Application(
        middlewares=[audited(who), errors_as_json, access], client_max_size=BODY_BYTES_MAX
    )


def listen_unix(path: Path) -> socket.socket:
    """A socket that root and the group of the console may use, from its first moment on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    try:
        shutil.chown(path, group=USER)
        path.chmod(0o660)
    except LookupError:
        pass  # Without the user there is no console on this server: root alone may ask.
    return listener


def _words(value: dict[str, Any]) -> dict[str, str]:
    error = value["error"]
    return {"sentence": error["sentence"], "remedy": error["remedy"], "code": error["code"]}
