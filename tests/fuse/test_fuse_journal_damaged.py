"""A damaged journal never stops the guard: it is put aside, said, and the server goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from guarding import GuardProcess

from everup.errors import Corrupt
from everup.journal.reader import Cursor
from everup.journal.segment import list_segments
from everup.model.position import ORIGIN, Position
from everup.system.files import load_json

pytestmark = pytest.mark.fuse


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def stop(guard: GuardProcess) -> None:
    assert guard.process is not None
    guard.process.terminate()
    guard.process.wait(30)


def test_a_flipped_bit_is_put_aside_at_the_start(guard: GuardProcess) -> None:
    for number in range(20):
        (guard.tree / f"file{number}").write_bytes(b"x" * 100)
    guard.call("close", grace_ms=100)
    before = Position.from_json(guard.call("status")["position"])
    stop(guard)
    segment = list_segments(guard.places.journal)[-1].path
    flip(segment, 300)
    damaged = segment.read_bytes()
    guard.start()
    status = guard.call("status")
    aside = status["journal"]["aside"]
    assert segment.name in aside["sentence"] and "offset" in aside["sentence"]
    assert (Path(aside["path"]) / segment.name).read_bytes() == damaged, "whole, as it was"
    assert str(Path(aside["path"])) in guard.log.read_text()
    assert Position.from_json(status["position"]) == ORIGIN, "it claims nothing that it lacks"
    guard.open(epoch=2)
    after = guard.call("status")
    assert after["journal"]["aside"] is None
    assert after["position"]["sequence"] > before.sequence, "no sequence is used twice"
    with pytest.raises(Corrupt):
        Cursor(guard.places.journal, before)
    (guard.tree / "later").write_bytes(b"goes on")
    assert (guard.tree / "file3").read_bytes() == b"x" * 100
    assert guard.call("close", grace_ms=100)["clean"] is True


def test_a_missing_end_after_a_clean_stop_is_no_torn_tail(guard: GuardProcess) -> None:
    """Whoever stands at the cut would be streamed past what only the trees hold."""
    (guard.tree / "one").write_bytes(b"1")
    time.sleep(0.1)
    early = Position.from_json(guard.call("status")["position"])
    (guard.tree / "two").write_bytes(b"2")
    guard.call("close", grace_ms=100)
    stop(guard)
    tree = load_json(guard.places.tree)
    assert tree is not None and tree["state"] == "at"
    segment = list_segments(guard.places.journal)[-1].path
    cursor = Cursor(guard.places.journal, early)
    end = cursor.place[1]
    cursor.close()
    os.truncate(segment, end)
    guard.start()
    aside = guard.call("status")["journal"]["aside"]
    assert aside is not None and "stopped at" in aside["sentence"]


def test_a_torn_tail_after_a_power_cut_is_cut(guard: GuardProcess) -> None:
    (guard.tree / "one").write_bytes(b"1")
    time.sleep(0.1)
    guard.call("close", grace_ms=100)
    stop(guard)
    guard.places.tree.write_text(json.dumps({"state": "open", "epoch": 1, "server": "primary"}))
    segment = list_segments(guard.places.journal)[-1].path
    os.truncate(segment, segment.stat().st_size - 30)
    guard.start()
    status = guard.call("status")
    assert status["journal"]["aside"] is None
    assert status["position"]["sequence"] > 0
    assert "was cut by" in guard.log.read_text()


def test_a_journal_that_is_damaged_under_open_applications(guard: GuardProcess) -> None:
    """The next worker cannot read it: applications go on, and a new chain begins behind a gap."""
    (guard.tree / "one").write_bytes(b"1")
    time.sleep(0.1)
    before = guard.call("status")["sequence"]
    worker = guard.worker()
    os.kill(worker, signal.SIGSTOP)
    for info in list_segments(guard.places.journal):
        flip(info.path, 20)
        info.path.unlink()
    os.kill(worker, signal.SIGKILL)
    (guard.tree / "two").write_bytes(b"2")
    deadline = time.monotonic() + 10
    while (status := guard.wait_served())["journal"]["state"] != "ok":
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    assert status["gate"] == "open" and status["epoch"] == 1
    assert status["position"]["sequence"] > before
    assert "the journal could not be read" in guard.log.read_text()
    (guard.tree / "three").write_bytes(b"3")
    assert guard.call("close", grace_ms=100)["clean"] is True
    assert (guard.lower() / "two").read_bytes() == b"2"
