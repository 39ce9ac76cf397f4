"""Where the rows are measured: a directory under a real guard, and a plain one beside it.

What enters: an empty directory on the file system to measure. What leaves: `plain` and `guarded`
for the same work, and what our processes used meanwhile. A `Site` is a guard without any peer; a
`PairSite` has a live passive server on the same cores: two replicators and a second tree. Called by
the run.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.contract.replicating import GROUP_ID, Authority, Server, free_port, wait_for

from everup.capture.runstate import memory_directory
from everup.model.position import ORIGIN
from everup.system.clock import boot_id, boottime_ns
from everup.system.leasepage import LeasePageWriter
from everup.system.mounts import MNT_DETACH, mounts_at, unmount
from everup.wire.local import call

LEASE_NS = 3600 * 10**9
START_SECONDS = 20
SETTLE_SECONDS = 90
_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What our processes used so far (seconds), and hold now (bytes)."""

    guard_cpu_seconds: float
    replicator_cpu_seconds: float
    guard_rss: int
    replicator_rss: int

    def since(self, before: "Usage") -> "Usage":
        return Usage(
            self.guard_cpu_seconds - before.guard_cpu_seconds,
            self.replicator_cpu_seconds - before.replicator_cpu_seconds,
            self.guard_rss,
            self.replicator_rss,
        )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in family(int(child)))]


class Site:
    """A guard with an open gate over `guarded`; no peer is connected."""

    names: tuple[str, ...] = ("alpha",)
    server_class: type[Server] = Server

    def __init__(self, base: Path) -> None:
        self.plain = base / "plain"
        self.guarded = base / "guarded"
        self._base = base
        authority, port = Authority(), free_port()
        self._servers = [
            self.server_class(base, name, authority, port, names=self.names) for name in self.names
        ]
        self.places = self._servers[0].places
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for path in (self._base, self.plain, self.guarded):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def prepare(self) -> None:
        """What shall lie in `guarded` before the gate closes over it."""

    def _open(self) -> None:
        self.prepare()
        deadline = boottime_ns() + LEASE_NS
        LeasePageWriter(self.places.lease_page, boot_id()).write(1, deadline)
        environment = {**os.environ, "EVERUP_ROOT": str(self._servers[0].base)}
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "everup.capture"], env=environment, stderr=None
        )
        wait_for(self._guard_serves, START_SECONDS, "the guard serves")
        self.call("arm", trees=[{"id": 1, "path": str(self.guarded)}])
        self.call(
            "open", epoch=1, parent=ORIGIN.to_json(), server="alpha", boot_id=boot_id().hex(),
            reason="bench", mode="async", must_acknowledge=[], group_id=GROUP_ID,
        )  # fmt: skip

    def _guard_serves(self) -> bool:
        return self.places.guard_socket.exists() and bool(self.call("status"))

    def call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return call(self.places.guard_socket, verb, deadline_ms=60_000, **arguments)

    def lower(self) -> Path:
        """The guarded directory as it lies on the disk."""
        return self.places.lower(1)

    def settle(self) -> None:
        """Until nothing of an earlier run works on."""

    def usage(self) -> Usage:
        assert self._guard is not None
        worker = int(self.call("status")["worker"]["pid"])
        pids = [s.process.pid for s in self._servers if s.process is not None]
        return Usage(
            sum(map(cpu_seconds, family(self._guard.pid))),
            sum(map(cpu_seconds, pids)),
            resident_bytes(worker),
            max(map(resident_bytes, pids), default=0),
        )

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.stop()
        if self._guard is not None:
            self._guard.send_signal(signal.SIGTERM)
            try:
                self._guard.wait(60)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
        for path in (self.guarded, self.lower()):
            while mounts_at(path):
                unmount(path, MNT_DETACH)
        shutil.rmtree(memory_directory(self.places), ignore_errors=True)


class PairSite(Site):
    """The same with a passive server that receives and applies everything."""

    names = ("alpha", "beta")
    address = "127.0.0.1"

    def _open(self) -> None:
        super()._open()
        alpha, beta = self._servers
        beta.make_lower()
        alpha.start()
        beta.start()
        beta.call("target")
        self.first_sync()

    def first_sync(self) -> None:
        self.become_source()
        wait_for(self._in_sync, START_SECONDS, "the passive is in sync")

    def become_source(self) -> None:
        peers = [{"server": "beta", "addresses": [self.address]}]
        self._servers[0].call("source", epoch=1, peers=peers)

    def _in_sync(self) -> bool:
        return bool(self._servers[0].call("status")["peers"][0]["in_sync"])

    def passive(self) -> Path:
        """The tree of the passive server."""
        return self._servers[1].lower()

    def make_durable(self, durable: bool) -> None:
        needed = ["beta"] if durable else []
        mode = "durable" if durable else "async"
        self.call("policy", mode=mode, must_acknowledge=needed)

    def settle(self) -> None:
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            guard = self.call("status")
            applied = self._servers[1].call("status")["applied"]
            if guard["sequence"] == guard["position"]["sequence"] and applied == guard["position"]:
                return
            time.sleep(0.05)
        raise RuntimeError("the passive did not apply everything")
