"""The holder: a stuck worker is replaced and a slow one is not, workers that do not start, a new
version under load, and the death of the holder itself."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guarding import GuardProcess
from killpoints import FAILING_CODE, Plan, broken_mark, failing_mark

from everup.capture import protocol
from everup.capture.liveness import SILENT_S, STUCK_S
from everup.errors import NotConnected
from everup.wire.local import subscribe

pytestmark = pytest.mark.fuse
REPLACED_S = 10.0
PROGRAM = str(Path(__file__).with_name("killpoints.py"))


class Held(GuardProcess):
    """A guard under `killpoints`, whose log can be waited for."""

    def __init__(self, base: Path, role: str = "holder") -> None:
        base.mkdir()
        self.plan_path = base / "plan"
        self.plan = Plan(self.plan_path)
        super().__init__(base, 1, (sys.executable, PROGRAM, role, str(self.plan_path)))

    def wait_said(self, words: str, count: int = 1, seconds: float = 30) -> None:
        give_up = time.monotonic() + seconds
        while self.log.read_text().count(words) < count:
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.01)

    def wait_standing(self) -> None:
        """Until a second worker stands by."""
        assert self.process is not None
        give_up = time.monotonic() + 30
        while len(workers(self.process.pid)) < 2:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        time.sleep(0.5)


def workers(holder: int) -> list[int]:
    text = Path(f"/proc/{holder}/task/{holder}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    guard = Held(tmp_path / "held")
    try:
        guard.start()
        guard.arm()
        guard.open()
        yield guard
    finally:
        broken_mark(guard.plan_path).unlink(missing_ok=True)
        guard.stop()


def timed(call: Callable[[], object]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


def test_a_stopped_worker_is_replaced(held: Held) -> None:
    os.kill(held.worker(), signal.SIGSTOP)
    assert SILENT_S - 1 < timed((held.tree / "d").mkdir) < REPLACED_S
    worker = held.wait_served()["worker"]
    assert worker["restarts"] == 1 and "stopped" in worker["reason"]
    first = subscribe(held.places.guard_socket, "subscribe").receive()
    assert first is not None and first["event"] == "guard-worker-replaced"
    assert worker["reason"] in first["sentence"]
    held.compare()


def test_a_deadlocked_request_is_finished_by_another_worker(held: Held) -> None:
    held.plan.hang(protocol.MKDIR, "request.intent")
    assert STUCK_S - 1 < timed((held.tree / "d").mkdir) < REPLACED_S
    worker = held.wait_served()["worker"]
    assert worker["restarts"] == 1 and "lock" in worker["reason"]
    held.forgotten()
    held.compare()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own, which can be frozen."""
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_frozen_disk_is_not_a_stuck_worker(disk: Path, tmp_path: Path) -> None:
    guard = Held(disk / "held")
    # State and journal elsewhere: only the protected tree stands still.
    guard.places.journal.rmdir()
    (tmp_path / "journal").mkdir()
    guard.places.journal.symlink_to(tmp_path / "journal")
    try:
        guard.start()
        guard.arm()
        guard.open()
        threads = [
            threading.Thread(target=(guard.tree / f"d{number}").mkdir) for number in range(6)
        ]
        subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
        try:
            for thread in threads:
                thread.start()
            time.sleep(STUCK_S + 3)
        finally:
            subprocess.run(["fsfreeze", "-u", str(disk)], check=True)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert guard.wait_served()["worker"]["restarts"] == 0
    finally:
        guard.stop()


