"""Handlers that need nothing of the request.

What enters: a question to the agent. What leaves: a handler that answers with its JSON. Called by
all the tables of routes.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def giving(ask: Callable[[], Awaitable[Any]], key: str | None = None) -> Handler:
    """Answers with what `ask` returns, or with {key: that}."""

    async def handle(request: web.Request) -> web.StreamResponse:
        del request
        value = await ask()
        return web.json_response(value if key is None else {key: value})

    return handle


def doing(act: Callable[[], Awaitable[None]]) -> Handler:
    """Does something that has no answer."""

    async def handle(request: web.Request) -> web.StreamResponse:
        del request
        await act()
        return web.json_response({})

    return handle


def add_routes(app: web.Application, table: list[tuple[str, str, Handler]]) -> None:
    """`table`: method, path, handler."""
    for method, path, handler in table:
        app.router.add_route(method, path, handler)
