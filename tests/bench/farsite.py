"""A pair whose servers are far from each other: three network namespaces and a cable to slow down.

What enters: an empty directory. What leaves: a pair as in `site`, whose replicators talk over a
cable that can be made slow, an rsync daemon on the far side, and the bytes that went over the cable
in both directions. Called by the run, for the rows of `far`.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.benchfiles import REUSE_SECONDS
from tests.bench.site import START_SECONDS, PairSite
from tests.contract.replicating import Server, wait_for

from everup.lab import relay

NEAR, MIDDLE, FAR = "evb-near", "evb-middle", "evb-far"
NEAR_ADDRESS, FAR_ADDRESS = "10.213.0.1", "10.213.0.2"
RSYNC_PORT = 8730
RATE_BITS = 10_000_000
DELAY_MS = 25.0
"""In each direction: the round trip takes 50 ms."""
STEP_SECONDS = 30


def command(*words: str, seconds: float = STEP_SECONDS) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout} {done.stderr}")
    return done.stdout


def inside(name: str, *words: str, seconds: float = STEP_SECONDS) -> str:
    """Run a command in a network namespace."""
    return command("ip", "netns", "exec", name, *words, seconds=seconds)


class FarServer(Server):
    """A replicator in a network namespace of its own."""

    def start(self, *arguments: str) -> None:
        near = self.name == "alpha"
        environment = {**os.environ, "EVERUP_ROOT": str(self.base)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "ip", "netns", "exec", NEAR if near else FAR, sys.executable, "-m",
                    "everup.replicate", "--listen", NEAR_ADDRESS if near else FAR_ADDRESS,
                    "--port", str(self.port), *arguments,
                ],
                env=environment,
                stderr=log,
            )  # fmt: skip
        wait_for(self._serves, START_SECONDS)


class Cable:
    """near0 - (near1, far1: a bridge, or a relay that is slow and late) - far0."""

    def __init__(self, base: Path) -> None:
        self._mark = base / "relay"
        self._relay: subprocess.Popen[bytes] | None = None
        self.take_away()
        for name in (NEAR, MIDDLE, FAR):
            command("ip", "netns", "add", name)
            inside(name, "ip", "link", "set", "lo", "up")
        for name, end, address in (
            (NEAR, "near", NEAR_ADDRESS), (FAR, "far", FAR_ADDRESS),
        ):  # fmt: skip
            command(
                "ip", "link", "add", f"{end}0", "netns", name, "type", "veth",
                "peer", "name", f"{end}1", "netns", MIDDLE,
            )  # fmt: skip
            inside(name, "ip", "addr", "add", f"{address}/24", "dev", f"{end}0")
            inside(name, "ip", "link", "set", f"{end}0", "up")
            inside(MIDDLE, "ip", "link", "set", f"{end}1", "up")
        inside(MIDDLE, "ip", "link", "add", "bridge", "type", "bridge")
        inside(MIDDLE, "ip", "link", "set", "bridge", "up")
        self._bridge("master", "bridge")

    def _bridge(self, *where: str) -> None:
        for end in ("near1", "far1"):
            inside(MIDDLE, "ip", "link", "set", end, *where)

    @contextmanager
    def slow(self, rate_bits: int = RATE_BITS, delay_ms: float = DELAY_MS) -> Iterator[None]:
        """10 Mbit/s and a round trip of 50 ms, unless told otherwise."""
        self._bridge("nomaster")
        process = subprocess.Popen(
            [
                "ip", "netns", "exec", MIDDLE, sys.executable, relay.__file__, str(self._mark),
                "near1", "far1", str(rate_bits), str(delay_ms),
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self._relay = process
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            self._end_relay()
            self._bridge("master", "bridge")

    def cut(self, *, down: bool) -> None:
        inside(MIDDLE, "ip", "link", "set", "far1", "down" if down else "up")

    def bytes(self) -> int:
        """Over the cable so far, both directions."""
        text = [
            inside(NEAR, "cat", f"/sys/class/net/near0/statistics/{kind}_bytes")
            for kind in ("tx", "rx")
        ]
        return sum(map(int, text))

    def _end_relay(self) -> None:
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
            self._relay = None

    def take_away(self) -> None:
        self._end_relay()
        for name in (NEAR, MIDDLE, FAR):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=STEP_SECONDS)


class FarSite(PairSite):
    """`cable` is fast until a row slows it down; rsync's daemon serves `copies` on the far side."""

    server_class = FarServer
    address = FAR_ADDRESS

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.copies = base / "copies"
        self._rsync: subprocess.Popen[bytes] | None = None

    def _open(self) -> None:
        self.cable = Cable(self._base)
        self.copies.mkdir()
        super()._open()
        self._serve_rsync()

    def _serve_rsync(self) -> None:
        settings = self._base / "rsyncd.conf"
        settings.write_text(
            f"use chroot = no\nuid = root\ngid = root\n[copies]\npath = {self.copies}\n"
            "read only = no\n"
        )
        self._rsync = subprocess.Popen(
            [
                "ip", "netns", "exec", FAR, "rsync", "--daemon", "--no-detach",
                f"--config={settings}", f"--address={FAR_ADDRESS}", f"--port={RSYNC_PORT}",
            ]
        )  # fmt: skip
        wait_for(self._rsync_answers, START_SECONDS, "rsync's daemon")

    @staticmethod
    def _rsync_answers() -> bool:
        try:
            inside(NEAR, "rsync", f"rsync://{FAR_ADDRESS}:{RSYNC_PORT}/")
        except RuntimeError:
            return False
        return True

    def rsync(self, source: Path, name: str, *options: str) -> None:
        """Make `name` on the far side like `source`, and have it on the disk there."""
        inside(
            NEAR, "rsync", "-a", *options, f"{source}/",
            f"rsync://{FAR_ADDRESS}:{RSYNC_PORT}/copies/{name}/", seconds=300,
        )  # fmt: skip
        command("sync", "-f", str(self.copies), seconds=120)

    def written(self) -> int:
        """Bytes of the stream so far, raw."""
        return int(self._servers[0].call("status")["peers"][0]["bytes_written"])

    def reconnect(self) -> None:
        """What was learnt of the cable before it changed is forgotten."""
        self._servers[0].call("stop")
        self.become_source()
        wait_for(self._in_sync, START_SECONDS, "in sync")

    def resync(self, *, fresh: bool = False) -> float:
        """Seconds for a whole synchronization; `fresh`: onto an empty far side."""
        alpha, beta = self._servers
        alpha.call("stop")
        if fresh:
            beta.stop()
            self._empty(beta)
            time.sleep(REUSE_SECONDS)
            beta.start()
            beta.call("target")
        begin, done = time.monotonic(), self._finished()
        self.become_source()
        if not fresh:
            wait_for(self._in_sync, START_SECONDS, "connected")
            alpha.call("compare")
        wait_for(lambda: self._finished() > done and self._in_sync(), 300, "in sync")
        return time.monotonic() - begin

    def _finished(self) -> int:
        """Synchronizations that have ended."""
        return self._servers[1].log.read_text().count("resync-finished")

    @staticmethod
    def _empty(server: Server) -> None:
        """As it was before its first synchronization."""
        kept = server.places.group_settings
        for directory in (kept.parent, server.places.receive, server.places.divergence):
            for path in directory.iterdir():
                if path != kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(server.lower())
        server.make_lower()

    def __exit__(self, *arguments: object) -> None:
        super().__exit__(*arguments)
        if self._rsync is not None:
            self._rsync.kill()
            self._rsync.wait()
        self.cable.take_away()
