"""What one worker left and the next one finds: requests in slots, an open batch, touched objects.

The moment between two workers is made by hand: the memory says what no chance would bring about.
"""

import os
import stat
import threading
import time
from pathlib import Path

import pytest
from guarding import GuardProcess, mask_resend

from everup.capture import protocol
from everup.capture.batchends import BatchEnds
from everup.capture.nodes import pack_handle
from everup.capture.session import THREADS
from everup.capture.slots import Slot, Slots
from everup.capture.touched import Touched
from everup.journal.openbatch import OpenBatch
from everup.journal.operation import MASK_MODE, Attributes, encode_attributes
from everup.journal.record import Operation, encode_head
from everup.model.ids import NO_OBJECT, OBJECT_ID_BYTES, OBJECT_ID_XATTR
from everup.system.kernelcalls import HandleCalls
from everup.system.objectid import write_id

pytestmark = pytest.mark.fuse
UNIQUE = 1 << 40
WAITERS = 8


def put(slot: Slot, opcode: int, unique: int, node: int, body: bytes) -> None:
    """A request as the kernel hands it out."""
    length = protocol.IN_HEADER_BYTES + len(body)
    head = protocol.IN_HEADER.pack(length, opcode, unique, node, 0, 0, 0, 0)
    slot.request[:length] = head + body


def record_in_the_open_batch(guard: GuardProcess, memory: Path, name: str, unique: int) -> None:
    """A change of a file's mode, which changes nothing."""
    ends = BatchEnds(memory / "batch-end", guard.places.journal).load()
    assert ends is not None
    start, path = ends.position, guard.lower() / name
    arguments = encode_attributes(
        Attributes(MASK_MODE, path.stat().st_mode, 0, 0, 0, name.encode())
    )
    batch = OpenBatch(memory / "open-batch")
    batch.begin(start)
    head = encode_head(
        Operation.ATTRIBUTES, 1, start.epoch, start.sequence + 1, id_of(path), arguments,
        unique=unique,
    )  # fmt: skip
    batch.append(head, b"")


def id_of(path: Path) -> bytes:
    return os.getxattr(path, OBJECT_ID_XATTR)[:OBJECT_ID_BYTES]


def creation(name: bytes) -> bytes:
    return protocol.MKNOD_IN.pack(stat.S_IFREG | 0o600, 0, 0) + name + b"\0"


def test_the_trees_have_numbers_of_their_own(guard: GuardProcess) -> None:
    """A begun creation in one tree is not over because a request of another tree, with the same
    number, is recorded in the open batch."""
    (guard.tree / "f").write_bytes(b"1")
    guard.batch_closed()
    with guard.between_workers() as memory:
        record_in_the_open_batch(guard, memory, "f", UNIQUE)
        slot = Slots(memory / "2" / "slots", THREADS).slots[0]
        put(slot, protocol.MKNOD, UNIQUE, protocol.ROOT_NODE, creation(b"begun"))
        slot.intend(UNIQUE, 0, os.urandom(OBJECT_ID_BYTES), NO_OBJECT)
    assert (guard.lower(2) / "begun").exists()
    guard.compare(1)
    guard.compare(2)


@pytest.mark.parametrize("written", ["over", "begun"])
def test_a_batch_that_ends_meanwhile_names_nothing_unborn(
    closed: GuardProcess, written: str
) -> None:
    """A file is made and touched, its creation is not recorded; a synchronous write in another slot
    ends the batch. The time of the file must not stand in it."""
    closed.open(mode="durable", needs=("secondary",))
    (closed.tree / "f").write_bytes(b"1")
    closed.batch_closed()
    with closed.between_workers() as memory:
        record_in_the_open_batch(closed, memory, "f", 0)
        calls = HandleCalls()
        made = os.open(closed.lower() / "begun", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        object_id, handle = os.urandom(OBJECT_ID_BYTES), calls.of(made)
        write_id(made, handle, object_id)
        os.close(made)
        Touched(memory / "touched").add(1, pack_handle(handle))
        slots = Slots(memory / "1" / "slots", THREADS).slots
        held = os.open(closed.lower() / "f", os.O_RDONLY)
        node = pack_handle(calls.of(held))
        os.close(held)
        flags = os.O_DIRECT | os.O_DSYNC
        body = protocol.WRITE_IN.pack(0, 0, 3, 0, 0, flags) + b"new"
        put(slots[0], protocol.WRITE, UNIQUE, node, body)
        if written == "over":
            slots[0].note_journaled(UNIQUE, 3)
        else:
            slots[0].intend(UNIQUE, 0, id_of(closed.lower() / "f"), NO_OBJECT)
        put(slots[1], protocol.MKNOD, UNIQUE + 2, protocol.ROOT_NODE, creation(b"begun"))
        slots[1].intend(UNIQUE + 2, 0, object_id, NO_OBJECT)
    closed.call("policy", mode="async", must_acknowledge=[])
    assert (closed.lower() / "f").read_bytes() == (b"1" if written == "over" else b"new")
    closed.compare()


@pytest.mark.parametrize("resend", [True, False], ids=["resend", "older-kernel"])
def test_requests_that_wait_for_the_lease_wait_on(guard: GuardProcess, resend: bool) -> None:
    """Whoever dies meanwhile: they are done when the lease is there again, and not before."""
    if not resend:
        mask_resend(guard)
        guard.kill_worker()
        guard.wait_served()
    # The kernel lets one at a time into each directory.
    for number in range(WAITERS):
        (guard.tree / f"{number}").mkdir()
    guard.lend(0)
    errors: list[OSError] = []

    def make(number: int) -> None:
        try:
            (guard.tree / f"{number}/made").mkdir()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(WAITERS)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        wait_all_busy(guard)
        guard.kill_worker()
        guard.wait_served()
    assert all(thread.is_alive() for thread in threads) and errors == []
    assert list(guard.lower().glob("*/made")) == []
    guard.lend()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert errors == []
    assert guard.call("status")["late_answers"] == 0
    guard.forgotten()
    guard.compare()


def wait_all_busy(guard: GuardProcess) -> None:
    """Until every thread of the worker holds a request."""
    for _ in range(500):
        if guard.wait_served()["trees"][0]["open_requests"] == THREADS:
            return
        time.sleep(0.01)
    raise AssertionError("the requests are not there")
