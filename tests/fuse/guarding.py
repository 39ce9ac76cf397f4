"""A real guard over directories of a test, with its own places and deadline page.

What enters: an empty directory. What leaves: a started guard with an open gate. Used by the tests
of capture through the fixtures of conftest.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replaying import describe, differences, replay

from everup.capture.nodes import NodeTable
from everup.capture.protocol import HAS_RESEND
from everup.capture.runstate import memory_directory
from everup.capture.session import THREADS
from everup.capture.slots import Slots
from everup.errors import NotConnected
from everup.model.ids import ORPHANS_NAME, root_object_id
from everup.places import Places
from everup.system.clock import boot_id, boottime_ns
from everup.system.leasepage import LeasePageWriter
from everup.system.mounts import MNT_DETACH, mounts_at, unmount
from everup.wire.local import call

GROUP_ID = "ab" * 16
MS_REMOUNT = 32
HOUR_NS = 3600 * 10**9
COMPARISONS_MAX = 5


def remount(path: Path) -> None:
    """Changes nothing but that the kernel drops all that it remembers and nobody uses."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = (b"everup", os.fsencode(path), b"fuse.everup", MS_REMOUNT, None)
    if libc.mount(*words) < 0:
        raise OSError(ctypes.get_errno(), "remount")


class GuardProcess:
    """Starts, opens, kills and cleans up."""

    def __init__(
        self,
        base: Path,
        trees: int = 1,
        command: Sequence[str] = (sys.executable, "-m", "everup.capture"),
    ) -> None:
        self.base = base
        self._command = command
        self.places = Places.below(base / "root")
        self.places.make()
        self.paths = [base / f"tree{i + 1}" for i in range(trees)]
        for path in self.paths:
            path.mkdir()
            path.chmod(0o755)
        self.lease = LeasePageWriter(self.places.lease_page, boot_id())
        self.log = base / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def tree(self) -> Path:
        return self.paths[0]

    def lower(self, tree: int = 1) -> Path:
        return self.places.lower(tree)

    def start(
        self, more: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> None:
        environment = {**os.environ, "EVERUP_ROOT": str(self.base / "root"), **(more or {})}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=log, close_fds=before is None,
                preexec_fn=before,
            )  # fmt: skip
        self.wait_served()

    def wait_served(self) -> dict[str, Any]:
        for _ in range(400):
            try:
                return self.call("status")
            except NotConnected:
                time.sleep(0.02)
        raise AssertionError(f"the guard does not serve: {self.log.read_text()}")

    def call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return call(self.places.guard_socket, verb, deadline_ms=20_000, **arguments)

    def arm(self) -> None:
        trees = [{"id": i + 1, "path": str(path)} for i, path in enumerate(self.paths)]
        self.call("arm", trees=trees)

    def lend(self, milliseconds: int = 3_600_000, epoch: int | None = None) -> None:
        """Write a lease into the page, as the keeper does."""
        deadline = boottime_ns() + milliseconds * 10**6 if milliseconds else 0
        self.lease.write(epoch or self.lease.epoch, deadline)

    def open(self, epoch: int = 1, mode: str = "async", needs: tuple[str, ...] = ()) -> None:
        self.lend(epoch=epoch)
        self.call(
            "open", epoch=epoch, parent=None, server="primary", boot_id="boot", reason="test",
            mode=mode, must_acknowledge=list(needs), group_id=GROUP_ID,
        )  # fmt: skip

    def worker(self) -> int:
        return int(self.wait_served()["worker"]["pid"])

    def kill_worker(self) -> None:
        os.kill(self.worker(), signal.SIGKILL)

    @contextmanager
    def between_workers(self) -> Iterator[Path]:
        """One worker is dead and the next one not there: what it has left (in the directory that
        is given) may be changed. Afterwards the next one serves."""
        assert self.process is not None
        worker = self.worker()
        self.process.send_signal(signal.SIGSTOP)
        try:
            os.kill(worker, signal.SIGKILL)
            while Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
            yield memory_directory(self.places)
        finally:
            self.process.send_signal(signal.SIGCONT)
        self.wait_served()

    def forgotten(self) -> None:
        """Make the kernel forget every name and object: then nothing may be known, or kept aside.

        Lookups that were counted too often would stay, others would be forgotten too often.
        """
        for path in self.paths:
            remount(path)
        for _ in range(400):
            trees = self.wait_served()["trees"]
            if not any(tree["known_nodes"] for tree in trees):
                break
            time.sleep(0.01)
        assert [tree["known_nodes"] for tree in trees] == [0] * len(trees), self.known()
        assert [tree["miscounted_lookups"] for tree in trees] == [0] * len(trees)
        for number in range(1, len(trees) + 1):
            assert os.listdir(self.lower(number) / ORPHANS_NAME.decode()) == []

    def known(self, tree: int = 1) -> list[tuple[bytes, int]]:
        """Name and lookup count of everything that the kernel knows."""
        table = NodeTable(memory_directory(self.places) / str(tree))
        return [((table.entry(node) or (0, b""))[1], table.lookups(node)) for node in table]

    def batch_closed(self) -> int:
        """Wait until everything that was answered is in a closed batch; its last sequence."""
        for _ in range(1000):
            status = self.wait_served()
            if status["sequence"] == status["position"]["sequence"]:
                return int(status["sequence"])
            time.sleep(0.01)
        raise AssertionError("the batch is not closed")

    def compare(self, tree: int = 1) -> None:
        """The journal, replayed from its beginning, must give exactly the lower tree.

        Once more when something was recorded meanwhile: what a program has mapped (the shared
        memory of SQLite) the kernel writes back by itself, half a minute after it was changed.
        """
        for _ in range(COMPARISONS_MAX):
            before = self.batch_closed()
            target = self.base / f"replay{tree}-{time.monotonic_ns()}"
            target.mkdir()
            result = replay(self.places.journal, target, tree, root_object_id(GROUP_ID, tree))
            ours, theirs = describe(self.lower(tree)), describe(target)
            if self.batch_closed() == before:
                break
        if len(ours) == 1:
            ours, theirs = {}, {}
        assert differences(ours, theirs) == []
        assert result.hints_right == result.hints_all

    def stop(self) -> None:
        """Close, end, and leave no mount behind, whatever happened before."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()
                self.process.wait(30)
        finally:
            for path in (*self.paths, *(self.lower(i + 1) for i in range(len(self.paths)))):
                while mounts_at(path):
                    unmount(path, MNT_DETACH)
            shutil.rmtree(memory_directory(self.places), ignore_errors=True)


def mask_resend(guard: GuardProcess) -> None:
    """What INIT agreed on lies in shared memory: the next workers believe in an older kernel."""
    for number in range(1, len(guard.paths) + 1):
        slots = Slots(memory_directory(guard.places) / str(number) / "slots", THREADS)
        slots.set_features(slots.features & ~HAS_RESEND)
