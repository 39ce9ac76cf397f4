"""A sync that is interrupted again and again, and has to come to its end without anybody's help.

What enters: a directory, a seed, how many interruptions. What leaves: what was done and how much of
it struck while a sync was running; the caller compares the trees. Used by a test in a short form,
and by the soak part in a long one.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cable import Cable
from replicating import wait_for
from standin_guard import StandInGuard
from test_replicate_pair import Pair
from workload import Workload

RATE_BYTES = 10 << 20
CABLE_ADDRESS = "127.0.0.99"
FAULTS = ("kill-source", "kill-target", "cut", "swallow", "freeze-source", "freeze-target")


class Small(Workload):
    """Leaves the large files alone: they are what takes time."""

    def paths(self) -> list[str]:
        return [path for path in super().paths() if not path.startswith("large")]


@dataclass
class Told:
    """How often each fault came, and how often while the target was not in sync."""

    faults: Counter[str] = field(default_factory=Counter)
    during_sync: int = 0


class Interrupted:
    """alpha syncs beta over a slow cable while alpha's tree is written all the time."""

    def __init__(self, base: Path, seed: int, mebibytes: int) -> None:
        self.pair = Pair(base)
        self.chooser = random.Random(seed)
        self.cable = Cable(CABLE_ADDRESS, "127.0.0.1", self.pair.port, RATE_BYTES)
        self.told = Told()
        self._stopped = threading.Event()
        self._writer = threading.Thread(target=self._write, args=(seed,))
        root = self.pair.alpha.lower()
        for number in range(mebibytes):
            (root / f"large{number % 4}").mkdir(exist_ok=True)
            (root / f"large{number % 4}" / f"{number}").write_bytes(os.urandom(1 << 20))

    def start(self, *, writing: bool = True) -> None:
        pair = self.pair
        self.cable.start()
        pair.guard.open(1, "alpha")
        pair.guard.serve()
        pair.alpha.start()
        pair.beta.start()
        pair.beta.call("target")
        self._source()
        if writing:
            self._writer.start()

    def _source(self) -> None:
        peers = [{"server": "beta", "addresses": [CABLE_ADDRESS]}]
        self.pair.alpha.call("source", epoch=1, peers=peers)

    def _write(self, seed: int) -> None:
        """Small changes of every kind, and now and then a part of what is being copied."""
        guard: StandInGuard = self.pair.guard
        workload, chooser = Small(guard, random.Random(seed)), random.Random(seed + 1)
        large = sorted(self.pair.alpha.lower().glob("large*/*"))
        while not self._stopped.is_set():
            workload.step()
            if chooser.random() < 0.1:
                name = str(chooser.choice(large).relative_to(guard.root))
                guard.write(name, chooser.randrange(1 << 20), os.urandom(4096))
            time.sleep(0.004)
        for object_id in workload.orphans:
            guard.release(object_id)

    def interrupt(self, times: int) -> None:
        """So many faults, one after the other, each healed again."""
        bag = list(FAULTS)
        self.chooser.shuffle(bag)
        for number in range(times):
            time.sleep(self.chooser.uniform(0.1, 0.8))
            fault = bag[number % len(bag)]
            self.told.faults[fault] += 1
            self.told.during_sync += not self.pair.peer()["in_sync"]
            self._strike(fault)

    def _strike(self, fault: str) -> None:
        pair = self.pair
        if fault == "kill-source":
            pair.alpha.kill()
            pair.alpha.start()
            self._source()
        elif fault == "kill-target":
            pair.beta.kill()
            pair.beta.start()
            pair.beta.call("target")
        elif fault in ("cut", "swallow"):
            getattr(self.cable, fault)()
            time.sleep(self.chooser.uniform(0.1, 1.0))
            self.cable.mend()
        else:
            server = pair.alpha if fault == "freeze-source" else pair.beta
            assert server.process is not None
            os.kill(server.process.pid, signal.SIGSTOP)
            time.sleep(self.chooser.uniform(0.1, 1.0))
            os.kill(server.process.pid, signal.SIGCONT)

    def unfinish(self) -> None:
        """beta's trees are at no position any more: everything is compared again."""
        pair = self.pair
        pair.beta.kill()
        pair.beta.places.tree.write_text('{"state": "open", "epoch": 1, "server": "beta"}')
        damaged = sorted(pair.beta.lower().glob("large*/*"))
        for path in damaged[:: max(1, len(damaged) // 20)]:
            times = path.stat()
            with path.open("r+b") as file:
                file.seek(300_000)
                file.write(os.urandom(100_000))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        pair.beta.start()
        pair.beta.call("target")

    def settle(self, seconds: float = 60) -> None:
        wait_for(lambda: self.pair.peer()["in_sync"], seconds, "in sync")

    def compare(self) -> None:
        self._stopped.set()
        if self._writer.is_alive():
            self._writer.join()
        self.settle()
        self.pair.compare()

    def stop(self) -> None:
        self._stopped.set()
        if self._writer.is_alive():
            self._writer.join()
        self.pair.stop()
        self.cable.stop()
