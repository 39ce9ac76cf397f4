"""The routes about data: queues, verification, synchronization, bundles.

What enters: requests, as in `routes`. What leaves: JSON, and for an export a tar stream. Thin: no
policy is here.
"""

import asyncio
import logging
import os

from aiohttp import web

from everup.api import bodies
from everup.api.facade import Facade
from everup.api.handlers import add_routes, doing, giving
from everup.api.routes import accepted
from everup.errors import EverupError

log = logging.getLogger(__name__)

PART_BYTES = 256 << 10


class DataRoutes:
    def __init__(self, agent: Facade) -> None:
        self._agent = agent

    def add_to(self, app: web.Application) -> None:
        agent = self._agent
        add_routes(
            app,
            [
                ("GET", "/v1/queues", giving(agent.queues)),
                ("GET", "/v1/group/queues", giving(agent.group_queues)),
                ("GET", "/v1/verify", giving(agent.verified)),
                ("GET", "/v1/verify/tree", self.verified_tree),
                ("POST", "/v1/verify", self.verify),
                ("POST", "/v1/sync", self.sync),
                ("POST", "/v1/allow-removals", doing(agent.allow_removals)),
                ("GET", "/v1/divergence", giving(agent.bundles, "bundles")),
                ("GET", "/v1/group/divergence", giving(agent.group_bundles)),
                ("GET", "/v1/divergence/{id}", self.bundle),
                ("GET", "/v1/divergence/{id}/tar", self.export),
                ("POST", "/v1/divergence/{id}/delete", self.delete),
            ],
        )

    async def verified_tree(self, request: web.Request) -> web.Response:
        path = bodies.path_of(request.query.get("path"))
        return web.json_response(await self._agent.verified_tree(path))

    async def verify(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Verify)
        return accepted(await self._agent.verify(body.path, body.gentle))

    async def sync(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Sync)
        return accepted(await self._agent.sync_data(body.path, body.allow_removals))

    async def bundle(self, request: web.Request) -> web.Response:
        return web.json_response({"bundle": await self._agent.bundle(request.match_info["id"])})

    async def delete(self, request: web.Request) -> web.Response:
        await self._agent.delete_bundle(request.match_info["id"])
        return web.json_response({})

    async def export(self, request: web.Request) -> web.StreamResponse:
        """The archive as it is made: it may be larger than memory or disk."""
        name = request.match_info["id"]
        await self._agent.bundle(name)
        answer = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        await answer.prepare(request)
        reading, writing = os.pipe()
        make = asyncio.create_task(self._write(name, writing))
        try:
            while part := await asyncio.to_thread(os.read, reading, PART_BYTES):
                await answer.write(part)
        finally:
            os.close(reading)
            whole = await make
        if whole:
            await answer.write_eof()
        elif request.transport is not None:
            # Without its last chunk nobody takes the archive for a whole one.
            request.transport.abort()
        return answer

    async def _write(self, name: str, descriptor: int) -> bool:
        """Whether the archive is whole."""
        try:
            with os.fdopen(descriptor, "wb") as out:
                await self._agent.export_bundle(name, out)
        except BrokenPipeError:
            return False  # The one who asked has gone away.
        except (OSError, EverupError) as error:
            log.error("the archive of %s broke off: %s", name, error)
            return False
        return True
