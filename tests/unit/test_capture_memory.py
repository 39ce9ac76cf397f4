"""What a killed worker leaves in shared memory: slots, batch ends; read by a second object over the
same files, as the next worker does."""

from pathlib import Path

import pytest

from everup.capture.batchends import BatchEnds
from everup.capture.descriptors import Descriptors, Hot, Marks
from everup.capture.nodes import pack_handle, unpack_handle
from everup.capture.slots import WAITS_PEERS, Slots
from everup.journal.writer import Closed
from everup.model.position import Position
from everup.system.kernelcalls import FileHandle


def test_handles_of_ext4_and_xfs_fit_into_a_node_number() -> None:
    for handle in (
        FileHandle(1, bytes.fromhex("0b00000007000000")),
        FileHandle(0x81, bytes.fromhex("ffffffff00000000ffffffff")),
    ):
        assert unpack_handle(pack_handle(handle), handle.kind) == handle


@pytest.mark.parametrize(
    "handle",
    [
        FileHandle(0x81, bytes.fromhex("ffffffff0100000001000000")),
        FileHandle(0x4D, bytes(20)),
        FileHandle(1, bytes(12)),
    ],
)
def test_handles_that_do_not_fit_are_refused(handle: FileHandle) -> None:
    with pytest.raises(ValueError):
        pack_handle(handle)


def request_in(slots: Slots, place: int, unique: int) -> None:
    slots.slots[place].request[0:16] = (40).to_bytes(8, "little") + unique.to_bytes(8, "little")


def test_slot_is_found_with_the_intent_of_its_own_request_only(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", 2)
    request_in(slots, 1, 42)
    slots.slots[1].intend(42, 7, b"a" * 16, b"b" * 16)
    slots.set_features(1 << 39)
    found = Slots(tmp_path / "slots", 2)
    assert [slot.used for slot in found.slots] == [False, True]
    intent = found.slots[1].intent(42)
    assert intent is not None and intent.loser == 7 and intent.second_id == b"b" * 16
    assert found.slots[1].intent(44) is None
    assert found.features == 1 << 39


def test_slot_remembers_how_its_request_ended(tmp_path: Path) -> None:
    slot = Slots(tmp_path / "slots", 1).slots[0]
    slot.fail(42, 28)
    slot.note_journaled(44, 4096)
    slot = Slots(tmp_path / "slots", 1).slots[0]
    assert (slot.failed(42), slot.failed(44)) == (28, 0)
    assert (slot.journaled(44), slot.journaled(42)) == (4096, None)
    slot.clear()
    assert not slot.used


def test_parked_requests_are_found_until_they_are_answered(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", 1)
    first = slots.park(10, 1, 100, 0, WAITS_PEERS)
    second = slots.park(12, 1, 101, 4096, WAITS_PEERS)
    slots.unpark(first)
    found = Slots(tmp_path / "slots", 1).parked()
    assert found == [second]


def test_too_many_parked_requests_are_refused(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", 1)
    for i in range(4096):
        slots.park(i + 1, 1, 0, 0, WAITS_PEERS)
    with pytest.raises(OSError, match="too many"):
        slots.park(9999, 1, 0, 0, WAITS_PEERS)


def test_batch_end_torn_by_a_kill_leaves_the_one_before(tmp_path: Path) -> None:
    ends = BatchEnds(tmp_path / "page", tmp_path)
    assert ends.load() is None
    closed = [
        Closed(Position(1, i, bytes([i]) * 16), tmp_path / f"{i:016x}.segment", i) for i in (5, 9)
    ]
    for end in closed:
        ends.save(end)
    assert BatchEnds(tmp_path / "page", tmp_path).load() == closed[1]
    page = bytearray((tmp_path / "page").read_bytes())
    page[10] ^= 1
    (tmp_path / "page").write_bytes(page)
    assert BatchEnds(tmp_path / "page", tmp_path).load() == closed[0]


def test_descriptor_is_closed_only_when_no_request_can_use_it(tmp_path: Path) -> None:
    import os

    marks = Marks()
    descriptors = Descriptors(marks, hot_max=8)
    thread = marks.join()
    marks.enter(thread)
    hots = []
    for i in range(10, 40):
        (tmp_path / str(i)).touch()
        hot = Hot(i, os.open(tmp_path / str(i), os.O_RDONLY))
        hots.append(descriptors.keep(hot))
    assert len(descriptors.by_node) <= 9
    for hot in hots:
        # A closed number would be another file by now.
        assert os.fstat(hot.descriptor).st_ino == (tmp_path / str(hot.node)).stat().st_ino
    marks.leave(thread)
    descriptors.keep(Hot(100, os.open(tmp_path, os.O_RDONLY)))
    closed = 0
    for hot in hots:
        try:
            os.fstat(hot.descriptor)
        except OSError:
            closed += 1
    assert closed > 15
    descriptors.close()


def test_touched_objects_keep_their_descriptor(tmp_path: Path) -> None:
    import os

    descriptors = Descriptors(Marks(), hot_max=8)
    touched = Hot(5, os.open(tmp_path, os.O_RDONLY))
    touched.touched = True
    descriptors.keep(touched)
    for i in range(10, 40):
        descriptors.keep(Hot(i, os.open(tmp_path, os.O_RDONLY)))
    descriptors.drop(5)
    assert descriptors.by_node[5] is touched
    descriptors.close()
