"""One mounted tree: threads that read requests from /dev/fuse and answer them.

What enters: requests of the kernel. What leaves: answers. Called by the worker, which opens the
connection; the handlers are in `handlers`. A connection is one descriptor for all threads: the
holder needs to keep just that one, and descriptor clones were not faster here (the interpreter is
the limit, not the kernel's lock).
"""

import ctypes
import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable

from everup.capture import protocol
from everup.capture.descriptors import Marks
from everup.capture.lower import LowerTree
from everup.capture.order import Order
from everup.capture.slots import Intent, Slot, Slots
from everup.capture.syncing import Syncs
from everup.limits import PAYLOAD_BYTES_MAX
from everup.system.kernelcalls import DIRECTORY_BUFFER_BYTES, HandleCalls

THREADS = 4
ROOM_TRIES = 2
_IN = protocol.IN_HEADER
_OUT = protocol.OUT_HEADER
_OUT_BYTES = protocol.OUT_HEADER_BYTES
_GONE = (errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADF)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DIRECT_AND_SYNC = os.O_DIRECT | os.O_DSYNC
_AGAIN = (errno.EINTR, errno.EAGAIN, errno.ENOENT)

Handler = Callable[["Request"], "bytes | None"]


class Request:
    """What a thread works on: buffers made once, header fields set for every request."""

    __slots__ = (
        "body", "buffer", "calls", "directory_buffer", "gid", "intent", "learned", "length", "node",
        "opcode", "order", "place", "session", "slot", "thread", "tree", "uid", "unique",
    )  # fmt: skip

    def __init__(self, session: "Session", slot: Slot) -> None:
        self.session = session
        self.tree = session.tree
        self.order = session.order
        self.slot = slot
        self.body = slot.request
        self.place = session.marks.join()
        self.calls = HandleCalls()
        self.buffer = memoryview(bytearray(PAYLOAD_BYTES_MAX + 4096))
        self.directory_buffer = ctypes.create_string_buffer(DIRECTORY_BUFFER_BYTES)
        # Set only while a killed worker's request is being finished.
        self.intent: Intent | None = None
        # (node, parent, name) of what the answer tells the kernel of.
        self.learned: list[tuple[int, int, bytes]] = []
        self.length = self.opcode = self.unique = self.node = self.uid = self.gid = 0
        self.thread = 0

    def parse(self) -> None:
        (
            self.length, self.opcode, self.unique, self.node, self.uid, self.gid, self.thread, _,
        ) = _IN.unpack_from(self.body)  # fmt: skip

    def names(self, offset: int, count: int = 1) -> list[bytes]:
        """Strings of the request, each ended by a zero byte, behind the fixed part."""
        return bytes(self.body[offset : self.length]).split(b"\0", count)[:count]

    def wants_sync(self) -> bool:
        """Whether a WRITE is one that no FSYNC of the kernel follows (libaio with O_DSYNC)."""
        flags: int = protocol.WRITE_IN.unpack_from(self.body, protocol.IN_HEADER_BYTES)[5]
        return flags & _DIRECT_AND_SYNC == _DIRECT_AND_SYNC


