"""A signal does not end an fsync that waits for another server; only SIGKILL does."""

import signal
import subprocess
import sys
import time

import pytest
from guarding import GuardProcess

pytestmark = pytest.mark.fuse

PROGRAM = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGUSR1, lambda *_: None)
handle = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.write(handle, b"data")
os.write(1, b"now")
# Not os.fsync: Python repeats a call that a signal has ended, other programs do not.
os.write(1, b"synced" if libc.fsync(handle) == 0 else b"errno %d" % ctypes.get_errno())
"""


def begin_sync(guard: GuardProcess) -> subprocess.Popen[bytes]:
    """A process that waits in fsync."""
    guard.open(mode="durable", needs=("secondary",))
    words = [sys.executable, "-c", PROGRAM, str(guard.tree / "f")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 5
    while guard.call("status")["waiting_fsyncs"] != 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def test_a_handled_signal_lets_the_sync_go_on_to_its_end(closed: GuardProcess) -> None:
    process = begin_sync(closed)
    for _ in range(3):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
    assert closed.call("status")["waiting_fsyncs"] == 1
    closed.call("policy", mode="durable", must_acknowledge=[])
    said, errors = process.communicate(timeout=5)
    assert (said, errors, process.returncode) == (b"nowsynced", b"", 0)


def test_a_kill_after_another_signal_is_seen(closed: GuardProcess) -> None:
    """The kernel does not tell of it: it has told of the first signal."""
    process = begin_sync(closed)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    process.kill()
    process.wait(3)
    assert closed.call("status")["waiting_fsyncs"] == 0
