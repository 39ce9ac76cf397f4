"""Protected systemd units: held back while this server is passive, started and stopped in order.

What enters: unit names in start order. What leaves: their states, and errors that name the unit.
Called by observe (states) and act (deeds) through the agent. The hold is a drop-in of systemd's
own, so it works also while Everup does not run: a held unit starts after the guard, and only when
the flag file is there.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from everup.errors import EverupError
from everup.model.observation import Unit
from everup.system.files import save_bytes
from everup.system.systemd import SystemdError, UnitState

log = logging.getLogger(__name__)

DROP_IN_NAME = "50-everup.conf"
SUFFIXES = (".service", ".socket", ".timer", ".target", ".mount", ".path", ".slice", ".scope")


def unit_name(name: str) -> str:
    """systemd's full name: "postgresql@15-main" is a service."""
    return name if name.endswith(SUFFIXES) else name + ".service"


def drop_in_text(flag: Path) -> str:
    """What holds a unit back. At boot it starts after the guard, at shutdown it stops before it.

    Not `Requires=`: when the guard dies systemd starts it again as a restart, which it passes on to
    all that require it. It would stop the application first, which waits for the guard: both for
    ever. The flag alone keeps a unit from starting where no gate is open.
    """
    return (
        "# Written by Everup while this unit is protected; removed by `everup unprotect`.\n"
        "[Unit]\n"
        "Wants=everup-guard.service\n"
        "After=everup-guard.service\n"
        f"ConditionPathExists={flag}\n"
    )


class Manager(Protocol):
    """What is needed of systemd; the tests have one in memory that keeps the same contract."""

    async def state(self, name: str) -> UnitState: ...

    async def stopping(self) -> bool: ...

    async def start(self, name: str, deadline_ms: int) -> None: ...

    async def stop(self, name: str, deadline_ms: int) -> bool: ...

    async def reload(self) -> None: ...


class Services:
    """The units of this server that Everup holds, starts and stops."""

    def __init__(self, manager: Manager, directory: Path, flag: Path) -> None:
        self._manager = manager
        self._directory = directory
        self._text = drop_in_text(flag)

    # --- questions

    async def states(self, wanted: tuple[str, ...]) -> tuple[Unit, ...]:
        """The wanted units, and those that are still held from an earlier time."""
        names = dict.fromkeys((*wanted, *self._held_names(wanted)))
        return tuple([await self._unit(name) for name in names])

    async def stopping(self) -> bool:
        """Whether this server is being shut down."""
        return await self._manager.stopping()

    def _held_names(self, wanted: tuple[str, ...]) -> list[str]:
        known = {unit_name(name) for name in wanted}
        found = self._directory.glob(f"*.d/{DROP_IN_NAME}")
        return sorted({path.parent.name.removesuffix(".d") for path in found} - known)

    async def _unit(self, name: str) -> Unit:
        state = await self._manager.state(unit_name(name))
        mine = str(self._drop_in(name))
        held = mine in state.drop_ins and not state.stale
        return Unit(name, state.active, held)

    # --- deeds

    async def hold(self, wanted: tuple[str, ...]) -> None:
        """Let exactly these units depend on guard and flag; verified by asking systemd."""
        for name in wanted:
            path = self._drop_in(name)
            if not path.exists() or path.read_text() != self._text:
                path.parent.mkdir(mode=0o755, exist_ok=True)
                save_bytes(path, self._text.encode(), operation="hold-unit", mode=0o644)
        for name in self._held_names(wanted):
            path = self._drop_in(name)
            path.unlink(missing_ok=True)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        await self._manager.reload()
        for unit in await self.states(wanted):
            if unit.held != (unit.name in wanted):
                raise SystemdError(f"systemd did not take the drop-in of {unit.name}")

    async def start(self, names: tuple[str, ...], deadline_ms: int) -> None:
        """Start in order, each until it is active. Raises the first failure, by name."""
        for name in names:
            await self._manager.start(unit_name(name), deadline_ms)

    async def stop(self, names: tuple[str, ...], deadline_ms: int) -> list[str]:
        """Stop in reverse order; returns those that had to be killed.

        One that cannot be stopped does not keep the others running; it is raised at the end.
        """
        killed, failure = [], None
        for name in reversed(names):
            try:
                if not await self._manager.stop(unit_name(name), deadline_ms):
                    killed.append(name)
            except EverupError as error:
                log.warning("%s could not be stopped: %s", name, error)
                failure = error
        if failure is not None:
            raise failure
        return killed

    async def missing(self, names: tuple[str, ...]) -> list[str]:
        """Units that this server does not have."""
        states = [await self._manager.state(unit_name(name)) for name in names]
        return [s.name for s in states if s.load in ("not-found", "bad-setting", "error")]

    def _drop_in(self, name: str) -> Path:
        return self._directory / f"{unit_name(name)}.d" / DROP_IN_NAME


class UnitWatch:
    """States of the units, asked again only after a signal, or when they are older than a second.

    A turn that comes every 100 ms must not ask systemd ten times a second for what rarely changes,
    and must not wait for a systemd that is busy reading its files again: then it gets what was
    known last, as long as that is fresh enough to be believed.
    """

    AGE_MAX_S = 1.0
    BELIEVED_S = 5.0
    PATIENCE_S = 0.05

    def __init__(self, services: Services, refreshed: Callable[[], None] = lambda: None) -> None:
        self._services = services
        self._refreshed = refreshed
        self._known: tuple[Unit, ...] | None = None
        self._stopping = False
        self._wanted: tuple[str, ...] = ()
        self._asked_at = float("-inf")
        self._stale = True
        self._asking: asyncio.Task[None] | None = None

    @property
    def stopping(self) -> bool:
        """This server is being shut down, as far as systemd has said."""
        return self._stopping

    def changed(self) -> None:
        """Something happened in systemd."""
        self._stale = True

    async def read(self, wanted: tuple[str, ...], deadline_ms: int) -> tuple[Unit, ...] | None:
        """States of the wanted and held units; None when systemd does not answer.

        The answer of a question that takes longer comes with a later turn, which `refreshed` asks
        for. `deadline_ms` is how long a first answer may take.
        """
        age_s = time.monotonic() - self._asked_at
        if self._stale or age_s > self.AGE_MAX_S or wanted != self._wanted:
            self._ask(wanted)
        first = wanted != self._wanted or self._known is None
        if self._asking is not None:
            patience_s = deadline_ms / 1000 if first else self.PATIENCE_S
            await asyncio.wait([self._asking], timeout=patience_s)
        if wanted != self._wanted or time.monotonic() - self._asked_at > self.BELIEVED_S:
            return None
        return self._known

    def _ask(self, wanted: tuple[str, ...]) -> None:
        if self._asking is None or self._asking.done():
            self._stale = False
            self._asking = asyncio.create_task(self._refresh(wanted))

    async def _refresh(self, wanted: tuple[str, ...]) -> None:
        at = time.monotonic()
        try:
            known = await self._services.states(wanted)
            # Asked last: a unit that is seen stopped by a shutdown is never seen without it.
            stopping = await self._services.stopping()
        except (EverupError, OSError) as error:
            log.warning("the states of the units are unknown: %s", error)
            self._stale = True
            return
        news = known != self._known or wanted != self._wanted or stopping != self._stopping
        self._stopping = stopping
        self._known, self._wanted, self._asked_at = known, wanted, at
        if news:
            self._refreshed()
