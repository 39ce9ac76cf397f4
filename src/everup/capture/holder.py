"""The tiny process that outlives the worker and keeps its /dev/fuse descriptors open.

What enters: descriptors from the worker, over a socket. What leaves: a running worker, started
again at once with every descriptor when it dies. While this process lives, applications whose
request was being worked on just wait; if it dies too, the kernel ends the connections.

Standard library only and no knowledge of FUSE: the less it does, the longer it lives. Messages
(JSON, one packet each): {"keep": name} with a descriptor, {"drop": name}, {"ready": true};
each is answered by {"held": count}.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from everup.system.notify import notify

HELD = "EVERUP_HELD"
CONTROL = "EVERUP_HOLDER"
RESTARTS = "EVERUP_RESTARTS"
WORKER_MODULE = "everup.capture.worker"
MESSAGE_BYTES_MAX = 4096
QUICK_DEATHS_MAX = 5
QUICK_S = 10.0
BACK_OFF_S = 0.5
STOP_S = 25.0


class Holder:
    """Keeps descriptors by name and one worker alive, which `command` starts."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", WORKER_MODULE)) -> None:
        self._command = command
        self.held: dict[str, int] = {}
        self.restarts = 0
        self.stopping = False
        self.worker: subprocess.Popen[bytes] | None = None
        self._deaths: list[float] = []
        self._ready = False

    def run(self) -> int:
        """Until SIGTERM; returns the exit code."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._replace)
        while True:
            channel = self._start_worker()
            self._serve(channel)
            channel.close()
            assert self.worker is not None
            code = self._reap(self.worker)
            if self.stopping:
                return 0
            print(f"everup-guard: worker ended ({code}), starting it again", file=sys.stderr)
            self._wait_if_it_keeps_dying()
            self.restarts += 1

    def _start_worker(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptors = [theirs.fileno(), *self.held.values()]
        environment = {
            **os.environ,
            CONTROL: str(theirs.fileno()),
            HELD: json.dumps(self.held),
            RESTARTS: str(self.restarts),
        }
        self.worker = subprocess.Popen(
            self._command, pass_fds=descriptors, env=environment
        )
        theirs.close()
        return ours

    def _serve(self, channel: socket.socket) -> None:
        """Messages of the worker until it dies (then the socket ends)."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES_MAX, 1)
            except InterruptedError:
                continue
            except OSError:
                return
            if not data:
                return
            message = json.loads(data)
            if "keep" in message and descriptors:
                self._drop(message["keep"])
                self.held[message["keep"]] = descriptors[0]
            elif "drop" in message:
                self._drop(message["drop"])
            elif "ready" in message and not self._ready:
                self._ready = True
                notify("READY=1")
            try:
                channel.send(json.dumps({"held": len(self.held)}).encode())
            except OSError:
                # It died before it could hear the answer.
                return

    def _drop(self, name: str) -> None:
        descriptor = self.held.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    @staticmethod
    def _reap(worker: subprocess.Popen[bytes]) -> int:
        try:
            return worker.wait(STOP_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            return worker.wait()

    def _wait_if_it_keeps_dying(self) -> None:
        now = time.monotonic()
        self._deaths = [death for death in self._deaths if now - death < QUICK_S]
        self._deaths.append(now)
        if len(self._deaths) > QUICK_DEATHS_MAX:
            time.sleep(BACK_OFF_S)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stopping = True
        if self.worker is not None:
            self.worker.terminate()

    def _replace(self, number: int, frame: FrameType | None) -> None:
        """SIGHUP: a new worker (of a new version, say) takes over while requests wait."""
        del number, frame
        if self.worker is not None:
            self.worker.kill()


def main() -> int:
    """The main process of everup-guard."""
    # A working directory below a protected path would be a process of ours that touches it.
    os.chdir("/")
    return Holder().run()
