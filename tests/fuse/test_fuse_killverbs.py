"""The worker dies inside a verb of the control socket: no dead mount stays, and asked again it does
what was asked."""

import errno
import os
from pathlib import Path

import pytest
from guarding import GuardProcess
from killpoints import VERB_STEPS
from test_fuse_holder import Held

from everup.capture import gate
from everup.errors import NotConnected

pytestmark = pytest.mark.fuse
CASES = [(verb, number) for verb, steps in VERB_STEPS.items() for number in range(len(steps))]


def ask(guard: GuardProcess, verb: str, epoch: int) -> None:
    if verb == "arm":
        guard.arm()
    elif verb == "open":
        guard.open(epoch=epoch)
    elif verb == "close":
        guard.call("close", grace_ms=500)
    else:
        guard.call("disarm", trees=[1])


def come_there(guard: GuardProcess, verb: str, epoch: int) -> None:
    """To the state in which the verb is asked for."""
    if verb == "arm":
        guard.call("disarm", trees=[1])
    else:
        guard.arm()
    if verb in ("close", "disarm") and guard.call("status")["gate"] == "closed":
        guard.open(epoch=epoch)
        (guard.tree / f"f{epoch}").write_bytes(b"1")


def errno_of_touch(path: Path) -> int:
    try:
        path.touch()
    except OSError as error:
        return error.errno or 0
    return 0


def test_a_worker_dies_inside_every_verb(tmp_path: Path) -> None:
    guard = Held(tmp_path / "held")
    try:
        guard.start()
        for epoch, (verb, number) in enumerate(CASES, 1):
            come_there(guard, verb, 2 * epoch)
            guard.plan.arm(0, (f"{verb}.{number}", 0))
            with pytest.raises(NotConnected):
                ask(guard, verb, 2 * epoch)
            assert guard.plan.deaths_left == 0, (verb, number)
            status = guard.wait_served()
            said = errno_of_touch(guard.tree / "after")
            assert said in (0, errno.EROFS), (verb, number, os.strerror(said))
            assert (said == 0) == (status["gate"] == "open" or not status["trees"])
            ask(guard, verb, 2 * epoch + 1 if status["gate"] == "closed" else 2 * epoch)
            after = guard.call("status")
            assert after["gate"] == ("open" if verb == "open" else "closed"), (verb, number)
            said = errno_of_touch(guard.tree / "then")
            assert said == (errno.EROFS if verb in ("arm", "close") else 0), (verb, number)
            assert bool(gate.load_armed(guard.places)) == (verb != "disarm")
            if verb == "open":
                guard.call("close", grace_ms=500)
    finally:
        guard.plan.disarm()
        guard.stop()
