"""What goes over a long and narrow line, and how fast a copy is; rsync does the same in turn.

What enters: a far site. What leaves: bytes over the cable and seconds, ours and rsync's in the same
run. Called by the run.
"""

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.benchfiles import REUSE_SECONDS
from tests.bench.experiment import BASELINE, OURS, Figures
from tests.bench.farsite import FarSite
from tests.bench.postgres import Cluster, as_postgres, binaries
from tests.bench.site import Site

from everup.model.ids import OBJECT_ID_XATTR, ORPHANS_NAME

MIB = 1 << 20
CYCLE_SECONDS = 10.0
WORK_SECONDS = 30
TRANSACTIONS_PER_S = 100
APPEND_BYTES_PER_S = 500_000
RECOPIED = Path("/usr/lib/python3")
NOISE_MIB = 16
TABLE_MIB = 512
PAGE_BYTES = 8192
CUT_SECONDS = 60
CUT_BYTES_PER_S = 1 << 20
LARGE_MIB = 5 << 10
SMALL_FILES = 100_000
SMALL_BYTES = 4096
PER_DIRECTORY = 1000


class Narrow:
    """The same work on both sides while the cable is slow; rsync copies again and again."""

    sides: tuple[str, ...] = (BASELINE, OURS)

    def __init__(self, site: Site) -> None:
        assert isinstance(site, FarSite)
        self._site = site
        self._count = 0

    def prepare(self, directory: Path) -> None:
        """What lies there when the measurement begins."""

    def work(self, directory: Path) -> None:
        raise NotImplementedError

    def end(self, directory: Path) -> None:
        """Nothing works on."""

    def run(self, side: str) -> Figures:
        self._count += 1
        site = self._site
        name = f"run{self._count}"
        directory = (site.plain if side == BASELINE else site.guarded) / name
        directory.mkdir()
        try:
            with site.cable.slow():
                return self._ours(directory) if side == OURS else self._rsync(directory, name)
        finally:
            self.end(directory)
            shutil.rmtree(directory)
            shutil.rmtree(site.copies / name, ignore_errors=True)

    def _ours(self, directory: Path) -> Figures:
        site = self._site
        site.reconnect()
        self.prepare(directory)
        site.settle()
        before, raw = site.cable.bytes(), site.written()
        self.work(directory)
        site.settle()
        sent, raw = site.cable.bytes() - before, site.written() - raw
        return {"bytes": sent, "raw": raw, "raw_ratio": sent / raw}

    def _rsync(self, directory: Path, name: str) -> Figures:
        site = self._site
        self.prepare(directory)
        site.rsync(directory, name, "-z", "--delete")
        before = site.cable.bytes()
        with self._cycles(directory, name):
            self.work(directory)
        site.rsync(directory, name, "-z", "--delete")
        return {"bytes": site.cable.bytes() - before}

    @contextmanager
    def _cycles(self, directory: Path, name: str) -> Iterator[None]:
        done = threading.Event()

        def again() -> None:
            while not done.wait(CYCLE_SECONDS):
                # A file that vanishes while it is copied is no failure here (code 24).
                try:
                    self._site.rsync(directory, name, "-z", "--delete")
                except RuntimeError as problem:
                    if "vanished" not in str(problem):
                        raise

        thread = threading.Thread(target=again)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        pass


