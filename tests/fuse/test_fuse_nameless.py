"""Files that are made without a name survive the worker, are journaled as a whole when they get
one, and leave nothing behind."""

import os
import random
import threading
import time
from pathlib import Path

import pytest
from differential import name_again
from following import Followed
from guarding import GuardProcess
from replaying import LINK, ORPHAN, WRITE, entries

pytestmark = pytest.mark.fuse


def nameless(directory: Path) -> int:
    return os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o640)


def test_nothing_is_recorded_before_there_is_a_name(guard: GuardProcess) -> None:
    held = nameless(guard.tree)
    os.write(held, b"x" * 100_000)
    os.fsync(held)
    time.sleep(0.1)
    assert not [e for e in entries(guard.places.journal) if e.operation in (ORPHAN, WRITE)]
    os.chdir(guard.tree)
    name_again(held, "named")
    os.chdir("/")
    guard.compare()
    found = [e.operation for e in entries(guard.places.journal)]
    assert found.index(ORPHAN) < found.index(WRITE) < found.index(LINK)
    os.close(held)
    guard.forgotten()


def test_they_outlive_the_worker(guard: GuardProcess) -> None:
    held = [nameless(guard.tree) for _ in range(3)]
    for descriptor in held:
        os.write(descriptor, b"before")
    guard.kill_worker()
    os.chdir(guard.tree)
    for number, descriptor in enumerate(held):
        os.write(descriptor, b" after")
        assert os.fstat(descriptor).st_nlink == 0
        if number:
            name_again(descriptor, f"named{number}")
    os.chdir("/")
    assert (guard.tree / "named1").read_bytes() == b"before after"
    guard.compare()
    for descriptor in held:
        os.close(descriptor)
    guard.forgotten()


def test_a_worker_killed_while_it_records_the_content(guard: GuardProcess) -> None:
    """The redone request finds the file named already, and records all of it again."""
    data = os.urandom(10 << 20)
    clock = random.Random(7)
    os.chdir(guard.tree)
    for number in range(6):
        held = nameless(guard.tree)
        os.write(held, data)
        os.ftruncate(held, len(data) + (8 << 20))
        killer = threading.Timer(clock.uniform(0.0, 0.015), guard.kill_worker)
        killer.start()
        name_again(held, f"named{number}")
        killer.join()
        os.pwrite(held, b"later", 5)
        os.close(held)
    os.chdir("/")
    for number in range(6):
        found = (guard.tree / f"named{number}").read_bytes()
        assert found[:10] == data[:5] + b"later" and found[10 : len(data)] == data[10:]
    guard.compare()


def test_appliers_make_them_appear_from_any_later_state(tmp_path: Path) -> None:
    """Streamed, and replayed from before on trees in which it is already named, renamed, gone."""
    followed = Followed(tmp_path)
    followed.start()
    try:
        with followed.example() as example:
            os.chdir(example.root)
            held = [nameless(example.root) for _ in range(3)]
            for number, descriptor in enumerate(held):
                os.pwrite(descriptor, b"%d" % number * 70_000, 1 << 20)
                os.setxattr(descriptor, "user.k", b"v")
                example.take_moment()
                name_again(descriptor, f"named{number}")
                os.pwrite(descriptor, b"later", 3)
                example.take_moment()
            os.rename("named1", "named0")
            os.unlink("named2")
            example.take_moment()
            os.link("named0", "second")
            example.take_moment()
            os.chdir("/")
            example.check()
            for descriptor in held:
                os.close(descriptor)
    finally:
        os.chdir("/")
        followed.stop()
