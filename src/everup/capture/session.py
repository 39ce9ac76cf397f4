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
import time
import traceback
from collections.abc import Callable

from everup.capture import protocol
from everup.capture.descriptors import Marks
from everup.capture.lower import LowerTree
from everup.capture.order import Order
from everup.capture.slots import WAITS_DISK, WAITS_PEERS, Intent, Parked, Slot, Slots
from everup.capture.waiting import killed
from everup.limits import PAYLOAD_BYTES_MAX
from everup.system.kernelcalls import DIRECTORY_BUFFER_BYTES, HandleCalls, sync_filesystem

THREADS = 4
SYNC_THREADS = 4
KILLED_POLL_S = 0.1
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
        self._syncing = 0
        self._threads: list[threading.Thread] = []
        self._parked: dict[int, Parked] = {}
        self._waiters: dict[int, int] = {}
        self._signalled: set[int] = set()
        self._watching = False
        self._resent: dict[int, int] = {}
        self._parked_lock = threading.Lock()
        self._sync_places = threading.Semaphore(SYNC_THREADS)
        self._room_places = threading.Semaphore(THREADS - 2)
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
        while True:
            try:
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
            if self._resent and self._was_parked(request):
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

    def _was_parked(self, request: Request) -> bool:
        """A write that the worker before us had done and that still waits for its sync."""
        written = self._resent.pop(request.unique & ~protocol.UNIQUE_RESEND, None)
        if written is None:
            return False
        success = protocol.WRITE_OUT.pack(written)
        answer = self.sync_then_answer(request, written, True, success)
        if answer is not None:
            self.answer(request.unique, answer)
        return True

    def take_over(self) -> None:
        """Requests that waited without a slot when the worker before us was killed.

        With re-send the kernel brings them again, under another `unique`; syncs are then simply
        done anew, and writes must only be synced. Without it they go on waiting here.
        """
        resend = bool(self.slots.features & protocol.HAS_RESEND)
        for parked in self.slots.parked():
            if resend:
                if parked.written:
                    self._resent[parked.unique & ~protocol.UNIQUE_RESEND] = parked.written
                with self._parked_lock:
                    # Also one that was parked a moment ago, while its slot was settled.
                    self._unlist(parked)
                self.slots.unpark(parked)
            elif parked.place not in self._parked:
                with self._parked_lock:
                    self._parked[parked.place] = parked
                threading.Thread(target=self._sync_apart, args=(parked, True), daemon=True).start()
        if resend:
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

    # requests that wait for the disk or for other servers

    def sync_then_answer(
        self, request: Request, written: int, data_only: bool, success: bytes
    ) -> bytes | None:
        """The fsync contract: lower file, and in durable mode every member of the list."""
        order = self.order
        durable = order.policy.durable
        sequence = order.sequence_to_wait_for() if durable else 0
        if self._syncing < len(self.requests) - 2:
            self._syncing += 1
            try:
                self._sync_now(request.node, data_only)
            finally:
                self._syncing -= 1
            if not durable:
                order.confirm()
                return success
            self._after_disk(self._park(request, sequence, written, WAITS_PEERS))
            return None
        # Most threads are inside a sync already: this one goes to a thread of its own, so that
        # reads and writes go on.
        parked = self._park(request, sequence, written, WAITS_DISK)
        threading.Thread(target=self._sync_apart, args=(parked, data_only), daemon=True).start()
        return None

    def _park(self, request: Request, sequence: int, written: int, state: int) -> Parked:
        parked = self.slots.park(request.unique, request.node, sequence, written, state)
        with self._parked_lock:
            self._parked[parked.place] = parked
            self._waiters[parked.place] = request.thread
        return parked

    def _sync_now(self, node: int, data_only: bool) -> None:
        hot = self.tree.hot(node)
        if hot.path_only:
            return
        unsynced = self.order.unsynced
        object_id = None if hot.directory else self.tree.known_identity(hot)
        change = unsynced.change_of(object_id)
        if change is None and not hot.directory:
            unsynced.make_whole(self.tree.tree_id, self._sync_tree)
            return
        self.order.record_first(hot)
        if data_only:
            os.fdatasync(hot.descriptor)
        else:
            os.fsync(hot.descriptor)
            unsynced.synced(object_id, change)

    def _sync_tree(self) -> None:
        self.order.record_first()
        sync_filesystem(self.tree.root)

    def _sync_apart(self, parked: Parked, data_only: bool) -> None:
        with self._sync_places:
            place = self.marks.join()
            self.marks.enter(place)
            try:
                self._sync_now(parked.node, data_only)
            except OSError as error:
                self._finish(parked, error.errno or errno.EIO)
                return
            finally:
                self.marks.leave(place)
                self.marks.part(place)
        with self._parked_lock:
            if not self._listed(parked):
                return
            parked = self.slots.change(parked, state=WAITS_PEERS)
            self._parked[parked.place] = parked
        self._after_disk(parked)

    def _listed(self, parked: Parked) -> bool:
        """Whether the place still holds this very request; the lock is held."""
        known = self._parked.get(parked.place)
        return known is not None and known.unique == parked.unique

    def _unlist(self, parked: Parked) -> bool:
        """Take it off the list; False when somebody else did. The lock is held."""
        if not self._listed(parked):
            return False
        del self._parked[parked.place]
        self._waiters.pop(parked.place, None)
        self._signalled.discard(parked.place)
        return True

    def _after_disk(self, parked: Parked) -> None:
        if parked.sequence <= self.order.acknowledged_up_to or not self.order.policy.durable:
            self._finish(parked, 0)

    def _finish(self, parked: Parked, number: int) -> None:
        with self._parked_lock:
            if not self._unlist(parked):
                return
        if not number:
            try:
                self.order.confirm()
            except OSError:
                number = errno.EIO
        if number:
            self.answer_error(parked.unique, number)
        elif parked.written:
            self.answer(parked.unique, protocol.WRITE_OUT.pack(parked.written))
        else:
            self.answer(parked.unique, b"")
        self.slots.unpark(parked)

    def acknowledged(self, up_to: int) -> None:
        """Every server that must have them has the records up to `up_to`."""
        for parked in list(self._parked.values()):
            if parked.state == WAITS_PEERS and parked.sequence <= up_to:
                self._finish(parked, 0)

    def interrupt(self, unique: int) -> None:
        """A signal reached a process that waits; it is let go if it was, or will be, killed."""
        plain = unique & ~protocol.UNIQUE_RESEND
        with self._parked_lock:
            for parked in self._parked.values():
                if parked.unique & ~protocol.UNIQUE_RESEND == plain:
                    self._signalled.add(parked.place)
            if not self._signalled or self._watching:
                return
            self._watching = True
        threading.Thread(target=self._watch_signalled, daemon=True).start()

    def _watch_signalled(self) -> None:
        while True:
            with self._parked_lock:
                waiting = [(self._parked[i], self._waiters.get(i, 0)) for i in self._signalled]
                if not waiting:
                    self._watching = False
                    return
            for parked, thread in waiting:
                if killed(thread):
                    self._finish(parked, errno.EINTR)
            time.sleep(KILLED_POLL_S)

    def fail_waiting(self, number: int) -> None:
        for parked in list(self._parked.values()):
            self._finish(parked, number)

    @property
    def waiting(self) -> int:
        return len(self._parked)

    def in_work(self) -> list[tuple[int, int]]:
        """(kernel's id of the thread, unique) of every request that a thread is at."""
        pairs = zip(self._threads, self.requests, strict=False)
        return [(t.native_id or 0, r.unique) for t, r in pairs if r.slot.used]

    @property
    def open_requests(self) -> int:
        return sum(1 for request in self.requests if request.slot.used) + len(self._parked)
