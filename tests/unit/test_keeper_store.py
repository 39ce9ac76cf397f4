"""vote.json, incarnations, and a disk that fails or stalls."""

import errno
import json
import threading
from pathlib import Path

import pytest

from everup.errors import Corrupt
from everup.keeper.record import Known, Record
from everup.keeper.store import Saver, VoteFile
from everup.keeper.voter import VoteState
from everup.places import Places
from everup.system.files import Door

STATE = VoteState(
    9, "a", 1_000_000_000, Known(Record(2, 9, ("a", "b"), ("a",), "async")), admission=77
)
BOOT, OTHER_BOOT = b"1" * 16, b"2" * 16


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places.below(tmp_path)
    made.make()
    return made


def test_what_is_saved_is_read(places: Places) -> None:
    vote = VoteFile(places, "a", BOOT)
    assert vote.begin().state == VoteState()
    vote.save(STATE)
    assert VoteFile(places, "a", BOOT).begin().state == STATE
    assert places.vote.stat().st_mode & 0o777 == 0o600


def test_incarnations_grow_with_every_start(places: Places) -> None:
    lives = [VoteFile(places, "a", BOOT).begin().incarnation for _ in range(3)]
    lives += [VoteFile(places, "a", OTHER_BOOT).begin().incarnation for _ in range(2)]
    (places.run / "keeper.starts").unlink()
    lives.append(VoteFile(places, "a", OTHER_BOOT).begin().incarnation)
    assert lives == sorted(set(lives))


def test_a_restart_within_a_boot_writes_nothing_durable(places: Places) -> None:
    VoteFile(places, "a", BOOT).begin()
    before = places.vote.stat().st_mtime_ns
    VoteFile(places, "a", BOOT).begin()
    assert places.vote.stat().st_mtime_ns == before


def test_a_server_set_up_anew_does_not_go_backwards(places: Places) -> None:
    old = [VoteFile(places, "a", bytes([n] * 16)).begin().incarnation for n in range(2)][-1]
    value = json.loads(places.vote.read_text())
    # an installation of an hour ago
    value["boots"] -= 3600
    places.vote.write_text(json.dumps(value))
    old = VoteFile(places, "a", b"9" * 16).begin().incarnation
    places.vote.unlink()
    (places.run / "keeper.starts").unlink()
    assert VoteFile(places, "a", b"8" * 16).begin().incarnation > old


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": 2}', '{"format": 1, "server": "b", "boots": 1, "state": {}}'],
)
def test_a_vote_is_never_guessed(places: Places, content: str) -> None:
    places.vote.write_text(content)
    with pytest.raises(Corrupt):
        VoteFile(places, "a", BOOT).begin()


def test_a_state_with_a_missing_field_is_refused(places: Places) -> None:
    VoteFile(places, "a", BOOT).begin()
    value = json.loads(places.vote.read_text())
    del value["state"]["promised"]
    places.vote.write_text(json.dumps(value))
    with pytest.raises(Corrupt):
        VoteFile(places, "a", BOOT).begin()


class FullDisk(Door):
    """Refuses the first writes, as a full disk does until somebody makes room."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals

    def write(self, operation: str, descriptor: int, data: bytes | memoryview) -> int:
        if operation == "save-vote" and self.left:
            self.left -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(operation, descriptor, data)


def test_a_full_disk_is_tried_again_and_nothing_is_reported_before(places: Places) -> None:
    VoteFile(places, "a", BOOT).begin()
    vote = VoteFile(places, "a", BOOT, FullDisk(1))
    vote.begin()
    order: list[str] = []
    done = threading.Event()

    def saved(number: int) -> None:
        order.append(f"saved {number}")
        done.set()

    saver = Saver(vote.save, saved, lambda error: order.append(f"failed {error.errno}"))
    saver.put(1, STATE)
    assert done.wait(5)
    saver.stop()
    assert order == [f"failed {errno.ENOSPC}", "saved 1"]
    assert VoteFile(places, "a", BOOT).begin().state == STATE


def test_waiting_states_are_skipped_for_the_newest() -> None:
    entered, go_on, all_saved = threading.Event(), threading.Event(), threading.Event()
    written: list[int] = []

    def save(state: VoteState) -> None:
        entered.set()
        go_on.wait(5)
        written.append(state.promised)

    def saved(number: int) -> None:
        if number == 4:
            all_saved.set()

    saver = Saver(save, saved, lambda error: None)
    saver.put(1, VoteState(1))
    assert entered.wait(5)
    for number in (2, 3, 4):
        saver.put(number, VoteState(number))
    go_on.set()
    assert all_saved.wait(5)
    saver.stop()
    assert written == [1, 4]
