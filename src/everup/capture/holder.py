"""The tiny process that outlives the worker and keeps its /dev/fuse descriptors open.

What enters: descriptors from the worker, over a socket. What leaves: a running worker, replaced at
once, with every descriptor, when it dies or is stuck. Meanwhile applications just wait.

A second worker stands by: it has loaded everything and waits for the word, so that a replacement
takes milliseconds also on a busy machine. SIGHUP makes a new one stand by, from the code as it is
on the disk now, and lets it take over once it stands; if it never does, the old one stays. The one
that stood by before waits until the new one serves: if it does not, the code that served before
serves again.

systemd is handed every descriptor too (its file descriptor store): when this process itself is
killed, the next one gets them back and the mounts are served again.

Standard library only and no knowledge of FUSE: the less it does, the longer it lives. Messages
(JSON, one packet each) of a worker: {"standing": true}, then {"keep": name} with a descriptor,
{"drop": name}, {"ready": true}, each of these answered by {"held": count}. To a worker, once:
{"go": [names]} with the descriptors, the last of them the page of its pulse (see `liveness`).
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from everup.capture.liveness import TICK_S, Watch, make_page
from everup.system.notify import notify, passed_descriptors

CONTROL = "EVERUP_HOLDER"
WORKER_MODULE = "everup.capture.worker"
MESSAGE_BYTES_MAX = 4096
FAILURES_MAX = 3
BACK_OFF_S = 0.5
BACK_OFF_MAX_S = 8.0
STAND_BY_AGAIN_S = 5.0
STOP_S = 25.0
RENEW_S = 20.0
"""A new version that does not serve by then is taken back, if one of the version before is left."""


class Child:
    """A worker, standing by or at work, and our end of its socket."""

    def __init__(self, command: Sequence[str]) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, CONTROL: str(theirs.fileno())}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        self.standing = False
        theirs.close()

    def tell(self, message: dict[str, object], descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self.channel, [json.dumps(message).encode()], descriptors)
        except OSError:
            # It died before it could hear us; the end of its socket says so next.
            return

    def hear(self) -> tuple[dict[str, str], list[int]] | None:
        """The next message; None when it has ended."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.channel, MESSAGE_BYTES_MAX, 1)
        except OSError:
            return None
        return (json.loads(data), descriptors) if data else None

    def end(self) -> int:
        """Wait until it is gone, by force if need be: two workers must never be at work."""
        self.channel.close()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Holder:
    """Keeps descriptors by name and one worker alive, which `command` starts."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", WORKER_MODULE)) -> None:
        self.held = passed_descriptors()
        self.restarts = 0
        self.reason = ""
        self.stopping = False
        self._signals: set[int] = set()
        self._command = command
        self._page = make_page()
        self._watch = Watch(self._page)
        self._selector = selectors.DefaultSelector()
        self._failures = 0
        self._served = False
        self._ready = False
        self._renewing = False
        # Until when a new version must serve; 0: none is taking over.
        self._taking_over = 0.0
        self._trouble = ""
        self._stand_by_from = 0.0
        self._spare: Child | None = None
        # Of the version that served, while a new one is on its way.
        self._fallback: Child | None = None
        self._worker = self._child()

    def run(self) -> int:
        """Until SIGTERM; returns the exit code."""
        self._listen_to_signals()
        self._go()
        while True:
            for key, _ in self._selector.select(TICK_S):
                if key.data is self._worker and not self._serve(self._worker):
                    if self.stopping:
                        return self._leave()
                    self._replace()
                elif self._spare is not None and key.data is self._spare:
                    self._look_at_spare(self._spare)
                elif self._fallback is not None and key.data is self._fallback:
                    self._drop_fallback()
            self._obey_signals()
            self._tick()

    # the worker

    def _child(self) -> Child:
        child = Child(self._command)
        self._selector.register(child.channel, selectors.EVENT_READ, child)
        return child

    def _end(self, child: Child) -> int:
        self._selector.unregister(child.channel)
        return child.end()

    def _dismiss(self, child: Child | None) -> None:
        """It stood by and is not needed."""
        if child is not None:
            child.process.kill()
            self._end(child)

    def _drop_fallback(self) -> None:
        self._dismiss(self._fallback)
        self._fallback = None

    def _go(self) -> None:
        """The word to the worker, which may still be starting."""
        names = list(self.held)
        descriptors = [*self.held.values(), self._page]
        message = {"go": names, "restarts": self.restarts, "reason": self.reason}
        self._worker.tell(message, descriptors)
        self._watch.begin(self._worker.process.pid)

    def _serve(self, worker: Child) -> bool:
        """One message of the worker; False when it has ended."""
        heard = worker.hear()
        if heard is None:
            return False
        message, descriptors = heard
        if "standing" in message:
            worker.standing = True
            return True
        if "keep" in message and descriptors:
            self._keep(message["keep"], descriptors[0])
        elif "drop" in message:
            self._drop(message["drop"])
        elif "ready" in message:
            self._is_ready()
        worker.tell({"held": len(self.held)})
        return True

    def _keep(self, name: str, descriptor: int) -> None:
        self._drop(name)
        self.held[name] = descriptor
        # Not polled: what is not mounted yet looks broken to systemd.
        notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor)

    def _drop(self, name: str) -> None:
        descriptor = self.held.pop(name, None)
        if descriptor is not None:
            notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
            os.close(descriptor)

    def _is_ready(self) -> None:
        self._served = True
        if self._taking_over:
            self._taking_over, self._trouble = 0.0, ""
            self._drop_fallback()
        status = f"worker {self._worker.process.pid}, replaced {self.restarts} times"
        notify(f"STATUS={status}{self._trouble}")
        if not self._ready:
            self._ready = True
            notify("READY=1")
        if self._spare is None and not self.stopping:
            self._spare = self._child()

    def _replace(self) -> None:
        """The worker has ended: the one that stands by takes over, or else a fresh one."""
        code = self._end(self._worker)
        self.reason = self._watch.reason or f"the worker ended with {code}"
        renewed = self._renewing and self._spare is not None and self._spare.standing
        if renewed:
            self.reason, self._renewing = "a new version took over", False
            self._taking_over = time.monotonic() + RENEW_S
        elif self._taking_over:
            self._take_back(code)
        self.restarts += 1
        print(
            f"everup-guard: worker ended ({code}), starting it again", file=sys.stderr, flush=True
        )
        self._wait_if_it_keeps_dying()
        if self.stopping:
            raise SystemExit(self._leave())
        self._worker = self._successor(renewed) or self._child()
        self._go()

    def _successor(self, renewed: bool) -> Child | None:
        """Who stands by, rather one of the version that has served; the new one if it is time."""
        if self._fallback is not None and not renewed:
            child, self._fallback = self._fallback, None
            return child
        spare, self._spare = self._spare, None
        if spare is not None and not spare.standing and spare.process.poll() is not None:
            self._end(spare)
            return None
        return spare

    def _take_back(self, code: int) -> None:
        """The new version had the word and did not come to serve."""
        self._taking_over = 0.0
        self._trouble = f"; the new version did not come to serve ({code})"
        then = "the version before serves again"
        if self._fallback is None:
            then = "nobody of the version before is left, it is tried again"
        self.reason = f"the new version did not come to serve ({code}), {then}"
        print(f"everup-guard: {self.reason}", file=sys.stderr, flush=True)

    def _wait_if_it_keeps_dying(self) -> None:
        """Longer each time; the descriptors are kept, so that applications wait and no more.

        Who served before it died is replaced at once: waiting would not help anybody.
        """
        self._failures = 0 if self._served else self._failures + 1
        self._served = False
        if self._failures < FAILURES_MAX:
            return
        pause_s = min(BACK_OFF_S * 2 ** (self._failures - FAILURES_MAX), BACK_OFF_MAX_S)
        sentence = (
            f"no worker comes to serve, {self._failures} in a row did not; "
            f"{self.reason}; the next one in {pause_s:.1f} s"
        )
        print(f"everup-guard: {sentence}", file=sys.stderr, flush=True)
        notify(f"STATUS={sentence}")
        give_up = time.monotonic() + pause_s
        while not self.stopping and time.monotonic() < give_up:
            time.sleep(0.05)

    # the one that stands by

    def _look_at_spare(self, spare: Child) -> None:
        if spare.hear() is None:
            code = self._end(spare)
            self._spare, self._fallback = self._fallback, None
            self._stand_by_from = time.monotonic() + STAND_BY_AGAIN_S
            if self._renewing:
                self._renewing = False
                print(
                    f"everup-guard: the new version does not start ({code}), the old one stays",
                    file=sys.stderr,
                    flush=True,
                )
                notify("STATUS=the new version does not start, the old one stays")
            return
        spare.standing = True
        if self._renewing:
            self._worker.process.kill()

    # time and signals

    def _tick(self) -> None:
        reason = self._watch.look(time.monotonic())
        if reason:
            print(f"everup-guard: {reason}", file=sys.stderr, flush=True)
            self._worker.process.kill()
        if time.monotonic() > self._taking_over > 0 and self._fallback is not None:
            self._worker.process.kill()
        if self._spare is None and time.monotonic() > self._stand_by_from > 0:
            self._stand_by_from = 0.0
            self._spare = self._child()

    def _listen_to_signals(self) -> None:
        """They are noted, and obeyed between two messages."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, ours)
        signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
        self._wake = ours

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self._signals.add(number)
            if number != signal.SIGHUP:
                self.stopping = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, note)

    def _obey_signals(self) -> None:
        if not self._signals:
            return
        with suppress(BlockingIOError):
            self._wake.recv(MESSAGE_BYTES_MAX)
        if self.stopping:
            self._worker.process.terminate()
        elif signal.SIGHUP in self._signals:
            if self._taking_over:
                # Looked at again when it is clear whether the one before serves.
                return
            self._renew()
        self._signals.clear()

    def _renew(self) -> None:
        """SIGHUP: a worker of the code on the disk takes over while requests wait."""
        if self._renewing or self._spare is None or not self._spare.standing:
            self._dismiss(self._spare)
        else:
            self._fallback = self._spare
        self._renewing = True
        self._spare = self._child()

    def _leave(self) -> int:
        self._end(self._worker)
        self._dismiss(self._spare)
        self._drop_fallback()
        return 0


def main() -> int:
    """The main process of everup-guard."""
    # A working directory below a protected path would be a process of ours that touches it.
    os.chdir("/")
    return Holder().run()
