"""Control sockets between the processes of one server.

What enters: requests as JSON lines over a Unix stream socket, `{"verb": ..., ...}`. What leaves:
`{"ok": true, ...}` or `{"error": {code, sentence, remedy}}`. A verb may turn its connection into a
stream of lines. Guard, replicator and keeper serve here; the agent and each other call. Standard
library only, threads instead of asyncio, since these processes have no event loop.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from everup.errors import DeadlinePassed, EverupError, NotConnected, ProtocolError, error_from_json

LINE_BYTES_MAX = 1 << 20
CONNECTIONS_MAX = 64

Reply = dict[str, Any]
Handler = Callable[[str, dict[str, Any]], "Reply | Stream"]


def parse_line(line: bytes) -> Reply:
    """The object in a control line. Raises ProtocolError for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a control line is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("a control line is not a JSON object")
    return value


class Stream:
    """A reply that goes on: the handler returns one, lines are sent until `lines` ends.

    `on_line`, when given, receives every further line that the caller sends on this connection.
    `on_open` gets the connection, for lines that cannot wait for the next of `lines`, and returns
    what has to be called when it ends.
    """

    def __init__(
        self,
        lines: Iterator[Reply],
        on_line: Callable[[Reply], None] | None = None,
        on_open: Callable[[socket.socket], Callable[[], None]] | None = None,
    ) -> None:
        self.lines = lines
        self.on_line = on_line
        self.on_open = on_open


class LineChannel:
    """JSON lines over a connected socket; one reader and one writer at a time. Only short lines,
    which the kernel takes whole, may come from others (`Stream.on_open`)."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = bytearray()

    def send(self, value: Reply) -> None:
        self.connection.sendall(json.dumps(value, separators=(",", ":")).encode() + b"\n")

    def receive(self) -> Reply | None:
        """Next line; None at the end. Raises ProtocolError for anything but a JSON object."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LINE_BYTES_MAX:
                raise ProtocolError("a control line is longer than 1 MiB", code="line-too-long")
            part = self.connection.recv(65536)
            if not part:
                return None
            self._buffer += part
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return parse_line(line)

    def close(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.connection.close()


class LocalServer:
    """Serves one control socket; every connection has a thread of its own, at most 64."""

    def __init__(self, path: Path, handler: Handler, mode: int = 0o600) -> None:
        self._path = path
        self._handler = handler
        self._places = threading.Semaphore(CONNECTIONS_MAX)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        old = os.umask(0o777 & ~mode)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(old)
        self._listener.listen(CONNECTIONS_MAX)

    def start(self) -> None:
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def stop(self) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        channel = LineChannel(connection)
        try:
            while (request := channel.receive()) is not None:
                answer = self._answer(request)
                if isinstance(answer, Stream):
                    self._pump(channel, answer)
                    return
                channel.send(answer)
        except (OSError, EverupError):
            pass
        finally:
            channel.close()
            self._places.release()

    def _answer(self, request: Reply) -> "Reply | Stream":
        verb = request.pop("verb", "")
        try:
            answer = self._handler(str(verb), request)
        except EverupError as error:
            return {"error": error.to_json()}
        except Exception as error:
            # A mistake of ours must reach the caller as a sentence, not as a closed socket.
            sentence = f"internal error in {verb!r}: {type(error).__name__}: {error}"
            return {"error": {"code": "internal", "sentence": sentence, "remedy": ""}}
        if isinstance(answer, Stream):
            return answer
        return {"ok": True, **answer}

    @staticmethod
    def _pump(channel: LineChannel, stream: Stream) -> None:
        if stream.on_line is not None:
            threading.Thread(target=_feed, args=(channel, stream.on_line), daemon=True).start()
        on_end = stream.on_open(channel.connection) if stream.on_open is not None else None
        try:
            for line in stream.lines:
                channel.send(line)
        finally:
            if on_end is not None:
                on_end()


def _feed(channel: LineChannel, on_line: Callable[[Reply], None]) -> None:
    try:
        while (line := channel.receive()) is not None:
            on_line(line)
    except (OSError, EverupError):
        pass


def connect(path: Path, deadline_ms: int) -> LineChannel:
    """Connected channel; raises NotConnected when nobody serves the socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(deadline_ms / 1000)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise NotConnected(
            f"nobody answers at {path}: {error.strerror or error}",
            remedy=f"systemctl status everup-{path.stem}",
        ) from error
    return LineChannel(connection)


def call(path: Path, verb: str, *, deadline_ms: int = 2000, **arguments: Any) -> Reply:
    """One request and its answer. Raises the error that the other process answered."""
    channel = connect(path, deadline_ms)
    try:
        channel.send({"verb": verb, **arguments})
        answer = channel.receive()
    except TimeoutError as error:
        raise DeadlinePassed(f"{path.stem} did not answer {verb!r} in {deadline_ms} ms") from error
    except OSError as error:
        raise NotConnected(f"{path.stem} went away during {verb!r}: {error}") from error
    finally:
        channel.close()
    return _checked(answer, path, verb)


def subscribe(path: Path, verb: str, *, deadline_ms: int = 2000, **arguments: Any) -> LineChannel:
    """Channel on which the answers to `verb` stream; it has no timeout once it is open."""
    channel = connect(path, deadline_ms)
    channel.send({"verb": verb, **arguments})
    channel.connection.settimeout(None)
    return channel


def _checked(answer: Reply | None, path: Path, verb: str) -> Reply:
    if answer is None:
        raise NotConnected(f"{path.stem} closed the connection during {verb!r}")
    if "error" in answer:
        raise error_from_json(answer["error"])
    return answer
