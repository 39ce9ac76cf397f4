"""What the performers work with.

What leaves: `Tools`, made once by the agent. The protocols are what is needed of the other parts;
the tests have small ones in memory that keep the same contract.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from everup.config.schema import GroupSettings
from everup.errors import Refused

Json = dict[str, Any]


class Called(Protocol):
    """A control socket on which work is asked for."""

    async def call(self, verb: str, *, wait_ms: int, **arguments: Any) -> Json: ...


class Units(Protocol):
    """The protected units of this server."""

    async def hold(self, wanted: tuple[str, ...]) -> None: ...

    async def start(self, names: tuple[str, ...], deadline_ms: int) -> None: ...

    async def stop(self, names: tuple[str, ...], deadline_ms: int) -> list[str]: ...


@dataclass(frozen=True)
class Tools:
    server: str
    boot_id: str
    keeper: Called
    guard: Called
    replicator: Called
    units: Units
    flag: Path
    tree_state: Path
    settings: Callable[[], GroupSettings | None]

    def group(self) -> GroupSettings:
        """The settings; an action that needs them is refused without."""
        settings = self.settings()
        if settings is None:
            raise Refused("this server belongs to no group", code="no-group")
        return settings
