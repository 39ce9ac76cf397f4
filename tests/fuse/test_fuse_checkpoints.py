"""The mark of the activity log is true: what lies before it survives a power cut of the disk, and
what lies behind it is named by the journal."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarding import GuardProcess
from test_fuse_disk import OnDisk

from everup.journal.activity import Activity, Mark, load_mark
from everup.replicate.scope import Scope, add_record

pytestmark = pytest.mark.fuse
MARKED_S = 10.0


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[OnDisk]:
    """An open guard over a directory that is a small disk of its own."""
    made = OnDisk(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def mark_after(process: GuardProcess, sequence: int) -> Mark:
    """The first mark that covers a record."""
    give_up = time.monotonic() + MARKED_S
    while time.monotonic() < give_up:
        mark = load_mark(process.places.state)
        if mark is not None and mark.position.sequence >= sequence:
            return mark
        time.sleep(0.05)
    raise AssertionError(f"no mark within {MARKED_S} s: {process.log.read_text()}")


def test_what_was_written_before_the_mark_survives(on_disk: OnDisk) -> None:
    process = on_disk.guard
    before = os.urandom(1 << 20)
    (process.tree / "before").write_bytes(before)
    mark = mark_after(process, process.call("status")["sequence"])
    assert mark.position.epoch == 1
    (process.tree / "behind").write_bytes(b"not on the disk yet")
    with (process.tree / "before").open("r+b") as file:
        file.seek(300_000)
        file.write(b"changed")
    below = on_disk.cut_power()
    assert (below / "before").read_bytes() == before
    assert not (below / "behind").exists()
    scope = Scope()
    for record in Activity(process.places.journal, mark.position).records():
        add_record(scope, record)
    blocks = {tuple(scope.blocks(tree, object_id, 8)) for tree, object_id in scope.objects()}
    assert blocks == {(2,), (0, 1, 2, 3, 4, 5, 6, 7)}
