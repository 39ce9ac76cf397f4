"""Many processes, many names: appenders, readers of a directory that changes, a hundred thousand
entries, numbers that stay the same."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from differential import in_child
from guarding import GuardProcess

pytestmark = pytest.mark.fuse
MANY = 100_000
LINES = 250


def at_once(*works: Callable[[], object]) -> None:
    """Run each in a process of its own, at the same time."""
    failed: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            in_child(work)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def appender(path: Path, letter: int, size: int) -> Callable[[], object]:
    def work() -> None:
        for number in range(LINES):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            line = b"%c%d:" % (letter, number)
            os.write(descriptor, line + b"%c" % letter * (size - len(line)) + b"\n")
            if number % 50 == 0:
                os.fstat(descriptor)
            os.close(descriptor)

    return work


@pytest.mark.parametrize("size", [30, 5000])
def test_lines_of_many_appending_processes_stay_whole(
    shared: GuardProcess, place: Path, size: int
) -> None:
    path = place / "log"
    at_once(*[appender(path, 65 + i, size) for i in range(6)])
    lines = path.read_bytes().splitlines()
    assert len(lines) == 6 * LINES
    for letter in range(65, 71):
        mine = [line for line in lines if line[0] == letter]
        assert [int(line[1 : line.index(b":")]) for line in mine] == list(range(LINES))
        assert all(len(line) == size for line in mine)
    assert (shared.lower() / place.name / "log").read_bytes() == path.read_bytes()


def test_appending_while_somebody_truncates(shared: GuardProcess, place: Path) -> None:
    path = place / "log"
    path.touch()

    def truncate() -> None:
        for _ in range(60):
            os.truncate(path, 0)
            time.sleep(0.002)

    at_once(*[appender(path, 65 + i, 80) for i in range(3)], truncate)
    lines = path.read_bytes().splitlines()
    # A size that the kernel had wrong would leave zeros between the lines.
    assert all(len(line) == 80 and b"\0" not in line for line in lines)


def test_reading_a_directory_while_it_changes(place: Path) -> None:
    """What stays is seen exactly once, by every reader, whatever comes and goes."""
    stays = {f"stays-{number:04}" for number in range(1500)}
    for name in stays:
        (place / name).touch()
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            (place / f"comes-{number}-{'x' * 60}").touch()
            (place / f"comes-{number}-{'x' * 60}").rename(place / f"goes-{number}")
            if number >= 40:
                (place / f"goes-{number - 40}").unlink()
            number += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(12):
            with os.scandir(place) as entries:
                names = [entry.name for entry in entries if entry.name.startswith("stays")]
            assert len(names) == len(set(names))
            assert set(names) == stays
    finally:
        stop.set()
        thread.join()


def test_storm_of_removals_under_readers(place: Path) -> None:
    for number in range(2100):
        (place / f"{number}").touch()

    def remove(first: int) -> Callable[[], object]:
        def work() -> None:
            for number in range(first, 2100, 3):
                os.unlink(place / f"{number}")

        return work

    def read() -> None:
        before = 2101
        while before:
            now = len(os.listdir(place))
            assert now <= before
            before = now

    at_once(remove(0), remove(1), remove(2), read, read)
    assert os.listdir(place) == []


def walk_by_positions(path: Path) -> tuple[int, int]:
    """Read a directory, go back to remembered positions, read on: (entries, wrong ones)."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    for call in (libc.readdir, libc.telldir, libc.closedir):
        call.argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    stream = libc.opendir(os.fsencode(path))

    def step() -> bytes | None:
        entry = libc.readdir(stream)
        return ctypes.string_at(entry + 19) if entry else None

    remembered: list[tuple[int, bytes]] = []
    count = 0
    position = libc.telldir(stream)
    while (name := step()) is not None:
        if count % 4999 == 0:
            remembered.append((position, name))
        count += 1
        position = libc.telldir(stream)
    wrong = 0
    for position, name in reversed(remembered):
        libc.seekdir(stream, position)
        wrong += step() != name
    libc.closedir(stream)
    return count - 2, wrong


def test_a_hundred_thousand_entries_and_stable_numbers(tmp_path: Path) -> None:
    guard = GuardProcess(tmp_path)
    (guard.tree / "many").mkdir()
    for number in range(MANY):
        os.close(os.open(guard.tree / f"many/{number:06}", os.O_CREAT | os.O_WRONLY, 0o644))
    try:
        guard.start()
        guard.arm()
        guard.open()
        many = guard.tree / "many"
        assert in_child(lambda: walk_by_positions(many)) == (MANY, 0)
        with os.scandir(many) as entries:
            numbers = {entry.name: entry.inode() for entry in entries}
        assert len(numbers) == MANY
        sample = sorted(numbers)[::9973]
        for name in sample:
            assert (many / name).stat().st_ino == numbers[name]
        held = (many / sample[0]).open("r+b")
        guard.kill_worker()
        assert os.fstat(held.fileno()).st_ino == numbers[sample[0]]
        for number in range(0, 2000, 2):
            (many / f"{number:06}").unlink()
        (many / "new").touch()
        assert len(os.listdir(many)) == MANY - 999
        held.close()
        guard.call("close", grace_ms=2000)
        guard.open(epoch=2)
        for name in sample[1:]:
            assert (many / name).stat().st_ino == numbers[name]
    finally:
        guard.stop()
