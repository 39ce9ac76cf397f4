"""A directory under a real guard, beside a plain one on the same file system.

What enters: a directory on the file system to measure. What leaves: two directories, `plain` and
`guarded`, for the same work. No peer is connected: the figures are those of capture alone.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from everup.model.position import ORIGIN
from everup.places import Places
from everup.system.clock import boot_id, boottime_ns
from everup.system.leasepage import LeasePageWriter
from everup.wire.local import call

GROUP_ID = "0" * 32
START_TRIES = 200
LEASE_NS = 3600 * 10**9


class Guarded:
    """Starts a guard of its own below `base` and opens its gate over one directory."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.plain = base / "plain"
        self.guarded = base / "guarded"
        self.places = Places.below(base / "root")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.plain.mkdir()
        self.guarded.mkdir()
        self.places.make()
        self._write_settings()
        LeasePageWriter(self.places.lease_page, boot_id()).write(1, boottime_ns() + LEASE_NS)
        environment = {**os.environ, "EVERUP_ROOT": str(self.base / "root")}
        self._process = subprocess.Popen([sys.executable, "-m", "everup.capture"], env=environment)
        self._wait()
        socket = self.places.guard_socket
        call(socket, "arm", trees=[{"id": 1, "path": str(self.guarded)}], deadline_ms=10_000)
        call(
            socket,
            "open",
            epoch=1,
            parent=ORIGIN.to_json(),
            server="primary",
            boot_id=boot_id().hex(),
            reason="bench",
            mode="async",
            must_acknowledge=[],
            deadline_ms=10_000,
        )
        return self

    def _write_settings(self) -> None:
        tree = f'[[protect]]\nid = 1\npath = "{self.guarded}"\n'
        head = f'version = 1\ngroup = "bench"\ngroup_id = "{GROUP_ID}"\nmode = "async"\n'
        self.places.group_settings.write_text(head + tree)

    def _wait(self) -> None:
        for _ in range(START_TRIES):
            try:
                call(self.places.guard_socket, "status", deadline_ms=500)
                return
            except Exception:
                time.sleep(0.05)
        raise RuntimeError("the guard did not start")

    def cpu_seconds(self) -> float:
        """User and system time of the guard and its worker so far."""
        assert self._process is not None
        total = 0.0
        for pid in [self._process.pid, *self._children(self._process.pid)]:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

    @staticmethod
    def _children(pid: int) -> list[int]:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        try:
            call(self.places.guard_socket, "close", grace_ms=1000, deadline_ms=20_000)
            call(self.places.guard_socket, "disarm", trees=[1], deadline_ms=20_000)
        finally:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)


def self_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