def test_requests_without_a_lease_are_not_a_stuck_worker(held: Held) -> None:
    held.lend(0)
    threads = [threading.Thread(target=(held.tree / f"d{number}").mkdir) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(STUCK_S + 3)
    held.lend()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert held.wait_served()["worker"]["restarts"] == 0


def test_workers_that_do_not_start_leave_no_dead_mount(held: Held) -> None:
    held.wait_standing()
    broken_mark(held.plan_path).touch()
    held.kill_worker()
    # The one that stood by had loaded its code before; the next ones do not come to serve.
    held.wait_served()
    held.kill_worker()
    errors: list[OSError] = []

    def write() -> None:
        try:
            (held.tree / "f").write_bytes(b"waited")
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    held.wait_said("no worker comes to serve", 3)
    assert thread.is_alive()
    with pytest.raises(NotConnected):
        held.call("status")
    broken_mark(held.plan_path).unlink()
    thread.join(20)
    assert not thread.is_alive() and errors == []
    assert (held.tree / "f").read_bytes() == b"waited"
    held.compare()


def test_a_new_version_takes_over_under_load(held: Held) -> None:
    assert held.process is not None
    held.wait_standing()
    stop = threading.Event()
    pauses: list[float] = []

    def load() -> None:
        number = 0
        while not stop.is_set():
            pauses.append(timed((held.tree / f"d{number}").mkdir))
            number += 1

    thread = threading.Thread(target=load)
    thread.start()
    before = held.worker()
    broken_mark(held.plan_path).touch()
    held.process.send_signal(signal.SIGHUP)
    held.wait_said("the new version does not start")
    assert held.worker() == before
    broken_mark(held.plan_path).unlink()
    held.process.send_signal(signal.SIGHUP)
    give_up = time.monotonic() + 20
    while (worker := held.wait_served()["worker"])["pid"] == before:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert worker["reason"] == "a new version took over" and worker["restarts"] == 1
    stop.set()
    thread.join(10)
    assert len(pauses) > 10
    print(f"longest of {len(pauses)} calls over an upgrade: {max(pauses):.3f} s")
    held.compare()


def test_a_new_version_that_never_serves_is_taken_back(held: Held) -> None:
    """Once tried, never again by itself; the version that served before serves on."""
    assert held.process is not None
    held.wait_standing()
    before = held.worker()
    stop = threading.Event()
    calls: list[float] = []

    def load() -> None:
        while not stop.is_set():
            calls.append(timed((held.tree / f"d{len(calls)}").mkdir))

    thread = threading.Thread(target=load)
    thread.start()
    failing_mark(held.plan_path).touch()
    held.process.send_signal(signal.SIGHUP)
    held.wait_said(f"did not come to serve ({FAILING_CODE}), the version before serves again")
    worker = held.wait_served()["worker"]
    assert worker["pid"] != before and worker["restarts"] == 2
    assert "did not come to serve" in worker["reason"]
    held.wait_standing()
    done, give_up = len(calls), time.monotonic() + 20
    while len(calls) == done:
        assert time.monotonic() < give_up, "the application waits"
        time.sleep(0.01)
    assert held.worker() == worker["pid"]
    failing_mark(held.plan_path).unlink()
    held.process.send_signal(signal.SIGHUP)
    give_up = time.monotonic() + 20
    while (after := held.wait_served()["worker"])["pid"] == worker["pid"]:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert after["reason"] == "a new version took over" and after["restarts"] == 3
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    held.compare()


class Service:
    """What systemd does with the descriptors of a service: keep them until it runs again."""

    def __init__(self, address: Path) -> None:
        self.kept: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 10)
            lines = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            if "FDSTORE" in lines:
                self.kept[lines["FDNAME"]] = descriptors[0]
            elif "FDSTOREREMOVE" in lines:
                os.close(self.kept.pop(lines["FDNAME"]))

    def environment(self) -> dict[str, str]:
        return {"LISTEN_FDS": str(len(self.kept)), "LISTEN_FDNAMES": ":".join(self.kept)}

    def pass_on(self) -> None:
        """In the new process, before its program begins."""
        high = [os.dup2(descriptor, 200 + i) for i, descriptor in enumerate(self.kept.values())]
        for i, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + i, inheritable=True)


def test_the_holder_is_killed_and_the_mounts_are_served_again(tmp_path: Path) -> None:
    service = Service(tmp_path / "notify")
    guard = Held(tmp_path / "held", "service")
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    try:
        guard.start({**environment, **service.environment()})
        guard.arm()
        guard.open()
        (guard.tree / "f").write_bytes(b"before")
        descriptor = os.open(guard.tree / "f", os.O_RDWR)
        for _ in range(2):
            assert guard.process is not None
            alive = workers(guard.process.pid)
            guard.process.kill()
            guard.process.wait()
            for pid in alive:
                while Path(f"/proc/{pid}").exists():
                    time.sleep(0.01)
            thread = threading.Thread(target=os.pwrite, args=(descriptor, b"x", 0))
            thread.start()
            guard.start({**environment, **service.environment()}, service.pass_on)
            thread.join(10)
            assert not thread.is_alive()
        assert (guard.tree / "f").read_bytes() == b"xefore"
        assert guard.wait_served()["gate"] == "open"
        os.close(descriptor)
        guard.compare()
        guard.call("close", grace_ms=1000)
        assert service.kept == {}
        with pytest.raises(OSError) as refused:
            (guard.tree / "g").touch()
        assert refused.value.errno == errno.EROFS
    finally:
        guard.stop()
