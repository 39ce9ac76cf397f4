"""The console's way to the agent: HTTP over its Unix socket.

What enters: a path and a body. What leaves: JSON, or the error that the agent named.
"""

from pathlib import Path
from typing import Any

import aiohttp

from everup.errors import DeadlinePassed, NotConnected, error_from_json

Json = dict[str, Any]

CALL_DEADLINE_MS = 5_000


class AgentClient:
    """One connection pool; `close` at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> Json:
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: Json) -> Json:
        return await self._ask("POST", path, body)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, method: str, path: str, body: Json | None) -> Json:
        if self._session is None:
            connector = aiohttp.UnixConnector(str(self._path), limit=16)
            timeout = aiohttp.ClientTimeout(total=CALL_DEADLINE_MS / 1000)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        try:
            async with self._session.request(method, f"http://agent{path}", json=body) as answer:
                value: Json = await answer.json()
        except TimeoutError as error:
            raise DeadlinePassed("the agent of this server does not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotConnected(
                "the agent of this server does not answer", remedy="systemctl status everup-agent"
            ) from error
        if answer.status >= 400:
            raise error_from_json(value.get("error", {}))
        return value
