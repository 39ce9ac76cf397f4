"""A guard whose worker kills itself (SIGKILL) at one chosen step of one chosen request.

What enters: a plan in a small shared file, written by the test. What leaves: a worker that runs the
product's unchanged code under `sys.setprofile` and dies where the plan says. Run as a program it is
the holder (`killpoints.py holder PLAN`) or its worker. Imported, it is the test's side (`Plan`).

A step is a moment in the life of a request, named in STEPS: a call or return of a function of the
product, or of a system call made by it, in the thread that handles the request.
"""

import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from types import FrameType
from typing import Any, NamedTuple

PAGE_BYTES = 4096
FAILING_CODE = 7
_OPCODE = Struct("<Q")
_STEP = Struct("<Q56s")
_STEPS_AT = 64


class Step(NamedTuple):
    """Where to die: at `event` of `function` in a file of the product."""

    event: str
    function: str
    file: str


REQUEST_STEPS = {
    "read": Step("call", "handle", "session.py"),
    "intent": Step("return", "intend", "slots.py"),
    "lower": Step("lower", "", ""),
    "appended": Step("return", "append", "writer.py"),
    "noted": Step("return", "note_journaled", "slots.py"),
    "counted": Step("return", "learn", "nodes.py"),
    "forgot": Step("return", "forget", "nodes.py"),
    "answer": Step("call", "answer", "session.py"),
    "answered": Step("c_return:write", "_write", "session.py"),
    "cleared": Step("return", "clear", "slots.py"),
}
"""In the order of a request's life. "lower" is every system call between intent and record."""

SYNC_STEPS = {
    "read": REQUEST_STEPS["read"],
    "synced": Step("return", "_sync_now", "syncing.py"),
    "parked": Step("return", "park", "slots.py"),
    "apart": Step("call", "_sync_apart", "syncing.py"),
    "cleared": REQUEST_STEPS["cleared"],
    "finish": Step("call", "_finish", "syncing.py"),
    "answered": Step("c_return:write", "_write", "session.py"),
    "unparked": Step("return", "unpark", "slots.py"),
}
"""The life of a sync that waits for another server."""

START_STEPS = {
    "settle": Step("call", "settle", "settle.py"),
    "looked": Step("return", "add", "settle.py"),
    "handled": Step("return", "handle", "session.py"),
    "answered": Step("c_return:write", "_write", "session.py"),
    "settled": Step("return", "settle", "settle.py"),
    "take-over": Step("call", "take_over", "session.py"),
    "taken-over": Step("return", "take_over", "session.py"),
    "started": Step("return", "start", "session.py"),
}
"""A new worker that takes over, until it serves; there is no thread of a request yet."""

VERB_STEPS = {
    "arm": (
        Step("return", "save_armed", "gate.py"), Step("return", "bind_private", "mounts.py"),
        Step("return", "arm_tree", "gate.py"),
    ),
    "open": (
        Step("return", "_check_marker", "guard.py"), Step("return", "begin_epoch", "writer.py"),
        Step("return", "_begin_epoch", "guard.py"), Step("return", "keep", "keeping.py"),
        Step("return", "make_session", "mounted.py"), Step("return", "_save_state", "guard.py"),
        Step("return", "mount_fuse", "mounts.py"), Step("return", "set_features", "slots.py"),
        Step("return", "start", "session.py"), Step("return", "mount", "mounted.py"),
        Step("return", "open", "guard.py"),
    ),
    "close": (
        Step("call", "close", "guard.py"), Step("return", "unmount_gently", "gate.py"),
        Step("return", "fail_waiting", "syncing.py"), Step("return", "_drain", "guard.py"),
        Step("return", "unmount_hard", "gate.py"), Step("call", "end", "mounted.py"),
        Step("return", "drop_orphans", "lower.py"), Step("return", "drop", "keeping.py"),
        Step("return", "end", "mounted.py"), Step("return", "clear", "runstate.py"),
        Step("return", "_finish_closing", "guard.py"),
    ),
    "disarm": (
        Step("return", "uncover", "gate.py"), Step("return", "disarm_tree", "gate.py"),
        Step("call", "save_armed", "gate.py"), Step("return", "save_armed", "gate.py"),
    ),
}  # fmt: skip
"""What a verb of the control socket goes through."""

STEPS = {
    **{f"request.{name}": step for name, step in REQUEST_STEPS.items()},
    **{f"sync.{name}": step for name, step in SYNC_STEPS.items()},
    **{f"start.{name}": step for name, step in START_STEPS.items()},
    **{f"{verb}.{i}": step for verb, steps in VERB_STEPS.items() for i, step in enumerate(steps)},
}


