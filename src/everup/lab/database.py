"""The lab's PostgreSQL: Debian's own cluster `15/main`, with pgbench's tables and a ledger.

What enters: a server of the lab. What leaves: a database that clients can use over the public
address, and questions about its content, asked on the server that is active.
"""

from pathlib import Path

from everup.lab.commands import LabError
from everup.lab.layout import NETWORKS
from everup.lab.server import Server

PROTECTED = ("/var/lib/postgresql", "/etc/postgresql")
ACCOUNTS_PER_SCALE = 100_000
_SLOW_S = 300.0

# What it says also goes to the journal, which a power cut does not take away in a lab.
_SETTINGS = "listen_addresses = '*'\nlog_destination = 'stderr,syslog'\n"

_CREATE_LEDGER = (
    "CREATE TABLE IF NOT EXISTS ledger (worker int, number bigint, at timestamptz DEFAULT now(),"
    " filler text DEFAULT repeat('x', 100), PRIMARY KEY (worker, number))"
)


def installed_version() -> str:
    """The newest PostgreSQL of this machine, such as `15`."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        raise LabError("PostgreSQL is not installed.", remedy="apt-get install postgresql")
    return versions[-1].parts[4]


class Database:
    """The cluster `main` of the installed version."""

    def __init__(self) -> None:
        self.version = installed_version()
        self.unit = f"postgresql@{self.version}-main"
        self._programs = f"/usr/lib/postgresql/{self.version}/bin"

    def create(self, server: Server, scale: int) -> None:
        """Make the cluster on this server, start it and fill it."""
        network = NETWORKS["public"].prefix
        server.run(["pg_createcluster", self.version, "main"], timeout_s=_SLOW_S)
        settings = Path(f"/etc/postgresql/{self.version}/main")
        disk = server.disk.real(str(settings))
        (disk / "conf.d/lab.conf").write_text(_SETTINGS)
        with (disk / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network}.0/24 scram-sha-256\n")
        server.run(["systemctl", "start", self.unit], timeout_s=_SLOW_S)
        self.ask(server, "CREATE ROLE demo LOGIN PASSWORD 'demo'", database="postgres")
        self.ask(server, "CREATE DATABASE demo OWNER demo", database="postgres")
        pgbench = ["pgbench", "--quiet", "-i", "-s", str(scale), "demo"]
        server.run(["runuser", "-u", "postgres", "--", *pgbench], timeout_s=_SLOW_S)
        self.ask(server, f"CREATE EXTENSION amcheck; {_CREATE_LEDGER}")
        self.ask(server, "GRANT ALL ON ALL TABLES IN SCHEMA public TO demo")

    def ask(self, server: Server, statement: str, *, database: str = "demo") -> list[str]:
        """Run SQL as the superuser; lines of `a|b|c`."""
        psql = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]
        words = ["runuser", "-u", "postgres", "--", *psql]
        done = server.run(words, stdin=statement, timeout_s=_SLOW_S)
        return [line for line in done.output.splitlines() if line]

    def ledger(self, server: Server) -> set[tuple[int, int]]:
        """Every (worker, number) that the database holds."""
        lines = self.ask(server, "SELECT worker, number FROM ledger")
        pairs = [line.split("|") for line in lines]
        return {(int(worker), int(number)) for worker, number in pairs}

    def amcheck(self, server: Server) -> str:
        """Nothing when pg_amcheck finds heap and indexes whole, else what it says."""
        words = [f"{self._programs}/pg_amcheck", "--heapallindexed", "demo"]
        done = server.run(
            ["runuser", "-u", "postgres", "--", *words], timeout_s=_SLOW_S, check=False
        )
        return "" if done.exit_code == 0 else (done.output + done.errors).strip()[-600:]
