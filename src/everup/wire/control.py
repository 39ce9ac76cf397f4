"""The asking side of the control sockets for a process that has an event loop (the agent).

What enters: a verb and its arguments. What leaves: the answer, or the error that the other process
gave. Same lines as `wire.local`, which serves them. A connection is kept for the short questions
of every turn; work that takes long gets a connection of its own, so it never delays a question.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from everup.errors import DeadlinePassed, EverupError, NotConnected, ProtocolError, error_from_json
from everup.wire.local import LINE_BYTES_MAX, parse_line

Reply = dict[str, Any]


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: Reply) -> Reply | None:
        self.send(request)
        return await self.receive()

    def send(self, request: Reply) -> None:
        self._writer.write(json.dumps(request, separators=(",", ":")).encode() + b"\n")

    async def receive(self) -> Reply | None:
        line = await self._reader.readline()
        return parse_line(line) if line else None

    def close(self) -> None:
        self._writer.close()


class ControlClient:
    """Asks the process behind one control socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: _Connection | None = None
        self._lock = asyncio.Lock()

    @property
    def name(self) -> str:
        return self.path.stem

    async def ask(self, verb: str, *, wait_ms: int, **arguments: Any) -> Reply:
        """A short question over the kept connection; questions are answered in turn.

        `wait_ms` is how long to wait here; a verb may have a `deadline_ms` of its own.
        """
        try:
            async with asyncio.timeout(wait_ms / 1000), self._lock:
                return await self._ask_kept({"verb": verb, **arguments})
        except TimeoutError as error:
            self.forget()
            raise self._late(verb, wait_ms) from error

    async def call(self, verb: str, *, wait_ms: int, **arguments: Any) -> Reply:
        """Work that may take long, over a connection of its own."""
        connection = None
        try:
            async with asyncio.timeout(wait_ms / 1000):
                connection = await self._connect()
                answer = await connection.ask({"verb": verb, **arguments})
        except TimeoutError as error:
            raise self._late(verb, wait_ms) from error
        except (OSError, ValueError, ProtocolError) as error:
            raise self._gone(verb, error) from error
        finally:
            if connection is not None:
                connection.close()
        return self._checked(verb, answer)

    async def subscribe(self, verb: str, **arguments: Any) -> AsyncIterator[Reply]:
        """Lines that the other process sends until it ends; raises NotConnected then."""
        try:
            connection = await self._connect()
        except OSError as error:
            raise self._gone(verb, error) from error
        try:
            connection.send({"verb": verb, **arguments})
            while (line := await connection.receive()) is not None:
                if "error" in line and "event" not in line:
                    raise error_from_json(line["error"])
                yield line
        except (OSError, ValueError, ProtocolError) as error:
            raise self._gone(verb, error) from error
        finally:
            connection.close()

    def forget(self) -> None:
        """Drop the kept connection: an answer that comes too late must not meet a new question."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    async def _ask_kept(self, request: Reply) -> Reply:
        verb = str(request["verb"])
        for fresh in (False, True):
            try:
                if self._kept is None:
                    self._kept = await self._connect()
                    fresh = True
                answer = await self._kept.ask(request)
            except asyncio.CancelledError:
                self.forget()
                raise
            except (OSError, ValueError, ProtocolError) as error:
                self.forget()
                if fresh:
                    raise self._gone(verb, error) from error
                continue
            if answer is None:
                # The other process was restarted since the last turn: ask the new one.
                self.forget()
                if not fresh:
                    continue
            return self._checked(verb, answer)
        raise NotConnected(f"{self.name} closed the connection during {verb!r}")

    async def _connect(self) -> _Connection:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=LINE_BYTES_MAX)
        return _Connection(reader, writer)

    def _checked(self, verb: str, answer: Reply | None) -> Reply:
        if answer is None:
            raise NotConnected(f"{self.name} closed the connection during {verb!r}")
        if "error" in answer:
            raise error_from_json(answer["error"])
        return answer

    def _late(self, verb: str, wait_ms: int) -> EverupError:
        return DeadlinePassed(f"{self.name} did not answer {verb!r} in {wait_ms} ms")

    def _gone(self, verb: str, error: Exception) -> EverupError:
        return NotConnected(
            f"{self.name} cannot be asked {verb!r}: {error}",
            remedy=f"systemctl status everup-{self.name}",
        )
