"""MariaDB under sysbench's OLTP mix, on the lower file system and under the guard.

What enters: a site. What leaves: transactions per second.
"""

import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.bench.experiment import BASELINE, OURS, Figures
from tests.bench.site import Site

SECONDS = 8
THREADS = 4
TABLES = 2
TABLE_ROWS = 10_000
STEP_SECONDS = 100
SERVER = "/usr/sbin/mariadbd"
_RATE = re.compile(r"transactions:\s+\d+\s+\(([\d.]+) per sec")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout[-500:]} {done.stderr[-500:]}")
    return done.stdout


class Server:
    """One server whose files lie in `directory`; reached over a socket in /tmp."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = Path("/tmp") / f"{directory.name}.sock"
        directory.mkdir()
        shutil.chown(directory, "mysql", "mysql")
        self._options = ("--no-defaults", f"--datadir={directory}")
        install = ("mariadb-install-db", *self._options, "--user=mysql", "--skip-test-db")
        _run(*install, "--auth-root-authentication-method=normal")
        own = (
            f"--socket={self.socket}",
            f"--pid-file=/tmp/{directory.name}.pid",
            "--skip-networking",
            "--user=mysql",
            "--innodb-buffer-pool-size=256M",
        )
        self._process = subprocess.Popen(
            [SERVER, *self._options, *own], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + STEP_SECONDS
        while not self._answers():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError("MariaDB did not start")
            time.sleep(0.1)
        self._sql("create database sbtest")
        self._sysbench("prepare")

    def _sql(self, text: str) -> str:
        return _run("mariadb", "--no-defaults", f"--socket={self.socket}", "-uroot", "-e", text)

    def _answers(self) -> bool:
        try:
            self._sql("select 1")
        except RuntimeError:
            return False
        return True

    def _sysbench(self, *words: str) -> str:
        return _run(
            "sysbench", "oltp_read_write", f"--mysql-socket={self.socket}", "--mysql-user=root",
            f"--tables={TABLES}", f"--table-size={TABLE_ROWS}", f"--threads={THREADS}",
            f"--time={SECONDS}", *words,
        )  # fmt: skip

    def rate(self) -> float:
        found = _RATE.search(self._sysbench("run"))
        assert found is not None, "sysbench says no rate"
        return float(found.group(1))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(STEP_SECONDS)
        shutil.rmtree(self.directory)


class Oltp:
    """Two servers, each used in turn."""

    sides: tuple[str, ...] = (BASELINE, OURS)

    def __init__(self, site: Site) -> None:
        self._servers: dict[str, Server] = {}
        try:
            for side, place in ((BASELINE, site.plain), (OURS, site.guarded)):
                self._servers[side] = Server(place / f"mariadb{time.monotonic_ns()}")
            site.settle()
        except BaseException:
            self.close()
            raise

    def run(self, side: str) -> Figures:
        return {"tps": self._servers[side].rate()}

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()
