"""The rows of `make bench`: the same work on the lower file system and under the guard.

What enters: a directory. What leaves: a throughput (work per second). Every call writes new files
and new blocks, so that neither side meets what the other left.
"""

import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
SEQUENTIAL_BYTES = 256 * MIB
RANDOM_FILE_BYTES = 64 * MIB
RANDOM_SECONDS = 2.0
SYNC_SECONDS = 2.0
SMALL_FILES = 2000
PGBENCH_SECONDS = 8
PGBENCH_SCALE = 5


class Row(NamedTuple):
    """One comparison; `asked` is the least ratio that was asked for."""

    id: str
    asked: float
    aim: float | None
    work: Callable[[Path], float]
    runs: int
    note: str = ""


def sequential_write(directory: Path) -> float:
    data = random.randbytes(MIB)
    path = directory / "sequential"
    begin = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(SEQUENTIAL_BYTES // MIB):
            file.write(data)
        os.fdatasync(file.fileno())
    seconds = time.perf_counter() - begin
    path.unlink()
    return SEQUENTIAL_BYTES / seconds


def cached_read(directory: Path) -> float:
    path = directory / "cached"
    path.write_bytes(random.randbytes(64 * MIB))
    buffer = mmap.mmap(-1, MIB)
    descriptor = os.open(path, os.O_RDONLY)
    begin = time.perf_counter()
    for _ in range(8):
        for block in range(64):
            os.preadv(descriptor, [buffer], block * MIB)
    seconds = time.perf_counter() - begin
    os.close(descriptor)
    path.unlink()
    return 8 * 64 * MIB / seconds


def random_write(directory: Path) -> float:
    path = directory / "random"
    with path.open("wb") as file:
        file.truncate(RANDOM_FILE_BYTES)
    descriptor = os.open(path, os.O_RDWR)
    data = random.randbytes(4096)
    choice = random.Random(7)
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < RANDOM_SECONDS:
        for _ in range(100):
            os.pwrite(descriptor, data, choice.randrange(RANDOM_FILE_BYTES // 4096) * 4096)
        count += 100
    seconds = time.perf_counter() - begin
    os.close(descriptor)
    path.unlink()
    return count / seconds


def write_and_sync(directory: Path) -> float:
    path = directory / "synced"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    data = random.randbytes(4096)
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < SYNC_SECONDS:
        os.pwrite(descriptor, data, count * 4096)
        os.fdatasync(descriptor)
        count += 1
    seconds = time.perf_counter() - begin
    os.close(descriptor)
    path.unlink()
    return count / seconds


def create_small_files(directory: Path) -> float:
    folder = directory / f"small{time.monotonic_ns()}"
    folder.mkdir()
    begin = time.perf_counter()
    for number in range(SMALL_FILES):
        (folder / str(number)).write_bytes(b"x" * 1000)
    seconds = time.perf_counter() - begin
    shutil.rmtree(folder)
    return SMALL_FILES / seconds


def unlink_small_files(directory: Path) -> float:
    folder = directory / f"unlink{time.monotonic_ns()}"
    folder.mkdir()
    for number in range(SMALL_FILES):
        (folder / str(number)).write_bytes(b"x" * 1000)
    begin = time.perf_counter()
    for number in range(SMALL_FILES):
        (folder / str(number)).unlink()
    seconds = time.perf_counter() - begin
    folder.rmdir()
    return SMALL_FILES / seconds


def pgbench(directory: Path, options: tuple[str, ...]) -> float:
    """Transactions per second of a PostgreSQL server whose cluster lies in `directory`."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    data = directory / f"pg{time.monotonic_ns()}"
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    for parent in (directory, *directory.parents):
        parent.chmod(parent.stat().st_mode | 0o011)

    def run(*command: str) -> str:
        done = subprocess.run(
            ["runuser", "-u", "postgres", "--", *command],
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/tmp",
        )
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stdout} {done.stderr}")
        return done.stdout

    run(str(binaries / "initdb"), "-D", str(data), "-k", "--no-sync")
    settings = "listen_addresses=''\nunix_socket_directories='/tmp'\nport=54999\n"
    with (data / "postgresql.conf").open("a") as file:
        file.write(settings)
    run(str(binaries / "pg_ctl"), "-D", str(data), "-w", "-l", "/dev/null", "start")
    try:
        where = ("-h", "/tmp", "-p", "54999")
        run(str(binaries / "pgbench"), *where, "-i", "-q", "-s", str(PGBENCH_SCALE), "postgres")
        text = run(
            str(binaries / "pgbench"),
            *where,
            *options,
            "-c",
            "4",
            "-j",
            "2",
            "-T",
            str(PGBENCH_SECONDS),
            "postgres",
        )
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data), "-w", "-m", "fast", "stop")
    shutil.rmtree(data)
    line = next(line for line in text.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


def pgbench_tpcb(directory: Path) -> float:
    return pgbench(directory, ())


def pgbench_select(directory: Path) -> float:
    return pgbench(directory, ("-S",))


ROWS = (
    Row("seqwrite_capture", 0.45, None, sequential_write, 3),
    Row("seqread_cached", 0.90, None, cached_read, 3),
    Row("randwrite4k_capture", 0.08, 0.15, random_write, 3),
    Row("fdatasync4k_capture", 0.60, None, write_and_sync, 3),
    Row("smallfiles_create", 0.12, 0.25, create_small_files, 3, "capture only"),
    Row("smallfiles_unlink", 0.08, 0.20, unlink_small_files, 3, "capture only"),
    Row("pgbench_tpcb_capture", 0.85, None, pgbench_tpcb, 3),
    Row("pgbench_select", 0.90, None, pgbench_select, 3),
)
