"""The journal keeps to its quota also when what is dropped cannot be looked through."""

from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from everup.config.schema import GroupSettings
from everup.journal.operation import Epoch, encode_write
from everup.journal.record import Operation
from everup.journal.segment import list_segments
from everup.journal.writer import CAUSE_AGE, JournalWriter
from everup.model.position import ORIGIN
from everup.places import Places
from everup.replicate.context import Context, EventBus
from everup.replicate.dropped import NAME
from everup.replicate.source import Source


class Told(EventBus):
    """Events in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: Queue[str] = Queue()

    def emit(self, kind: str, sentence: str, **fields: Any) -> None:
        assert sentence
        self.kinds.put(kind)


@pytest.mark.parametrize("trouble", ["not-writable", "damaged"])
def test_what_cannot_be_noted_is_dropped_all_the_same(tmp_path: Path, trouble: str) -> None:
    places = Places.below(tmp_path)
    places.make()
    writer = JournalWriter(places.journal, segment_bytes=1 << 16)
    writer.recover()
    writer.begin_epoch(Epoch(1, ORIGIN, "a", "boot", "founding"))
    while len(list_segments(places.journal)) < 3:
        writer.append(Operation.WRITE, 1, bytes(16), encode_write(0, b"f"), b"x" * 9000)
        writer.close_batch(CAUSE_AGE)
    segments = list_segments(places.journal)
    first = segments[0].path
    if trouble == "not-writable":
        (places.state / NAME).mkdir()
    else:
        first.write_bytes(first.read_bytes()[:200] + bytes(400) + first.read_bytes()[600:])
    events = Told()
    group = GroupSettings(version=1, group="g", group_id="id")
    source = Source(Context(places, "a", group, events), 1, 7570)
    source._drop(segments, segments[1].start.sequence, 1 << 16)
    assert events.kinds.get_nowait() == "queue-unknown"
