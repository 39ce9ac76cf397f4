"""systemd over D-Bus: how units are, start, stop, kill; without a subprocess.

What enters: unit names and deadlines. What leaves: `UnitState`, and errors that say what systemd
said. Called by `applications`. Answers come from systemd itself, never from memory of what was
asked. A signal of systemd only says "look again".
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from everup.errors import DeadlinePassed, EverupError, NotConnected

log = logging.getLogger(__name__)

_SERVICE = "org.freedesktop.systemd1"
_MANAGER_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT = "org.freedesktop.systemd1.Unit"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_ASK_MS = 3_000
_KILL_WAIT_MS = 5_000
SIGKILL = 9


@dataclass(frozen=True)
class UnitState:
    """What systemd says of one unit."""

    name: str
    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    drop_ins: tuple[str, ...] = ()
    stale: bool = False
    """Files of the unit changed on disk and systemd has not read them again."""


class SystemdError(EverupError):
    """systemd refused or failed; the sentence is its own."""

    code = "unit-failed"


class Systemd:
    """One connection to systemd, made again after it broke; `changed` is called on signals."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._paths: dict[str, str] = {}
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._ended: dict[str, str] = {}
        """Results of jobs whose end came before anybody could wait for it."""

    # --- questions

    async def state(self, name: str) -> UnitState:
        """How the unit is now; a unit that does not exist has load state "not-found"."""
        path = self._paths.get(name)
        if path is None:
            (path,) = await self._call("LoadUnit", "s", [name])
            self._paths[name] = path
        answer = await self._send(path, _PROPERTIES, "GetAll", "s", [_UNIT])
        values = {key: variant.value for key, variant in answer[0].items()}
        return UnitState(
            name,
            str(values["LoadState"]),
            str(values["ActiveState"]),
            str(values["SubState"]),
            tuple(values.get("DropInPaths", ())),
            bool(values.get("NeedDaemonReload", False)),
        )

    async def stopping(self) -> bool:
        """Whether this server is being shut down: systemd starts nothing any more."""
        answer = await self._send(
            _MANAGER_PATH, _PROPERTIES, "Get", "ss", [_MANAGER, "SystemState"]
        )
        return bool(answer[0].value == "stopping")

    # --- deeds

    async def start(self, name: str, deadline_ms: int) -> None:
        """Start and wait until it is active. Raises SystemdError or DeadlinePassed."""
        await self._reset_failed(name)
        result = await self._job("StartUnit", name, deadline_ms)
        state = await self.state(name)
        if state.active not in ("active", "reloading"):
            raise SystemdError(
                f"{name} did not start: job {result}, unit {state.active} ({state.sub})",
                remedy=f"journalctl -u {name}",
            )

    async def stop(self, name: str, deadline_ms: int) -> bool:
        """Stop; what still runs at the deadline is killed. True when nothing had to be killed."""
        try:
            await self._job("StopUnit", name, deadline_ms)
            return True
        except DeadlinePassed:
            log.warning("%s did not stop in %d ms and is killed", name, deadline_ms)
        await self._call("KillUnit", "ssi", [name, "all", SIGKILL])
        await self._job("StopUnit", name, _KILL_WAIT_MS)
        return False

    async def reload(self) -> None:
        """Let systemd read its unit files again."""
        self._paths.clear()
        await self._call("Reload", "", [], deadline_ms=30_000)

    def close(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    # --- inside

    async def _job(self, member: str, name: str, deadline_ms: int) -> str:
        """Queue a job and wait for its result."""
        (job,) = await self._call(member, "ss", [name, "replace"])
        if (result := self._ended.pop(job, None)) is not None:
            return result
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._jobs[job] = ended
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                return await ended
        except TimeoutError as error:
            raise DeadlinePassed(f"{name}: {member} took more than {deadline_ms} ms") from error
        finally:
            self._jobs.pop(job, None)

    async def _reset_failed(self, name: str) -> None:
        """A unit that failed often may otherwise hit its start limit just when it is needed."""
        try:
            await self._call("ResetFailedUnit", "s", [name])
        except SystemdError:
            pass  # Not loaded: nothing to reset.

    async def _call(
        self, member: str, signature: str, body: list[Any], deadline_ms: int = _ASK_MS
    ) -> list[Any]:
        return await self._send(_MANAGER_PATH, _MANAGER, member, signature, body, deadline_ms)

    async def _send(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: list[Any],
        deadline_ms: int = _ASK_MS,
    ) -> list[Any]:
        bus = await self._connected()
        message = Message(
            destination=_SERVICE,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
        )
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                answer = await bus.call(message)
        except TimeoutError as error:
            raise DeadlinePassed(f"systemd did not answer {member} in {deadline_ms} ms") from error
        except (OSError, EOFError, DBusError) as error:
            self._broken(bus)
            raise NotConnected(f"systemd cannot be reached over D-Bus: {error}") from error
        if answer is None or answer.message_type is MessageType.ERROR:
            words = answer.body[0] if answer is not None and answer.body else "no answer"
            raise SystemdError(f"systemd refused {member}: {words}")
        return list(answer.body)

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            if self._bus is not None and self._bus.connected:
                return self._bus
            self._paths.clear()
            try:
                async with asyncio.timeout(_ASK_MS / 1000):
                    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
                    bus.add_message_handler(self._signal)
                    await _subscribe(bus)
            except (TimeoutError, OSError, EOFError, DBusError) as error:
                raise NotConnected(
                    f"systemd cannot be reached over D-Bus: {error}",
                    remedy="systemctl status dbus",
                ) from error
            self._bus = bus
            return bus

    def _broken(self, bus: MessageBus) -> None:
        if self._bus is bus:
            self._bus = None
            bus.disconnect()

    def _signal(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "JobRemoved":
            _, job, _, result = message.body
            ended = self._jobs.get(job)
            if ended is not None and not ended.done():
                ended.set_result(result)
            else:
                self._remember(job, result)
        elif message.path not in self._paths.values():
            # Asking for an unloaded unit makes systemd load it and forget it again, with signals of
            # everything that it refers to; taken as news they would make us ask for ever.
            return
        self._changed()

    def _remember(self, job: str, result: str) -> None:
        self._ended[job] = result
        while len(self._ended) > 64:
            self._ended.pop(next(iter(self._ended)))


async def _subscribe(bus: MessageBus) -> None:
    """Ask for the signals of the manager and of every unit."""
    rules = (
        f"type='signal',sender='{_SERVICE}',interface='{_MANAGER}',member='JobRemoved'",
        f"type='signal',sender='{_SERVICE}',interface='{_PROPERTIES}',"
        f"member='PropertiesChanged',arg0='{_UNIT}'",
    )
    for rule in rules:
        await bus.call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="AddMatch",
                signature="s",
                body=[rule],
            )
        )
    await bus.call(
        Message(destination=_SERVICE, path=_MANAGER_PATH, interface=_MANAGER, member="Subscribe")
    )