class NarrowPgbench(Narrow):
    """A database with a steady number of transactions per second."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._cluster: Cluster | None = None

    def prepare(self, directory: Path) -> None:
        self._cluster = Cluster(directory / "pg", 54990)
        self._cluster.create()
        self._cluster.start()
        as_postgres(*self._command, "-i", "-q", "-s", "5", "postgres")
        self._cluster.sql("checkpoint")

    @property
    def _command(self) -> tuple[str, ...]:
        return (str(binaries() / "pgbench"), "-h", "/tmp", "-p", "54990")

    def work(self, directory: Path) -> None:
        del directory
        as_postgres(
            *self._command, "-c", "4", "-j", "2", "-R", str(TRANSACTIONS_PER_S),
            "-t", str(TRANSACTIONS_PER_S * WORK_SECONDS // 4), "postgres",
        )  # fmt: skip

    def end(self, directory: Path) -> None:
        del directory
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None


class NarrowAppend(Narrow):
    """A log that grows, written as usual through a buffer."""

    by_line = False

    def work(self, directory: Path) -> None:
        choice = random.Random(3)
        pages = [f"/{choice.choice(('shop', 'cart', 'img'))}/{n * 7919:x}" for n in range(2000)]
        end = time.monotonic() + WORK_SECONDS
        begin, count = time.monotonic(), 0
        with (directory / "access.log").open("a") as file:
            while time.monotonic() < end:
                if count > (time.monotonic() - begin) * APPEND_BYTES_PER_S:
                    time.sleep(0.01)
                    continue
                line = (
                    f"{choice.randrange(256)}.{choice.randrange(256)}.7.{choice.randrange(256)} "
                    f'- - [{time.time():.3f}] "GET {choice.choice(pages)} HTTP/1.1" '
                    f"{choice.choice((200, 200, 304, 404))} {choice.randrange(90_000)}\n"
                )
                file.write(line)
                if self.by_line:
                    file.flush()
                count += len(line)


class NarrowAppendLines(NarrowAppend):
    """Each line is written by itself: thousands of writes per second, each with its time."""

    by_line = True


class NarrowRecopy(Narrow):
    """A directory is copied again under another name."""

    def prepare(self, directory: Path) -> None:
        shutil.copytree(RECOPIED, directory / "first", symlinks=True)
        noise = directory / "first/noise"
        noise.write_bytes(random.Random(5).randbytes(NOISE_MIB * MIB))

    def work(self, directory: Path) -> None:
        subprocess.run(
            ["cp", "-a", str(directory / "first"), str(directory / "second")],
            check=True, timeout=100,
        )  # fmt: skip


class Table:
    """A large file of which one page in a hundred is different."""

    sides: tuple[str, ...] = (BASELINE, OURS)

    def __init__(self, site: Site) -> None:
        assert isinstance(site, FarSite)
        self._site = site
        self._random = random.Random(7)
        for directory in (site.plain / "table", site.guarded / "table"):
            directory.mkdir()
            with (directory / "data").open("wb") as file:
                for _ in range(TABLE_MIB):
                    file.write(self._random.randbytes(MIB))
        site.rsync(site.plain / "table", "table")
        site.settle()

    def run(self, side: str) -> Figures:
        site = self._site
        changed = site.plain if side == BASELINE else site.passive()
        with (changed / "table/data").open("r+b") as file:
            pages = TABLE_MIB * MIB // PAGE_BYTES
            for page in self._random.sample(range(pages), pages // 100):
                file.seek(page * PAGE_BYTES)
                file.write(self._random.randbytes(PAGE_BYTES))
        before = site.cable.bytes()
        if side == BASELINE:
            site.rsync(site.plain / "table", "table")
        else:
            site.resync()
        return {"bytes": site.cable.bytes() - before}

    def close(self) -> None:
        for top in (self._site.plain, self._site.guarded):
            shutil.rmtree(top / "table")


class Outage:
    """The cable is cut for a minute while applications write; bytes that do not shrink."""

    sides: tuple[str, ...] = (BASELINE, OURS)

    def __init__(self, site: Site) -> None:
        assert isinstance(site, FarSite)
        self._site = site

    def run(self, side: str) -> Figures:
        """The baseline is what the applications have changed."""
        if side == BASELINE:
            return {"bytes": float(CUT_BYTES_PER_S * (CUT_SECONDS + 10))}
        site = self._site
        before = site.cable.bytes()
        begin = time.monotonic()
        with (site.guarded / "busy").open("wb", buffering=0) as file:
            for second in range(CUT_SECONDS + 10):
                if second in (5, 5 + CUT_SECONDS):
                    site.cable.cut(down=second == 5)
                for _ in range(CUT_BYTES_PER_S >> 16):
                    file.write(os.urandom(1 << 16))
                time.sleep(max(0.0, begin + second + 1 - time.monotonic()))
        site.settle()
        return {"bytes": site.cable.bytes() - before}

    def close(self) -> None:
        (self._site.guarded / "busy").unlink()


class InitialSync:
    """Everything onto an empty server, and the same with rsync's daemon there."""

    sides: tuple[str, ...] = (OURS, BASELINE)

    def __init__(self, site: Site) -> None:
        assert isinstance(site, FilledFarSite)
        self._site = site
        self._count = 0

    def run(self, side: str) -> Figures:
        site = self._site
        self._count += 1
        if side == OURS:
            forget_ids(site.lower())
            seconds = site.resync(fresh=True)
        else:
            begin = time.monotonic()
            site.rsync(site.lower(), f"copy{self._count}")
            seconds = time.monotonic() - begin
            shutil.rmtree(site.copies / f"copy{self._count}")
            time.sleep(REUSE_SECONDS)
        return {"rate": 1 / seconds, "seconds": seconds}

    def close(self) -> None:
        pass


def forget_ids(top: Path) -> None:
    """As before the first synchronization: it gives every object its id."""
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            if name != os.fsdecode(ORPHANS_NAME):
                with suppress(OSError):
                    os.removexattr(f"{directory}/{name}", OBJECT_ID_XATTR, follow_symlinks=False)


class FilledFarSite(FarSite):
    """What is to be copied lies there before the gate closes over it."""

    def first_sync(self) -> None:
        """That is what is measured."""

    def prepare(self) -> None:
        self.fill(self.guarded)

    def fill(self, directory: Path) -> None:
        raise NotImplementedError


class LargeSite(FilledFarSite):
    def fill(self, directory: Path) -> None:
        noise = [os.urandom(MIB) for _ in range(64)]
        choice = random.Random(1)
        with (directory / "large").open("wb", buffering=0) as file:
            for number in range(LARGE_MIB):
                file.write(noise[choice.randrange(64)][:-8] + number.to_bytes(8, "big"))


class SmallSite(FilledFarSite):
    def fill(self, directory: Path) -> None:
        noise = random.Random(2).randbytes(MIB)
        for number in range(SMALL_FILES):
            if number % PER_DIRECTORY == 0:
                folder = directory / f"part{number // PER_DIRECTORY}"
                folder.mkdir()
            at = number * 61 % (MIB - SMALL_BYTES)
            descriptor = os.open(folder / f"file{number}", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(descriptor, noise[at : at + SMALL_BYTES])
            os.close(descriptor)