class Plan:
    """The shared page: which opcode, and at which steps one worker after the other dies."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, PAGE_BYTES)
        self._page = mmap.mmap(descriptor, PAGE_BYTES)
        os.close(descriptor)

    def arm(self, opcode: int, *steps: tuple[str, int]) -> None:
        """Each step is (name, how often it is passed before), for requests with this opcode."""
        _OPCODE.pack_into(self._page, 8, opcode)
        for number, (step, passes) in enumerate(reversed(steps), 1):
            _STEP.pack_into(self._page, _STEPS_AT * number, passes, step.encode())
        self._page[0] = len(steps)

    def hang(self, opcode: int, step: str) -> None:
        """The next request with this opcode waits at a step for ever, for a lock that none has."""
        self.arm(opcode, (step, 0))
        self._page[1] = 1

    def disarm(self) -> None:
        self._page[0] = 0

    @property
    def deaths_left(self) -> int:
        return self._page[0]

    def read(self) -> tuple[int, int, str]:
        """(opcode, passes, step) of the next death."""
        (opcode,) = _OPCODE.unpack_from(self._page, 8)
        passes, step = _STEP.unpack_from(self._page, _STEPS_AT * self._page[0])
        return opcode, passes, step.rstrip(b"\0").decode()

    def die(self) -> None:
        self._page[0] -= 1
        if self._page[1]:
            self._page[1] = 0
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)


_SAME = {53: 47, 2: 42}
"""COPY_FILE_RANGE_64 of newer kernels is as COPY_FILE_RANGE, one FORGET as several."""
_OF_A_REQUEST = {
    *(f"request.{name}" for name in REQUEST_STEPS), "sync.read", "sync.synced", "sync.parked",
}  # fmt: skip
"""Steps that are taken by the thread that read the request."""


class Watcher:
    """The profile function of every thread of a worker."""

    def __init__(self, plan: Plan, product: str, failing: bool = False) -> None:
        self._plan = plan
        self._failing = failing
        self._product = product
        self._here = threading.local()
        self._passed = 0
        self._seen: tuple[int, int, str] = (0, 0, "")

    def install(self) -> None:
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self._product):
            self._look(frame, event, argument)

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        code, here = frame.f_code, self._here
        name, file = code.co_name, code.co_filename.rpartition("/")[2]
        if self._failing and (event, name, file) == ("call", "start", "guard.py"):
            os._exit(FAILING_CODE)
        if event == "call" and name == "handle" and file == "session.py":
            opcode = frame.f_locals["request"].opcode
            here.opcode = _SAME.get(opcode, opcode)
            here.changing = False
        if not self._plan.deaths_left:
            return
        wanted = self._plan.read()
        if wanted != self._seen:
            self._seen, self._passed = wanted, 0
        opcode, passes, label = wanted
        step = STEPS[label]
        if label in _OF_A_REQUEST and getattr(here, "opcode", 0) != opcode:
            return
        if self._is(step, name, file, event, argument):
            self._passed += 1
            if self._passed > passes:
                self._plan.die()
        if event == "return" and name == "intend":
            here.changing = True
        elif event == "call" and name in ("record", "answer", "answer_error"):
            here.changing = False

    def _is(self, step: Step, name: str, file: str, event: str, argument: Any) -> bool:
        if step.event == "lower":
            if not getattr(self._here, "changing", False):
                return False
            if event == "c_return":
                return getattr(argument, "__name__", "") in _CHANGING
            return event == "return" and (name, file) in _OVER_CTYPES
        wanted, _, call = step.event.partition(":")
        if (event, name, file) != (wanted, step.function, step.file):
            return False
        return not call or getattr(argument, "__name__", "") == call


_CHANGING = {
    "open", "mkdir", "symlink", "mknod", "link", "unlink", "rmdir", "rename", "pwrite",
    "ftruncate", "chmod", "fchmod", "chown", "fchown", "utime", "setxattr", "removexattr",
}  # fmt: skip
_OVER_CTYPES = {("rename", "kernelcalls.py"), ("allocate", "kernelcalls.py")}


def _hold(plan: str) -> int:
    from everup.capture.holder import Holder

    os.chdir("/")
    return Holder((sys.executable, os.path.abspath(__file__), "worker", plan)).run()


def broken_mark(plan: Path) -> Path:
    """While this file exists, the product's code does not start."""
    return plan.with_name("broken")


def failing_mark(plan: Path) -> Path:
    """Code that is loaded while this file exists stands by, and ends when it shall serve."""
    return plan.with_name("failing")


def _hold_as_service(plan: str) -> int:
    """As systemd starts it: what it kept is at descriptors 3 and following, and for this pid."""
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execv(sys.executable, (sys.executable, os.path.abspath(__file__), "holder", plan))


def _work(plan: str) -> int:
    if broken_mark(Path(plan)).exists():
        return 3
    import everup.capture.worker as worker

    product = os.path.dirname(os.path.dirname(worker.__file__ or ""))
    failing = failing_mark(Path(plan)).exists()
    Watcher(Plan(Path(plan)), product + "/", failing).install()
    return worker.main()


if __name__ == "__main__":
    roles: dict[str, Callable[[str], int]] = {
        "holder": _hold, "service": _hold_as_service, "worker": _work,
    }  # fmt: skip
    raise SystemExit(roles[sys.argv[1]](sys.argv[2]))
