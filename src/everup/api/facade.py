"""What the API needs of the agent; `everup.agent.service.Everup` is the real one.

What enters: plain values that the routes have checked. What leaves: JSON values as the contracts
name them. Tests of the API, the command line and the page use a small group in memory instead.
"""

from typing import Any, Protocol

Json = dict[str, Any]


class Facade(Protocol):
    """All methods raise EverupError for what they refuse; a job is {"id", "kind", "state", ...}."""

    async def status(self) -> Json: ...

    async def events(self, after: int, limit: int) -> list[Json]: ...

    async def group_events(self, cursors: dict[str, int], limit: int) -> Json: ...

    async def job(self, job_id: str) -> Json: ...

    async def protect(self, paths: list[str], units: list[str], mode: str | None) -> Json: ...

    async def unprotect(self, paths: list[str]) -> Json: ...

    async def switchover(self, to: str | None, dry_run: bool) -> Json: ...

    async def failover(self, force: bool) -> Json: ...
