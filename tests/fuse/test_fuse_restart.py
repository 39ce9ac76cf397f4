"""The worker is killed, again and again, under load: no application sees an error, each request is
answered once, and the journal still describes exactly the lower tree."""

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guarding import GuardProcess, mask_resend

from everup.capture.runstate import memory_directory
from everup.capture.session import THREADS
from everup.capture.slots import Slots
from everup.system.kernelcalls import RENAME_EXCHANGE, rename

pytestmark = pytest.mark.fuse
KILLS = 6


class Load:
    """Threads that run steps until told to stop, and keep every error and the longest step."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.worst_s = 0.0
        self.steps = 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self, step: Callable[[int], None]) -> None:
        def loop() -> None:
            number = 0
            try:
                while not self._stop.is_set():
                    begin = time.monotonic()
                    step(number)
                    self.worst_s = max(self.worst_s, time.monotonic() - begin)
                    number += 1
                    self.steps += 1
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=loop, daemon=True)
        self._threads.append(thread)
        thread.start()

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert self.errors == []


def every_operation(base: Path) -> Callable[[int], None]:
    """One step is a life of a few objects, in a directory of its own; results are asserted."""
    base.mkdir()

    def step(number: int) -> None:
        path, other, moved = base / f"f{number}", base / f"o{number}", base / f"m{number}"
        inner = base / f"d{number}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
        data = os.urandom(5000)
        assert os.write(descriptor, data) == 5000
        os.mkdir(inner)
        os.link(path, inner / "link")
        os.symlink("target", inner / "symbolic")
        os.rename(path, moved)
        os.truncate(moved, 4000)
        os.setxattr(moved, "user.n", b"%d" % number, os.XATTR_CREATE)
        os.removexattr(moved, "user.n")
        os.chmod(moved, 0o600)
        if number % 4 == 0:
            os.fsync(descriptor)
        os.mknod(other)
        rename(-100, os.fsencode(moved), -100, os.fsencode(other), RENAME_EXCHANGE)
        os.rename(other, moved)
        assert os.pread(descriptor, 5000, 0) == data[:4000]
        os.unlink(inner / "symbolic")
        if number % 2:
            os.unlink(inner / "link")
            os.rmdir(inner)
            os.unlink(moved)
            assert os.fstat(descriptor).st_nlink == 0
            os.write(descriptor, b"into an unlinked file")
        os.close(descriptor)

    return step


def rows(path: Path, journal_mode: str) -> Callable[[int], None]:
    """One step is an acknowledged insert."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"pragma journal_mode={journal_mode}")
    connection.execute("pragma synchronous=full")
    connection.execute("create table numbers(n)")

    def step(number: int) -> None:
        connection.execute("insert into numbers values(?)", (number,))
        (count,) = connection.execute("select count(*) from numbers").fetchone()
        assert count == number + 1

    return step


def check_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("resend", [True, False], ids=["resend", "older-kernel"])
def test_killed_worker_under_load(guard: GuardProcess, resend: bool) -> None:
    if not resend:
        mask_resend(guard)
    load = Load()
    for i in range(3):
        load.run(every_operation(guard.paths[i % 2] / f"w{i}"))
    load.run(rows(guard.tree / "wal.db", "wal"))
    load.run(rows(guard.tree / "delete.db", "delete"))
    chance = random.Random(7)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 0.7))
        guard.kill_worker()
    guard.wait_served()
    time.sleep(0.3)
    load.finish()
    status = guard.call("status")
    assert status["worker"]["restarts"] == KILLS
    assert status["resend"] or not resend
    assert load.steps > 50
    check_database(guard.tree / "wal.db")
    check_database(guard.tree / "delete.db")
    guard.compare(1)
    guard.compare(2)


def test_waiting_durable_syncs_survive_the_worker(closed: GuardProcess) -> None:
    closed.open(mode="durable", needs=("secondary",))
    done = threading.Event()

    def sync() -> None:
        descriptor = os.open(closed.tree / "f", os.O_CREAT | os.O_RDWR)
        os.write(descriptor, b"x")
        os.fsync(descriptor)
        done.set()

    threading.Thread(target=sync, daemon=True).start()
    for _ in range(300):
        if closed.call("status")["waiting_fsyncs"]:
            break
        time.sleep(0.01)
    closed.kill_worker()
    status = closed.wait_served()
    for _ in range(300):
        status = closed.call("status")
        if status["waiting_fsyncs"]:
            break
        time.sleep(0.01)
    assert status["mode"] == "durable" and status["must_acknowledge"] == ["secondary"]
    assert not done.is_set()
    sequence = status["position"]["sequence"]
    closed.call("acknowledged", server="secondary", sequence=sequence)
    assert done.wait(3)


@pytest.mark.parametrize("resend", [True, False], ids=["resend", "older-kernel"])
def test_durable_load_with_kills(closed: GuardProcess, resend: bool) -> None:
    """Many fsyncs wait at every kill, in slots and without; each is answered once."""
    closed.open(mode="durable", needs=("secondary",))
    if not resend:
        mask_resend(closed)
    load = Load()

    def sync_of(number: int) -> Callable[[int], None]:
        descriptor = os.open(closed.tree / f"f{number}", os.O_CREAT | os.O_RDWR)

        def step(count: int) -> None:
            os.pwrite(descriptor, b"%d" % count, 0)
            os.fsync(descriptor)

        return step

    for number in range(10):
        load.run(sync_of(number))
    for turn in range(60):
        if turn % 12 == 11:
            closed.kill_worker()
        sequence = closed.wait_served()["position"]["sequence"]
        closed.call("acknowledged", server="secondary", sequence=sequence)
        time.sleep(0.02)
    closed.call("policy", mode="async", must_acknowledge=[])
    load.finish()
    assert load.steps > 30
    closed.compare()


def test_new_worker_by_hangup(guard: GuardProcess) -> None:
    load = Load()
    load.run(every_operation(guard.tree / "w"))
    before = guard.worker()
    assert guard.process is not None
    guard.process.send_signal(signal.SIGHUP)
    for _ in range(300):
        if guard.worker() != before:
            break
        time.sleep(0.01)
    load.finish()
    assert guard.worker() != before
    guard.compare()


def test_hints_are_right_after_a_restart(guard: GuardProcess) -> None:
    (guard.tree / "a/b").mkdir(parents=True)
    long_name = "n" * 200
    for name in ("short", long_name):
        (guard.tree / "a/b" / name).write_bytes(b"1")
    guard.kill_worker()
    for name in ("short", long_name):
        with (guard.tree / "a/b" / name).open("ab") as file:
            file.write(b"2")
    guard.compare()


def test_node_table_shrinks_when_the_kernel_forgets(guard: GuardProcess) -> None:
    for i in range(500):
        (guard.tree / f"f{i}").touch()
    assert guard.call("status")["trees"][0]["known_nodes"] >= 500
    for i in range(500):
        (guard.tree / f"f{i}").unlink()
    for _ in range(200):
        if guard.call("status")["trees"][0]["known_nodes"] < 10:
            return
        time.sleep(0.02)
    raise AssertionError("nodes are not forgotten")


def test_settled_slots_are_empty(guard: GuardProcess) -> None:
    guard.kill_worker()
    guard.wait_served()
    (guard.tree / "f").write_bytes(b"1")
    slots = Slots(memory_directory(guard.places) / "1" / "slots", THREADS)
    for _ in range(100):
        if not any(slot.used for slot in slots.slots):
            return
        time.sleep(0.01)
    raise AssertionError("a slot stays in use")
