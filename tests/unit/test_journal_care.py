"""The journal goes on behind a gap: what its open batch held belongs to the gap."""

from pathlib import Path

from everup.capture.journalcare import JournalCare
from everup.capture.order import Order
from everup.journal import operation as op
from everup.journal.dirty import DirtyMap, load_map
from everup.journal.reader import Cursor, split_batch
from everup.journal.record import Operation
from everup.journal.segment import HEADER_BYTES, list_segments
from everup.journal.writer import JournalWriter
from everup.model.position import ORIGIN
from everup.places import Places
from everup.system.clock import boot_id
from everup.system.leasepage import LeasePageReader, LeasePageWriter

OBJECT = bytes(range(16))


def test_what_the_open_batch_held_belongs_to_the_gap(tmp_path: Path) -> None:
    """Its record stands in the old segment, but at no position that anybody could have."""
    places = Places.below(tmp_path)
    places.make()
    LeasePageWriter(places.lease_page, boot_id())
    journal = JournalWriter(places.journal)
    dirty = DirtyMap(tmp_path / "dirty-now")
    order = Order(journal, LeasePageReader(places.lease_page, boot_id()), dirty=dirty)
    care = JournalCare(places, journal, order, dirty)
    assert care.open(None, None) == ()
    order.begin(journal.begin_epoch(op.Epoch(1, ORIGIN, "primary", "boot", "test")))
    since = journal.position
    write = op.encode_write(300_000, b"hint")
    journal.append(Operation.WRITE, 1, OBJECT, write, b"never in a batch")
    order.fail_journal("error", "the disk fails")
    care._begin_again()
    assert order.journal_state == "ok"
    closed = order.closed
    assert closed is not None and closed.position == journal.position
    cursor = Cursor(places.journal, since, over_gaps=True)
    assert cursor.position == since
    cursor.close()
    newest = list_segments(places.journal)[-1]
    first, _ = split_batch(newest.path.read_bytes()[HEADER_BYTES:], newest.start)
    gap = op.Gap.from_payload(first[0].payload)
    assert gap.since == since and gap.sentence == "the disk fails"
    assert load_map(places.state, gap.gap_id) == [(1, OBJECT, 262_144, 393_216)]
