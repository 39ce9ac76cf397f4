"""What a peer lacks: counted from where it could go on, not from what it has only in part."""

from pathlib import Path

from everup.config.schema import GroupSettings
from everup.journal.operation import Epoch, encode_write
from everup.journal.record import Operation
from everup.journal.writer import CAUSE_AGE, JournalWriter
from everup.model.position import ORIGIN
from everup.places import Places
from everup.replicate.catchup import RESYNC, STREAM, CatchUp
from everup.replicate.context import Context
from everup.replicate.greeting import Agreement
from everup.replicate.guardlink import GuardLink
from everup.replicate.lag import Mark, PeerLag
from everup.replicate.logs import LogCursor
from everup.replicate.peerview import PeerView
from everup.wire.messages import Start, WirePosition


def marks(places: Places) -> list[Mark]:
    """Four ends of batches; the last is the end of the journal."""
    places.make()
    writer = JournalWriter(places.journal)
    writer.recover()
    writer.begin_epoch(Epoch(1, ORIGIN, "a", "boot", "founding"))
    for _ in range(3):
        writer.append(Operation.WRITE, 1, bytes(16), encode_write(0, b"f"), b"x" * 50)
        writer.close_batch(CAUSE_AGE)
    cursor = LogCursor(places, ORIGIN)
    found = []
    while cursor.next() is not None:
        found.append(Mark(cursor.position, cursor.place))
    cursor.close()
    return found


def test_while_it_is_copied_a_peer_has_what_it_had_before(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    _, had, begin, end = marks(places)
    lag = PeerLag(places, "b", 1)
    lag.began(*had)
    lacked = lag.measure()["bytes"]
    assert lacked > 0
    lag.began(*begin, copy=True)
    lag.sent(*end)
    lag.acknowledged(end.position)
    assert lag.measure()["bytes"] == lacked
    # Nor does a second attempt begin with what the first one left, or another process with it.
    lag.began(*end, copy=True)
    assert lag.measure()["bytes"] == lacked
    lag.save()
    assert PeerLag(places, "b", 1).measure()["bytes"] == lacked
    lag.copied()
    assert lag.measure()["bytes"] == 0
    lag.save()
    assert PeerLag(places, "b", 1).measure()["bytes"] == 0


def test_during_the_first_copy_a_peer_has_nothing(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    end = marks(places)[-1]
    lag = PeerLag(places, "b", 1)
    everything = lag.measure()["bytes"]
    lag.began(*end, copy=True)
    assert lag.measure()["bytes"] == everything > 0
    lag.save()
    assert PeerLag(places, "b", 1).measure()["bytes"] == everything
    lag.began(*end)
    assert lag.measure()["bytes"] == 0


def test_the_view_of_a_peer_that_is_copied_counts_so(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    _, had, begin, _ = marks(places)
    lag = PeerLag(places, "b", 1)
    lag.began(*had)
    context = Context(places, "a", GroupSettings(version=1, group="g", group_id="id"))
    view = PeerView(context, "b", GuardLink(places.guard_socket), lag)
    lacked = view.status()["send_queue"]["bytes"]
    for kind, as_before in ((RESYNC, True), (STREAM, False)):
        cursor = LogCursor(places, begin.position)
        choice = CatchUp(kind, "why")
        start = Start(catch_up=kind, position=WirePosition.of(begin.position), sentence="why")
        view.began(Agreement(choice, begin.position, cursor, start, None, None))
        assert (view.status()["send_queue"]["bytes"] == lacked) is as_before
        view.ended()
        cursor.close()
