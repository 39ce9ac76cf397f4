"""The lab's servers become an Everup group, with the very commands of the install page.

What enters: a lab whose servers have Everup's wheel installed. What leaves: a group of two (or
three) servers and a witness, told whom to send mail and webhooks to. Also the lab's way to ask a
server's `everup`, and its agent's status cheaply and often.
"""

import http.client
import json
import socket
import tomllib
from typing import Any

import tomli_w

from everup.errors import EverupError, NotConnected
from everup.lab.lab import Lab
from everup.lab.layout import (
    DATA_SERVERS,
    MAIL_PORT,
    PUBLIC_ADDRESS,
    PUBLIC_PREFIX,
    WEBHOOK_PORT,
    server_plan,
)

Json = dict[str, Any]

EVERUP = "/opt/everup/bin/everup"
GROUP = "lab"
_PUBLIC_DEVICE = "eth0"
_ASK_TIMEOUT_S = 2.0


class Group:
    """The Everup group of one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def everup(self, server: str, *words: str, timeout_s: float = 120.0) -> Json:
        """`everup --json ...` on a server; raises with the sentence that Everup gives."""
        done = self.lab.server(server).run(
            [EVERUP, "--json", *words], timeout_s=timeout_s, check=False
        )
        try:
            value: Json = json.loads(done.output) if done.output.strip() else {}
        except ValueError:
            value = {}
        if done.exit_code != 0:
            error = value.get("error", {})
            told = error.get("sentence") or (done.errors or done.output).strip()[-600:]
            # A server that loses its power takes the command with it.
            told = told or f"it ended with {done.exit_code} and said nothing; does {server} run?"
            raise EverupError(
                f"everup {' '.join(words)} on {server}: {told}",
                remedy=error.get("remedy", ""),
                code=error.get("code", "failed"),
            )
        return value

    def install(self) -> None:
        """`everup install` on every member."""
        for name in self.members:
            self.lab.server(name).run([EVERUP, "install"])

    @property
    def members(self) -> list[str]:
        known = self.lab.server_names
        return [name for name in (*DATA_SERVERS, "witness") if name in known]

    def form(self) -> Json:
        """init, join, witness; returns what init said (the page's link is in it)."""
        first, *others = self.lab.data_servers
        said = self.everup(
            first,
            "init",
            *("--group", GROUP),
            *("--public", f"{PUBLIC_ADDRESS}/{PUBLIC_PREFIX}@{_PUBLIC_DEVICE}"),
            *_own_addresses(first),
        )
        for number, name in enumerate(others):
            token = said["tokens"]["server"] if number == 0 else self.token(first)
            self.everup(name, "join", token, *_own_addresses(name))
        if "witness" in self.lab.server_names:
            self.everup("witness", "witness", said["tokens"]["witness"])
        return said

    def token(self, server: str) -> str:
        """A further token for a server."""
        return str(self.everup(server, "token", "server")["token"])

    def tell_people(self, server: str) -> None:
        """Mail and webhook to the lab's services machine."""
        host = server_plan("services").address("management")
        settings = tomllib.loads(self.everup(server, "config", "show")["toml"])
        settings["alerts"] = {
            "mail": {
                "host": host,
                "port": MAIL_PORT,
                "sender": "everup@lab.example",
                "recipients": ["operator@lab.example"],
            },
            "webhook": {"url": f"http://{host}:{WEBHOOK_PORT}/everup"},
        }
        machine = self.lab.server(server)
        machine.run(["tee", "/root/group.toml"], stdin=tomli_w.dumps(settings))
        self.everup(server, "config", "apply", "/root/group.toml")

    def status(self, server: str) -> Json:
        """The agent's status, asked over its own socket from the host: a few milliseconds."""
        return self.ask(server, "/v1/status")

    def ask(self, server: str, path: str) -> Json:
        """GET on the agent's socket of a server. Raises NotConnected."""
        leader = self.lab.server(server).leader
        connection = _SocketConnection(f"/proc/{leader}/root/run/everup/agent.sock")
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            value: Json = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotConnected(f"The agent of {server} does not answer: {error}") from error
        finally:
            connection.close()
        return value

    def active(self) -> str:
        """The server that is active now, as any agent knows it."""
        for name in self.lab.data_servers:
            try:
                status = self.status(name)
            except EverupError:
                continue
            for server in status["servers"]:
                if server["role"] == "active" and server.get("gate") == "open":
                    return str(server["name"])
        raise NotConnected("No agent of the lab says that a server is active.")

    def wait(self, server: str, state: str, deadline_s: int) -> Json:
        """`everup status --wait STATE`."""
        words = ("status", "--wait", state, "--deadline", str(deadline_s))
        return self.everup(server, *words, timeout_s=deadline_s + 30)


def _own_addresses(name: str) -> list[str]:
    plan = server_plan(name)
    words = ["--management", plan.address("management")]
    return [*words, "--channel", plan.address("channel")] if "channel" in plan.hosts else words


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("agent", timeout=_ASK_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ASK_TIMEOUT_S)
        self.sock.connect(self._path)
