"""PostgreSQL under pgbench: on the lower file system, under the guard, with a standby of its own.

What enters: a site. What leaves: transactions per second, and the lag with which the passive's tree
follows. Every round fills the tables anew and takes a checkpoint before it measures.
"""

import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.experiment import BASELINE, OURS, Experiment, Figures
from tests.bench.site import PairSite, Site

SCALE = 5
CLIENTS = 4
SECONDS = 8
STEP_SECONDS = 100
PG = "postgresql"
PORTS = {BASELINE: 54980, OURS: 54981, PG: 54982, "standby": 54983}
PROBE_EVERY_S = 0.02
LOOK_EVERY_S = 0.001
_STAMP = struct.Struct("<Q")


def binaries() -> Path:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]


def as_postgres(*command: str) -> str:
    done = subprocess.run(
        ["runuser", "-u", "postgres", "--", *command],
        capture_output=True, text=True, timeout=STEP_SECONDS, cwd="/tmp",
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout} {done.stderr}")
    return done.stdout


class Cluster:
    """One PostgreSQL server whose files lie in `directory`."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self._port = str(port)
        self._log = directory.parent.parent / f"log{port}"

    def create(self, settings: str = "") -> None:
        self._take_directory()
        as_postgres(str(binaries() / "initdb"), "-D", str(self.directory), "-k", "--no-sync")
        self._settings(settings)

    def follow(self, primary: "Cluster") -> None:
        """Become a standby of `primary`, which runs."""
        self._take_directory()
        as_postgres(
            str(binaries() / "pg_basebackup"), "-h", "/tmp", "-p", primary._port,
            "-D", str(self.directory), "-R", "-c", "fast",
        )  # fmt: skip
        self._settings("")

    def _take_directory(self) -> None:
        self.directory.mkdir()
        self.directory.chmod(0o700)
        shutil.chown(self.directory, "postgres", "postgres")
        self._log.touch()
        shutil.chown(self._log, "postgres", "postgres")

    def _settings(self, more: str) -> None:
        own = f"listen_addresses=''\nunix_socket_directories='/tmp'\nport={self._port}\n"
        with (self.directory / "postgresql.conf").open("a") as file:
            file.write(own + more)

    def start(self) -> None:
        command = (str(binaries() / "pg_ctl"), "-D", str(self.directory))
        as_postgres(*command, "-w", "-l", str(self._log), "start")

    def stop(self) -> None:
        if (self.directory / "postmaster.pid").exists():
            command = (str(binaries() / "pg_ctl"), "-D", str(self.directory))
            as_postgres(*command, "-w", "-m", "fast", "stop")

    def sql(self, text: str) -> str:
        return as_postgres(
            "psql", "-h", "/tmp", "-p", self._port, "-qAtc", text, "postgres",
        ).strip()  # fmt: skip

    def bench(self, *options: str) -> float:
        """Transactions per second after the tables were made anew."""
        command = (str(binaries() / "pgbench"), "-h", "/tmp", "-p", self._port)
        as_postgres(*command, "-i", "-q", "-s", str(SCALE), "postgres")
        self.sql("checkpoint")
        text = as_postgres(
            *command, *options, "-c", str(CLIENTS), "-j", "2", "-T", str(SECONDS), "postgres"
        )
        line = next(line for line in text.splitlines() if line.startswith("tps"))
        return float(line.split()[2])


class Benched:
    """The same cluster twice, and on request a third one that replicates by itself."""

    def __init__(self, site: Site, options: tuple[str, ...], standby: str = "") -> None:
        self._options = options
        self._site = site
        self._clusters: dict[str, Cluster] = {}
        self.sides: tuple[str, ...] = (BASELINE, OURS, PG) if standby else (BASELINE, OURS)
        try:
            self._make(site.plain, BASELINE)
            self._make(site.guarded, OURS)
            if standby:
                self._replicate(site.plain, standby)
            site.settle()
        except BaseException:
            self.close()
            raise

    def _make(self, place: Path, side: str, settings: str = "") -> Cluster:
        cluster = Cluster(place / f"pg{time.monotonic_ns()}", PORTS[side])
        self._clusters[side] = cluster
        cluster.create(settings)
        cluster.start()
        return cluster

    def _replicate(self, place: Path, standby: str) -> None:
        """PostgreSQL's own streaming replication; `standby` is async or sync."""
        waits = "synchronous_standby_names='*'\nsynchronous_commit=on\n"
        primary = self._make(place, PG)
        follower = Cluster(place / f"standby{time.monotonic_ns()}", PORTS["standby"])
        self._clusters["standby"] = follower
        follower.follow(primary)
        follower.start()
        if standby == "sync":
            with (primary.directory / "postgresql.conf").open("a") as file:
                file.write(waits)
            primary.sql("select pg_reload_conf()")

    def run(self, side: str) -> Figures:
        figures = {"tps": self._clusters[side].bench(*self._options)}
        if side == PG:
            self._let_standby_follow()
        return figures

    def _let_standby_follow(self) -> None:
        """The next side shall not work beside what this one left to do."""
        end = self._clusters[PG].sql("select pg_current_wal_lsn()")
        ask = f"select pg_last_wal_replay_lsn() >= '{end}'"
        while self._clusters["standby"].sql(ask) != "t":
            time.sleep(0.1)

    def close(self) -> None:
        for side in (OURS, "standby", PG, BASELINE):
            cluster = self._clusters.get(side)
            if cluster is not None:
                cluster.stop()
                shutil.rmtree(cluster.directory)


def pgbench(*options: str, standby: str = "") -> Callable[[Site], Experiment]:
    return lambda site: Benched(site, options, standby)


class Lag:
    """How long a write needs until the passive's tree has it, under pgbench.

    A stamp is written through the mount every 20 ms and looked for in the passive's tree.
    """

    sides: tuple[str, ...] = (OURS,)

    def __init__(self, site: Site) -> None:
        assert isinstance(site, PairSite)
        self._benched = Benched(site, ())
        self._active = site.guarded / f"stamp{time.monotonic_ns()}"
        self._passive = site.passive() / self._active.name
        self._active.write_bytes(bytes(8))
        site.settle()

    def run(self, side: str) -> Figures:
        seen: list[float] = []
        done = threading.Event()
        threads = [
            threading.Thread(target=self._stamp, args=(done,)),
            threading.Thread(target=self._look, args=(done, seen)),
        ]
        for thread in threads:
            thread.start()
        try:
            self._benched.run(side)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        seen.sort()
        return {"p50": seen[len(seen) // 2], "p99": seen[len(seen) * 99 // 100]}

    def _stamp(self, done: threading.Event) -> None:
        descriptor = os.open(self._active, os.O_WRONLY)
        while not done.wait(PROBE_EVERY_S):
            os.pwrite(descriptor, _STAMP.pack(time.monotonic_ns()), 0)
        os.close(descriptor)

    def _look(self, done: threading.Event, seen: list[float]) -> None:
        descriptor = os.open(self._passive, os.O_RDONLY)
        last = 0
        while not done.wait(LOOK_EVERY_S):
            (stamp,) = _STAMP.unpack(os.pread(descriptor, 8, 0))
            if stamp != last:
                seen.append((time.monotonic_ns() - stamp) / 1e6)
                last = stamp
        os.close(descriptor)

    def close(self) -> None:
        self._benched.close()
        self._active.unlink()
