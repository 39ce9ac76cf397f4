"""Ask the agent: HTTP over its Unix socket, or another member over TLS.

What enters: the options before the verb, a path, a body. What leaves: JSON, or the error that the
agent named, with the exit code that belongs to it. Standard library only: it must start fast.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import typer

from everup.cli.reach import not_reached
from everup.errors import (
    BadInput,
    DeadlinePassed,
    EverupError,
    NotConnected,
    ProtocolError,
    Refused,
    error_from_json,
)
from everup.places import AGENT_PEER_PORT, Places

ANSWER_BYTES_MAX = 8 << 20
CALL_DEADLINE_MS = 20_000
DOWNLOAD_MS = 60_000
"""Of silence, not of the whole."""
PART_BYTES = 256 << 10

Json = dict[str, Any]

_BY_STATUS: dict[int, type[EverupError]] = {
    400: BadInput,
    413: BadInput,
    503: NotConnected,
    504: DeadlinePassed,
}


def wants_json(context: typer.Context) -> bool:
    """Whether --json stands before or after the verb."""
    return bool(context.find_root().params.get("json"))


def remember_json(context: typer.Context, value: bool) -> bool:
    """Callback of a verb's own --json: the same as the one before the verb."""
    if value:
        context.find_root().params["json"] = True
    return value


class Client:
    """One agent. `of` builds the one that the options name."""

    def __init__(self, connect: "Connect") -> None:
        self._connect = connect

    @classmethod
    def of(cls, context: typer.Context) -> "Client":
        params = context.find_root().params
        if params.get("server"):
            return cls(MemberConnect(str(params["server"]), Places.real()))
        path = params.get("socket") or Places.real().agent_socket
        return cls(SocketConnect(Path(path)))

    def get(self, path: str, *, deadline_ms: int = CALL_DEADLINE_MS) -> Json:
        return self._ask("GET", path, None, deadline_ms)

    def post(self, path: str, body: Json, *, deadline_ms: int = CALL_DEADLINE_MS) -> Json:
        return self._ask("POST", path, body, deadline_ms)

    def download(self, path: str, out: IO[bytes], *, deadline_ms: int = DOWNLOAD_MS) -> int:
        """Write what the agent streams; returns how many bytes. Only over this server's socket.

        Raises EverupError (`broken-off`) when the stream ends before its end: `out` is not whole.
        """
        if not isinstance(self._connect, SocketConnect):
            raise Refused(
                "this works only on the server itself",
                remedy="run it there, without --server",
                code="not-over-the-network",
            )
        connection, _, path, _ = self._connect.prepare("GET", path, None, deadline_ms)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status >= 400:
                _value(answer.read(ANSWER_BYTES_MAX), answer.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._connect.explain(error) from error
        try:
            done = 0
            while part := _next_part(answer, done):
                out.write(part)
                done += len(part)
            return done
        finally:
            connection.close()

    @classmethod
    def of_member(cls, name: str) -> "Client":
        """The agent of another member, by its name."""
        return cls(MemberConnect(name, Places.real()))

    def _ask(self, method: str, path: str, body: Json | None, deadline_ms: int) -> Json:
        connection, method, path, body = self._connect.prepare(method, path, body, deadline_ms)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise self._connect.explain(error) from error
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            status, content = answer.status, answer.read(ANSWER_BYTES_MAX + 1)
        except TimeoutError as error:
            raise DeadlinePassed(f"the agent did not answer in {deadline_ms} ms") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._connect.explain(error) from error
        finally:
            connection.close()
        return _value(content, status)


class Connect:
    """A way to an agent."""

    def prepare(
        self, method: str, path: str, body: Json | None, deadline_ms: int
    ) -> tuple[http.client.HTTPConnection, str, str, Json | None]:
        """A connection, and what is to be sent over it."""
        raise NotImplementedError

    def explain(self, error: Exception) -> EverupError:
        """Why the connection failed."""
        raise NotImplementedError


class SocketConnect(Connect):
    """The agent of this server."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(
        self, method: str, path: str, body: Json | None, deadline_ms: int
    ) -> tuple[http.client.HTTPConnection, str, str, Json | None]:
        return _UnixConnection(self._path, deadline_ms / 1000), method, path, body

    def explain(self, error: Exception) -> EverupError:
        if isinstance(error, PermissionError):
            return NotConnected(
                f"you may not use {self._path}",
                remedy="run it as root",
                code="socket-not-permitted",
            )
        if self._path == Places.real().agent_socket:
            self._look_at_settings(Places.real())
        return NotConnected(
            f"the agent does not answer at {self._path}",
            remedy="systemctl status everup-agent",
        )

    @staticmethod
    def _look_at_settings(places: Places) -> None:
        """Raises NotConnected when there can be no agent here."""
        if not places.server_settings.exists():
            raise NotConnected(
                "this server belongs to no group",
                remedy="everup init (first server) or everup join TOKEN",
                code="no-settings",
            )
        from everup.config.load import load_group, load_server

        if load_server(places.server_settings).identity == "witness":
            servers = load_group(places.group_settings).servers
            named = " or ".join(f"{m.name} ({m.management})" for m in servers)
            raise NotConnected(
                "this host is the witness: it votes, and has no agent that could be asked",
                remedy=f"run the command on {named}; everup status works here too",
                code="witness",
            )


class MemberConnect(Connect):
    """The agent of another member, asked with this server's certificate."""

    def __init__(self, url: str, places: Places) -> None:
        parts = urlsplit(url if "//" in url else f"https://{url}")
        if parts.scheme != "https" or not parts.hostname:
            raise BadInput(f"{url!r} is not the URL of a server", remedy="https://ADDRESS:7573")
        self._name, self._port = parts.hostname, parts.port or AGENT_PEER_PORT
        self._host = _address_of(self._name, places)
        self._places = places

    def prepare(
        self, method: str, path: str, body: Json | None, deadline_ms: int
    ) -> tuple[http.client.HTTPConnection, str, str, Json | None]:
        from everup.agent.membership.tls import dial_context

        try:
            context = dial_context(self._places)
        except OSError as error:
            raise Refused(
                f"this server's certificate cannot be read: {error.strerror or error}",
                remedy="run it as root on a member of the group",
            ) from error
        connection = http.client.HTTPSConnection(
            self._host, self._port, context=context, timeout=deadline_ms / 1000
        )
        return connection, "POST", "/peer/forward", {"method": method, "path": path, "body": body}

    def explain(self, error: Exception) -> EverupError:
        return not_reached(self._name, self._port, error)


def _address_of(name: str, places: Places) -> str:
    """A member may be called by its name; anything else is left to the system's resolver."""
    from everup.config.load import load_group

    try:
        member = load_group(places.group_settings).member(name)
    except (EverupError, OSError):
        return name
    return member.management if member is not None else name


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _next_part(answer: http.client.HTTPResponse, done: int) -> bytes:
    try:
        return answer.read(PART_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise EverupError(
            f"the agent broke off after {done} bytes: what came so far is not whole",
            remedy="journalctl -u everup-agent says why; then again",
            code="broken-off",
        ) from error


def _value(content: bytes, status: int) -> Json:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ProtocolError(f"the agent did not answer with JSON (HTTP {status})") from error
    if status < 400 and isinstance(value, dict):
        return value
    named = error_from_json(value.get("error", {}))
    # The status says which exit code belongs to it; the code may be finer.
    kind = _BY_STATUS.get(status, type(named))
    raise kind(named.sentence, remedy=named.remedy, code=named.code)
