"""The pages of a lab's servers in the browser of the person in front of it.

What enters: a lab. What leaves: ports of 127.0.0.1, one per data server, and links that use them.
"""

from urllib.parse import urlsplit, urlunsplit

from everup.lab.forward import free_port, start
from everup.lab.lab import Lab
from everup.lab.layout import server_plan
from everup.places import CONSOLE_PORT


class Pages:
    """Forwarded ports of one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._ports: dict[str, int] = {}

    def open(self) -> None:
        """Forward a port for every data server."""
        for number, name in enumerate(self._lab.data_servers):
            address = server_plan(name).address("management")
            self._ports[address] = free_port(CONSOLE_PORT + number)
        routes = {port: (address, CONSOLE_PORT) for address, port in self._ports.items()}
        start(self._lab.base, routes)

    def link(self, link: str) -> str:
        """A page's link as the servers give it, for a browser on this machine."""
        parts = urlsplit(link)
        port = self._ports.get(parts.hostname or "")
        if port is None:
            return link
        return urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
