"""Work on files: fio, many small files, a git checkout, SQLite.

What enters: a new directory, as applications see it and as it lies on the disk. What leaves:
throughputs. Everything that was made is removed again, outside the measured time.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench.experiment import Figures

MIB = 1 << 20
SECONDS = 4
SEQUENTIAL_MIB = 512
CACHED_MIB = 128
RANDOM_MIB = 256
SMALL_FILES = 10_000
SMALL_BYTES = 1000
CHECKOUT_FILES = 4000
FIO_SECONDS = 100
REUSE_SECONDS = 6


def fio(directory: Path, *options: str) -> dict[str, Any]:
    """The read or write part of fio's report; one job, one file `job`."""
    done = subprocess.run(
        [
            "fio", "--name=job", f"--filename={directory}/job", "--ioengine=psync",
            "--randrepeat=0", "--fallocate=none", "--output-format=json", *options,
        ],
        capture_output=True, text=True, timeout=FIO_SECONDS, check=True,
    )  # fmt: skip
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    part: dict[str, Any] = job["write"] if job["write"]["total_ios"] else job["read"]
    return part


def sequential_write(directory: Path, lower: Path) -> Figures:
    del lower
    part = fio(directory, "--rw=write", "--bs=1m", f"--size={SEQUENTIAL_MIB}m", "--end_fsync=1")
    shutil.rmtree(directory)
    return {"rate": part["bw_bytes"]}


def _fill(path: Path, mebibytes: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(random.randbytes(MIB))
        os.fsync(file.fileno())


def _forget(path: Path) -> None:
    """Drop the file's pages from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def sequential_read(directory: Path, lower: Path) -> Figures:
    """From the disk: dropped from both page caches, then read once."""
    _fill(directory / "job", SEQUENTIAL_MIB // 2)
    _forget(directory / "job")
    _forget(lower / "job")
    size = f"--size={SEQUENTIAL_MIB // 2}m"
    part = fio(directory, "--rw=read", "--bs=1m", size, "--invalidate=0")
    shutil.rmtree(directory)
    return {"rate": part["bw_bytes"]}


def cached_read(directory: Path, lower: Path) -> Figures:
    """From the page cache, after the file was read once; in blocks of 1 MiB, 16 and 4 KiB."""
    del lower
    _fill(directory / "job", CACHED_MIB)
    _forget(directory / "job")
    options = ("--rw=read", f"--size={CACHED_MIB}m", "--invalidate=0")
    fio(directory, "--bs=1m", *options)
    timed = (*options, "--time_based", f"--runtime={SECONDS / 2}")
    figures = {
        "rate": fio(directory, "--bs=1m", *timed)["bw_bytes"],
        "rate_16k": fio(directory, "--bs=16k", *timed)["bw_bytes"],
        "rate_4k": fio(directory, "--bs=4k", *timed)["bw_bytes"],
    }
    shutil.rmtree(directory)
    return figures


def random_write(directory: Path, lower: Path) -> Figures:
    del lower
    size = f"--size={RANDOM_MIB}m"
    timed = ("--time_based", f"--runtime={SECONDS}")
    part = fio(directory, "--rw=randwrite", "--bs=4k", size, *timed)
    shutil.rmtree(directory)
    return {"rate": part["iops"]}


def write_and_sync(directory: Path, lower: Path) -> Figures:
    del lower
    size = f"--size={RANDOM_MIB}m"
    timed = ("--time_based", f"--runtime={SECONDS}")
    part = fio(directory, "--rw=write", "--bs=4k", "--fdatasync=1", size, *timed)
    shutil.rmtree(directory)
    return {"rate": part["iops"]}


def _per_second(begin: float, count: int) -> float:
    return count / (time.perf_counter() - begin)


def _drop_names() -> None:
    """The kernel forgets names and attributes that nobody uses, on both sides alike."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")


def small_files(directory: Path, lower: Path) -> Figures:
    """Create, write and close; look at each twice, the first time unknown; remove."""
    del lower
    data = random.randbytes(SMALL_BYTES)
    paths = [directory / str(number) for number in range(SMALL_FILES)]
    names = [str(path) for path in paths]
    figures = {}
    begin = time.perf_counter()
    for name in names:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(descriptor, data)
        os.close(descriptor)
    figures["create"] = _per_second(begin, SMALL_FILES)
    _drop_names()
    for figure in ("stat_first", "stat_again"):
        rounds = 1 if figure == "stat_first" else 5
        begin = time.perf_counter()
        for _ in range(rounds):
            for name in names:
                os.stat(name)
        figures[figure] = _per_second(begin, rounds * SMALL_FILES)
    begin = time.perf_counter()
    for name in names:
        os.unlink(name)
    figures["unlink"] = _per_second(begin, SMALL_FILES)
    directory.rmdir()
    # ext4 passes over inodes that were removed less than 5 s ago, one by one: a new file costs it
    # a hundred times more then, and the next side would pay for what this one removed.
    time.sleep(REUSE_SECONDS)
    return figures


def make_repository(path: Path) -> None:
    """A git repository of some thousand small files in some hundred directories."""
    choice = random.Random(5)
    path.mkdir()
    for number in range(CHECKOUT_FILES):
        folder = path / f"part{number % 40}" / f"unit{number % 200}"
        folder.mkdir(parents=True, exist_ok=True)
        text = choice.randbytes(choice.randrange(500, 6000)).hex()
        (folder / f"file{number}.txt").write_text(text)
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.email=bench@localhost", "-c", "user.name=bench", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", "-C", str(path), *command], check=True, timeout=100)


def checkout(directory: Path, lower: Path) -> Figures:
    """`git checkout` of all files of a repository that is there already."""
    del lower
    source = directory.parent.parent / "repository"
    if not source.exists():
        make_repository(source)
    target = directory / "clone"
    clone = ["git", "clone", "-q", "--no-checkout", "--no-hardlinks", str(source), str(target)]
    subprocess.run(clone, check=True, timeout=100)
    begin = time.perf_counter()
    subprocess.run(["git", "-C", str(target), "checkout", "-q", "HEAD"], check=True, timeout=100)
    rate = _per_second(begin, CHECKOUT_FILES)
    shutil.rmtree(directory)
    return {"rate": rate}


def sqlite_inserts(directory: Path, lower: Path) -> Figures:
    """One row per transaction, write-ahead log, every commit synced."""
    del lower
    database = sqlite3.connect(directory / "database", isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table entries (number integer primary key, text blob)")
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        database.execute("insert into entries (text) values (?)", (random.randbytes(200),))
        count += 1
    rate = _per_second(begin, count)
    database.close()
    shutil.rmtree(directory)
    return {"rate": rate}
