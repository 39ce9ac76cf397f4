"""The worker dies at every step of every operation: the application sees one success, the journal
describes the lower tree, and the kernel's lookups are counted exactly."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from guarding import GuardProcess, mask_resend
from killedoperations import OPERATIONS, Operation
from killpoints import START_STEPS, Plan

from everup.errors import EverupError

pytestmark = pytest.mark.fuse
MODES = ["resend", "older-kernel"]
LONGER = int(os.environ.get("EVERUP_LONGER", "1"))
PAUSE_MIDDLE_MAX_S = 1.0
FIRST_DEATHS = ("request.read", "request.lower", "request.noted", "request.counted")


class Killing:
    """A durable guard with an instant peer, whose worker dies where told."""

    def __init__(self, base: Path) -> None:
        base.mkdir()
        program = str(Path(__file__).with_name("killpoints.py"))
        self.plan = Plan(base / "plan")
        self.guard = GuardProcess(base, 1, (sys.executable, program, "holder", str(base / "plan")))
        self.pauses: list[float] = []
        self.cells = 0
        self._stop = threading.Event()
        self._peer = threading.Thread(target=self._acknowledge, daemon=True)

    def open(self, resend: bool = True) -> None:
        self.guard.open(mode="durable", needs=("secondary",))
        if not resend:
            mask_resend(self.guard)
            # The worker itself believes what it agreed on at first.
            self.guard.kill_worker()
        assert self.guard.wait_served()["resend"] == resend
        self._peer.start()

    def _acknowledge(self) -> None:
        """The peer: has everything a moment later."""
        while not self._stop.wait(0.005):
            with suppress(EverupError):
                sequence = self.guard.call("status")["position"]["sequence"]
                self.guard.call("acknowledged", server="secondary", sequence=sequence)

    def stop(self) -> None:
        self._stop.set()
        if self._peer.is_alive():
            self._peer.join()
        self.guard.stop()

    def cell(self, operation: Operation, *steps: tuple[str, int]) -> None:
        """Do it while workers die."""
        self.cells += 1
        directory = self.guard.tree / f"cell{self.cells}"
        directory.mkdir()
        act, check = operation.prepare(directory)
        self.plan.arm(operation.opcode, *steps)
        begin = time.monotonic()
        act()
        self.pauses.append(time.monotonic() - begin)
        self.wait_dead()
        check()
        self.guard.forgotten()

    def wait_dead(self) -> None:
        """Steps behind the answer are taken when the application has gone on already."""
        give_up = time.monotonic() + 10
        while self.plan.deaths_left:
            assert time.monotonic() < give_up, "the step was never taken"
            time.sleep(0.001)


@pytest.fixture
def killing(tmp_path: Path) -> Iterator[Killing]:
    killing = Killing(tmp_path / "killing")
    try:
        killing.guard.start()
        yield killing
    finally:
        killing.plan.disarm()
        killing.stop()


def chosen(mode: str) -> Iterator[tuple[str, str, int]]:
    """Steps of every operation: a quarter of all in each mode, never the same one.

    All of them in both modes: EVERUP_LONGER=2, as `make soak PART=restart` does.
    """
    for number, (name, operation) in enumerate(OPERATIONS.items()):
        for place, (step, passes) in enumerate(operation.cells()):
            if LONGER > 1 or (number + place) % 4 == 2 * MODES.index(mode):
                yield name, step, passes


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_dies_at_every_step_of_every_operation(killing: Killing, mode: str) -> None:
    killing.guard.arm()
    killing.open(mode == "resend")
    for name, step, passes in chosen(mode):
        try:
            killing.cell(OPERATIONS[name], (step, passes))
        except BaseException as error:
            raise AssertionError(f"{name}, {step} ({passes})") from error
    killing.guard.compare()
    report(killing)


def report(killing: Killing) -> None:
    pauses = sorted(killing.pauses)
    middle, most = pauses[len(pauses) // 2], pauses[-1]
    assert middle < PAUSE_MIDDLE_MAX_S
    print(f"{len(pauses)} operations over a worker's death: {middle:.3f} s, at most {most:.3f} s")


@pytest.mark.parametrize("mode", MODES)
def test_the_next_worker_dies_while_it_takes_over(killing: Killing, mode: str) -> None:
    killing.guard.arm()
    killing.open(mode == "resend")
    names = ("create", "rename, replacing", "append", "fsync")
    for number, step in enumerate(START_STEPS):
        operation = OPERATIONS[names[number % len(names)]]
        first = FIRST_DEATHS[number % 2 if operation is OPERATIONS["fsync"] else number % 3]
        if operation is OPERATIONS["fsync"]:
            first = ("request.read", "sync.parked")[number % 2]
        if step == "handled":
            first = "request.intent"
        try:
            killing.cell(operation, (first, 0), (f"start.{step}", 0))
        except BaseException as error:
            raise AssertionError(f"{operation}, {first}, {step}") from error
    killing.guard.compare()
