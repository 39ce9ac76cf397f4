"""A write behind the mount's back is noticed, named and told; our own writes are not."""

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from guarding import GuardProcess

from everup.wire.local import subscribe

pytestmark = pytest.mark.fuse
WAIT_S = 15.0


def until(guard: GuardProcess, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The findings, as soon as they are so."""
    give_up = time.monotonic() + WAIT_S
    while True:
        behind: dict[str, Any] = guard.wait_served()["behind"]
        if holds(behind):
            return behind
        assert time.monotonic() < give_up, behind
        time.sleep(0.05)


def watching(guard: GuardProcess) -> dict[str, Any]:
    return until(guard, lambda behind: behind["state"] == "watching")


def test_a_write_below_is_named(guard: GuardProcess) -> None:
    (guard.tree / "d").mkdir()
    (guard.tree / "d/known").write_bytes(b"by the way of the mount")
    watching(guard)
    writer = subprocess.Popen(
        ["/bin/sh", "-c", f"echo behind >> {guard.lower() / 'd/known'}; sleep 20"]
    )
    try:
        behind = until(guard, lambda behind: behind["count"] >= 1)
    finally:
        writer.kill()
        writer.wait()
    (entry,) = behind["last"]
    assert entry["path"] == str(guard.tree / "d/known")
    assert (entry["pid"], entry["command"]) == (writer.pid, "sh")
    assert abs(entry["at"] - time.time()) < WAIT_S


def test_a_descriptor_from_before_arming_is_noticed(closed: GuardProcess) -> None:
    """Opened on another mount, before ours: closed, it has written."""
    watching(closed)
    closed.call("disarm", trees=[1])
    early = (closed.tree / "early").open("wb")
    closed.arm()
    closed.open()
    watching(closed)
    # Once around: the tree that is watched from now on is the new mount.
    time.sleep(1.0)
    early.write(b"late")
    early.close()
    behind = until(closed, lambda behind: behind["count"] == 1)
    assert behind["last"][0]["path"] == str(closed.tree / "early")
    assert behind["last"][0]["pid"] == os.getpid()


def test_what_goes_through_the_mount_is_not_told(guard: GuardProcess) -> None:
    watching(guard)
    for number in range(400):
        (guard.tree / f"{number}").write_bytes(b"x")
    for number in range(400):
        (guard.tree / f"{number}").unlink()
    guard.kill_worker()
    (guard.tree / "after").write_bytes(b"x")
    guard.forgotten()
    watching(guard)
    (guard.base / "elsewhere").write_bytes(b"on the same file system")
    # What is seen last has everything before it behind it.
    (guard.lower(2) / "behind").write_bytes(b"x")
    behind = until(guard, lambda behind: behind["count"] >= 1)
    assert [entry["path"] for entry in behind["last"]] == [str(guard.paths[1] / "behind")]


def test_people_hear_of_it(guard: GuardProcess) -> None:
    watching(guard)
    channel = subscribe(guard.places.guard_socket, "subscribe")
    time.sleep(0.5)
    (guard.lower() / "f").write_bytes(b"x")
    line: dict[str, Any] | None = {}
    while line is not None and line.get("event") != "written-behind":
        line = channel.receive()
    channel.close()
    assert line is not None
    assert line["severity"] == "warning" and str(guard.tree / "f") in line["sentence"]
