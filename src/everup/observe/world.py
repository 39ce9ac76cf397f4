"""Gather one frozen Observation: the whole world of a turn, asked for once.

What enters: the control sockets, the deadline page, systemd, the settings, and what the executor
and people have left for this turn. What leaves: `Observation`. Called by the agent's loop. Every
question has a tight deadline and all are asked at the same time; who does not answer is unknown.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from everup.config.schema import GroupSettings
from everup.errors import EverupError
from everup.model import observation as m
from everup.observe.reading import read_group, read_guard, read_keeper, read_replicator
from everup.system.clock import boottime_ns
from everup.system.leasepage import LeasePageReader

log = logging.getLogger(__name__)

T = TypeVar("T")
ASK_MS = 400
"""Longer than any healthy answer on a loaded machine, shorter than a lease."""


class Asked(Protocol):
    """A control socket, as far as a turn uses it."""

    @property
    def name(self) -> str: ...

    async def ask(self, verb: str, *, wait_ms: int, **arguments: Any) -> dict[str, Any]: ...


class Units(Protocol):
    """Where the states of the units come from."""

    @property
    def stopping(self) -> bool: ...

    async def read(
        self, wanted: tuple[str, ...], deadline_ms: int
    ) -> tuple[m.Unit, ...] | None: ...


@dataclass(frozen=True)
class Hand:
    """What the agent itself adds to a turn: its executor's results and a person's request."""

    under_way: frozenset[str] = frozenset()
    outcomes: tuple[m.Outcome, ...] = ()
    request: m.Request | None = None


class World:
    """Asks everybody; remembers the last raw answers for those who show them to people."""

    def __init__(
        self,
        server: str,
        boot_id: bytes,
        *,
        keeper: Asked,
        guard: Asked,
        replicator: Asked,
        units: Units,
        page: Path,
        flag: Path,
        settings: Callable[[], GroupSettings | None],
    ) -> None:
        self._server = server
        self._boot_id = boot_id.hex()
        self._keeper, self._guard, self._replicator = keeper, guard, replicator
        self._units = units
        self._page = LeasePageReader(page, boot_id)
        self._flag = flag
        self._settings = settings
        self._started_ms = boottime_ns() // 1_000_000
        self.answers: dict[str, dict[str, Any]] = {}
        self._silent: set[str] = set()

    async def gather(self, hand: Hand) -> m.Observation:
        """One turn's observation. Never raises for what does not answer."""
        group = read_group(self._settings())
        keeper, guard, replicator, units = await asyncio.gather(
            self._ask(self._keeper, read_keeper),
            self._ask(self._guard, read_guard),
            self._ask(self._replicator, read_replicator),
            self._units.read(group.units, ASK_MS),
        )
        # The page is read last: it is what decides, and it must not be older than the answers.
        epoch, deadline_ns = self._page.read()
        now_ns = boottime_ns()
        return m.Observation(
            now_ms=now_ns // 1_000_000,
            boot_id=self._boot_id,
            server=self._server,
            started_ms=self._started_ms,
            group=group,
            keeper=keeper,
            guard=guard,
            replicator=replicator,
            units=units,
            stopping=self._units.stopping,
            page_epoch=epoch,
            page_left_ms=max(0, (deadline_ns - now_ns) // 1_000_000),
            flag=self._flag.exists(),
            under_way=hand.under_way,
            outcomes=hand.outcomes,
            request=hand.request,
        )

    async def _ask(self, client: Asked, read: Callable[[dict[str, Any]], T]) -> T | None:
        try:
            answer = await client.ask("status", wait_ms=ASK_MS)
            facts = read(answer)
        except EverupError as error:
            self.answers.pop(client.name, None)
            self._note(client.name, error)
            return None
        self.answers[client.name] = answer
        self._note(client.name, None)
        return facts

    def _note(self, name: str, error: EverupError | None) -> None:
        """Log the beginning and the end of a silence, not every turn of it."""
        if error is not None and name not in self._silent:
            self._silent.add(name)
            log.warning("%s is not observed: %s", name, error)
        if error is None and name in self._silent:
            self._silent.discard(name)
            log.info("%s is observed again", name)
