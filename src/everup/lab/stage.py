"""A whole lab, ready to play in: servers with Everup, a database, mail, a client, a group.

What enters: a lab and what shall be in it. What leaves: a running group. Called by `everup lab up`
and the demo; tests may call single steps.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from everup.lab.database import Database
from everup.lab.etcd import Cluster
from everup.lab.group import Group, Json
from everup.lab.lab import Lab
from everup.lab.layout import DATA_SERVERS, ECHO_PORT, MAIL_PORT, PUBLIC_ADDRESS, WEBHOOK_PORT
from everup.lab.server import Server
from everup.lab.wheels import Wheels

WHOLE_GROUP = ("primary", "secondary", "witness", "client", "services")
ECHO_UNIT = "everup-lab-echo"
LOAD_DIRECTORY = "/srv/load"
PROBE_FILE = "/srv/probe/answers.log"
MAIL_DIRECTORY = "/srv/mail"
WEBHOOK_DIRECTORY = "/srv/webhooks"

_UNIT = """\
[Unit]
Description={description}
After=network.target

[Service]
ExecStart={command}
Restart=always
RestartSec=200ms

[Install]
WantedBy=multi-user.target
"""


class Stage:
    """What stands in one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.group = Group(lab)
        self.database = Database()

    def build(
        self,
        wheels: Wheels,
        file_system: str | Mapping[str, str] = "ext4",
        servers: tuple[str, ...] = WHOLE_GROUP,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Servers, each with Everup installed and nothing else started.

        `say` hears what begins now.
        """
        database = {name: ("postgresql.service",) for name in servers if name in DATA_SERVERS}
        self.lab.up(servers, file_system=file_system, services=database, wheels=wheels, say=say)
        say("everup install on every member")
        self.group.install()
        for name in self.lab.data_servers:
            self._echo(self.lab.server(name))
        if "services" in servers:
            self._services(self.lab.server("services"))
        cluster = Cluster(self.lab)
        if cluster.wanted:
            say("an etcd cluster of three members")
            cluster.build()

    def settle(self) -> None:
        """What was set up so far is on the disks, as on servers that were set up days ago."""
        for name in self.lab.server_names:
            self.lab.server(name).disk.sync()

    def _echo(self, server: Server) -> None:
        words = f"-m everup.lab.guests.echo {PUBLIC_ADDRESS} {ECHO_PORT}"
        write_unit(server, ECHO_UNIT, "UDP echo on the public address", words, "/opt/everup")
        server.run(["systemctl", "enable", ECHO_UNIT])

    def _services(self, server: Server) -> None:
        for unit, words in (
            ("lab-mail", f"-m everup.lab.guests.mail {MAIL_DIRECTORY} {MAIL_PORT}"),
            ("lab-webhook", f"-m everup.lab.guests.webhook {WEBHOOK_DIRECTORY} {WEBHOOK_PORT}"),
        ):
            write_unit(server, unit, f"The lab's {unit.removeprefix('lab-')}", words)
            server.run(["systemctl", "enable", "--now", unit])

    def form(self) -> Json:
        """The group, told whom to send mail and webhooks to; returns what `init` said."""
        said = self.group.form()
        first = self.lab.data_servers[0]
        self.group.wait(first, "unprotected", 60)
        if "services" in self.lab.server_names:
            self.group.tell_people(first)
        return said

    def start_prober(self) -> None:
        """Ask the echo on the public address every 20 ms from now on."""
        words = f"-m everup.lab.guests.prober {PUBLIC_ADDRESS} {ECHO_PORT} {PROBE_FILE}"
        client = self.lab.server("client")
        write_unit(client, "lab-prober", "Asks the public address every 20 ms", words)
        client.run(["systemctl", "enable", "--now", "lab-prober"])

    def start_load(self, workers: int, accounts: int) -> None:
        """Transactions against the public address, each acknowledged one written down."""
        words = f"-m everup.lab.guests.load {PUBLIC_ADDRESS} {workers} {LOAD_DIRECTORY} {accounts}"
        client = self.lab.server("client")
        write_unit(client, "lab-load", "Transactions", words)
        client.run(["systemctl", "restart", "lab-load"])

    def stop_load(self) -> None:
        self.lab.server("client").run(["systemctl", "kill", "--signal=KILL", "lab-load"])
        self.lab.server("client").run(["systemctl", "stop", "lab-load"])

    @property
    def load_logs(self) -> Path:
        """On the host: the client's logs of acknowledged transactions."""
        return self.lab.server("client").disk.real(LOAD_DIRECTORY)

    @property
    def probe_log(self) -> Path:
        """On the host: the prober's answers."""
        return self.lab.server("client").disk.real(PROBE_FILE)

    @property
    def mails(self) -> Path:
        """On the host: what the mail server kept."""
        return self.lab.server("services").disk.real(MAIL_DIRECTORY)

    @property
    def webhooks(self) -> Path:
        return self.lab.server("services").disk.real(WEBHOOK_DIRECTORY)


def write_unit(
    server: Server, name: str, description: str, words: str, venv: str = "/opt/everup-lab"
) -> None:
    """A service that runs `python WORDS` with the interpreter of a venv, and again when it ends."""
    text = _UNIT.format(description=description, command=f"{venv}/bin/python {words}")
    server.run(["tee", f"/etc/systemd/system/{name}.service"], stdin=text)
    server.run(["systemctl", "daemon-reload"])
