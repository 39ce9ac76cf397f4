"""The console's process: TLS on TCP 7571, pages, nothing else.

What enters: the agent's socket, the server's certificate (a credential of systemd, since its user
may not read the directory). What leaves: the page. Unit: everup-console.
"""

import logging
import os
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from everup.console.ask import AgentClient
from everup.console.gate import Gate
from everup.console.page import add_page
from everup.console.session import key_of
from everup.console.watch import Watch
from everup.places import CONSOLE_PORT, Places
from everup.system.notify import notify


class Server(uvicorn.Server):
    """Tells systemd when it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        notify("READY=1")


def make_gate(places: Places, private_key: bytes) -> Gate:
    """The whole console as one ASGI application."""
    agent = AgentClient(places.agent_socket)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_page(agent, Watch(agent))
    ui.run_with(
        app,
        title="Everup",
        dark=None,
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=10.0,
    )
    return Gate(app, agent, key_of(private_key))


def listen(host: str, port: int) -> socket.socket:
    """On every address of both families where the host has both."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    places = Places.real()
    directory = Path(os.environ.get("CREDENTIALS_DIRECTORY", places.tls))
    certificate, key = directory / "server.pem", directory / "server.key"
    config = uvicorn.Config(
        make_gate(places, key.read_bytes()),
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=1 << 20,
        limit_concurrency=200,
        timeout_graceful_shutdown=2,
    )
    listener = listen(os.environ.get("EVERUP_CONSOLE_HOST", ""), CONSOLE_PORT)
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
