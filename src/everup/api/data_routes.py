"""The routes about data: queues, verification, synchronization, divergence bundles.

What enters: requests, as in `routes`. What leaves: JSON, and for an export a tar stream. Thin: no
policy is here.
"""

import asyncio
import os

from aiohttp import web

from everup.api import bodies
from everup.api.facade import Facade
from everup.api.routes import accepted
from everup.errors import EverupError

PART_BYTES = 256 << 10


class DataRoutes:
    def __init__(self, agent: Facade) -> None:
        self._agent = agent

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/queues", self.queues)
        app.router.add_get("/v1/group/queues", self.group_queues)
        app.router.add_get("/v1/verify", self.verified)
        app.router.add_post("/v1/verify", self.verify)
        app.router.add_post("/v1/sync", self.sync)
        app.router.add_post("/v1/allow-removals", self.allow_removals)
        app.router.add_get("/v1/divergence", self.bundles)
        app.router.add_get("/v1/group/divergence", self.group_bundles)
        app.router.add_get("/v1/divergence/{id}", self.bundle)
        app.router.add_get("/v1/divergence/{id}/tar", self.export)
        app.router.add_post("/v1/divergence/{id}/delete", self.delete)

    async def queues(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(await self._agent.queues())

    async def group_queues(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(await self._agent.group_queues())

    async def verified(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(await self._agent.verified())

    async def verify(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Verify)
        return accepted(await self._agent.verify(body.path, body.gentle))

    async def sync(self, request: web.Request) -> web.Response:
        body = await bodies.read(request, bodies.Sync)
        return accepted(await self._agent.sync_data(body.path, body.allow_removals))

    async def allow_removals(self, request: web.Request) -> web.Response:
        del request
        await self._agent.allow_removals()
        return web.json_response({})

    async def bundles(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"bundles": await self._agent.bundles()})

    async def group_bundles(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(await self._agent.group_bundles())

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
            await make
        await answer.write_eof()
        return answer

    async def _write(self, name: str, descriptor: int) -> None:
        with os.fdopen(descriptor, "wb") as out:
            try:
                await self._agent.export_bundle(name, out)
            except BrokenPipeError:
                pass  # The one who asked has gone away.
            except (OSError, EverupError):
                # The archive ends without its end mark: tar says that it is not whole.
                return