class Session:
    """A FUSE connection with its threads, slots and waiting requests."""

    def __init__(
        self,
        device: int,
        tree: LowerTree,
        order: Order,
        slots: Slots,
        marks: Marks,
        handlers: list[Handler | None],
    ) -> None:
        self.device = device
        self.tree = tree
        self.order = order
        self.slots = slots
        self.marks = marks
        self.handlers = handlers
        self.ended = threading.Event()
        self.on_ended: Callable[[], None] = lambda: None
        self._threads: list[threading.Thread] = []
        self._room_places = threading.Semaphore(THREADS - 2)
        self.syncs = Syncs(tree, order, slots, marks, self)
        self.sync_then_answer = self.syncs.sync_then_answer
        self._resent = self.syncs.resent
        self.requests = [Request(self, slot) for slot in slots.slots]

    def start(self) -> None:
        for request in self.requests:
            thread = threading.Thread(target=self._serve, args=(request,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads, after the connection has ended."""
        for thread in self._threads:
            thread.join(timeout_s)

    # the loop

    def _serve(self, request: Request) -> None:
        buffers = [request.body]
        device, marks, place = self.device, self.marks, request.place
        # A killed worker read it and did nothing; the kernel does not send it again.
        found = request.slot.used
        while True:
            try:
                if found:
                    found = False
                else:
                    os.readv(device, buffers)
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                if error.errno not in _GONE:
                    print(f"everup-guard: /dev/fuse: {error}", file=sys.stderr, flush=True)
                if not self.ended.is_set():
                    self.ended.set()
                    self.on_ended()
                return
            marks.enter(place)
            request.parse()
            self.handle(request)
            request.slot.clear()
            marks.leave(place)

    def handle(self, request: Request, tries: int = ROOM_TRIES) -> None:
        """Do and answer one request; its slot stays filled until the caller clears it."""
        try:
            if self._resent and self.syncs.was_parked(request):
                return
            handler = self.handlers[request.opcode]
            if handler is None:
                self.answer_error(request.unique, errno.ENOSYS)
                return
            answer = handler(request)
            if answer is not None:
                if request.learned:
                    self.count(request)
                self.answer(request.unique, answer)
        except OSError as error:
            if error.errno in _FULL and tries and self._room(request):
                self.handle(request, tries - 1)
            else:
                self._fail(request, error.errno or errno.EIO)
        except Exception:
            # A mistake of ours is one failed request, never a dead mount.
            traceback.print_exc()
            self._fail(request, errno.EIO)

    def _room(self, request: Request) -> bool:
        """Whether a removed file may just have made room. Some threads must go on to hear of it."""
        if not self._room_places.acquire(blocking=False):
            return False
        try:
            # The handler has ended: this thread uses no descriptor.
            self.marks.enter(request.place)
            return self.tree.wait_for_room()
        finally:
            self._room_places.release()

    @property
    def resend(self) -> bool:
        """Whether the kernel, when asked, sends again what is not answered (6.9 and later)."""
        return bool(self.slots.features & protocol.HAS_RESEND)

    def take_over(self) -> None:
        """What waited without a slot when the worker before us was killed goes on waiting."""
        self.syncs.take_over(self.resend)
        if self.resend:
            self._write(_OUT.pack(_OUT_BYTES, protocol.NOTIFY_RESEND, 0))

    def count(self, request: Request) -> None:
        """Just before an answer of which the kernel counts one lookup of each node in it."""
        self.tree.nodes.learn(request.slot.number, request.unique, request.learned)
        request.learned.clear()

    def _fail(self, request: Request, number: int) -> None:
        request.learned.clear()
        request.slot.fail(request.unique, number)
        self.answer_error(request.unique, number)

    # answers

    def answer(self, unique: int, body: bytes) -> None:
        self._write(_OUT.pack(_OUT_BYTES + len(body), 0, unique) + body)

    def answer_error(self, unique: int, number: int) -> None:
        self._write(_OUT.pack(_OUT_BYTES, -number, unique))

    def answer_view(self, unique: int, body: memoryview) -> None:
        """Large answers are not copied together."""
        try:
            os.writev(self.device, (_OUT.pack(_OUT_BYTES + len(body), 0, unique), body))
        except OSError as error:
            self._answer_failed(error)

    def _write(self, data: bytes) -> None:
        try:
            os.write(self.device, data)
        except OSError as error:
            self._answer_failed(error)

    @staticmethod
    def _answer_failed(error: OSError) -> None:
        # ENOENT: the request was interrupted or answered by a worker before us.
        if error.errno not in (errno.ENOENT, *_GONE):
            print(f"everup-guard: answer refused: {error}", file=sys.stderr, flush=True)

    # what is going on

    def in_work(self) -> list[tuple[int, int]]:
        """(kernel's id of the thread, unique) of every request that a thread is at."""
        pairs = zip(self._threads, self.requests, strict=False)
        return [(t.native_id or 0, r.unique) for t, r in pairs if r.slot.used]

    @property
    def open_requests(self) -> int:
        return sum(1 for request in self.requests if request.slot.used) + self.syncs.waiting
