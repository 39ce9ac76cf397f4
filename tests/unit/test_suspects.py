"""Who may hold changes that exist only here: nobody is forgotten, whatever the logs have lost."""

from pathlib import Path

from everup.config.load import load_group
from everup.journal import operation as op
from everup.journal.record import Operation
from everup.journal.segment import list_segments
from everup.journal.writer import CAUSE_AGE, JournalWriter
from everup.model.position import ORIGIN, Position
from everup.places import Places
from everup.replicate.context import Context
from everup.replicate.process import Replicator
from everup.replicate.suspects import (
    MARGIN_NS,
    Suspects,
    add_written,
    begin_attempt,
    forget_suspects,
    load_suspects,
    save_suspects,
)
from everup.system.clock import wall_ns


def written(places: Places, segment_bytes: int = 64 << 20) -> list[Position]:
    """A journal in which object N was written in batch N; returns the ends of the batches."""
    places.make()
    writer = JournalWriter(places.journal, segment_bytes=segment_bytes)
    writer.begin_epoch(op.Epoch(1, ORIGIN, "primary", "boot", "founding"))
    ends = []
    for number in range(6):
        arguments = op.encode_write(0, b"file")
        writer.append(Operation.WRITE, 1, bytes([number]) * 16, arguments, b"x" * 500)
        ends.append(writer.close_batch(CAUSE_AGE).position)
    return ends


def test_only_what_follows_the_shared_position_is_suspect(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    ends = written(places)
    suspects = Suspects()
    add_written(suspects, places, [ORIGIN, ends[3]])
    assert suspects.objects == {(1, bytes([n]) * 16) for n in (4, 5)}
    assert suspects.fork == ends[3]
    assert not suspects.includes(1, bytes([3]) * 16, 2**62)


def test_after_an_unclean_stop_the_times_of_change_count_too(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    ends = written(places)
    suspects = Suspects(was_open=True)
    add_written(suspects, places, [ends[-1]])
    assert suspects.changed_after_ns is not None and suspects.objects == set()
    assert suspects.includes(1, b"o" * 16, suspects.changed_after_ns)
    assert not suspects.includes(1, b"o" * 16, suspects.changed_after_ns - MARGIN_NS)


def test_what_an_attempt_has_changed_is_not_suspect_in_the_next_one(tmp_path: Path) -> None:
    """Otherwise the group's own data fills a bundle, until there is no room for what it is for."""
    places = Places.below(tmp_path)
    ends = written(places)
    began_ns = wall_ns() + 2 * MARGIN_NS
    first = Suspects(copy_began_ns=5)
    begin_attempt(first, 1, began_ns)
    save_suspects(places.state, first)
    suspects = load_suspects(places.state)
    begin_attempt(suspects, None, began_ns + 10 * MARGIN_NS)
    add_written(suspects, places, [ends[-1]])
    assert suspects.includes(1, b"o" * 16, began_ns - 1)
    assert not suspects.includes(1, b"o" * 16, began_ns)
    assert suspects.includes(1, b"o" * 16, began_ns, linked=True)


def test_with_a_clock_that_went_back_everything_stays_suspect(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    ends = written(places)
    began_ns = wall_ns() - MARGIN_NS
    suspects = Suspects(was_open=True, copy_began_ns=began_ns)
    add_written(suspects, places, [ends[-1]])
    assert suspects.includes(1, b"o" * 16, began_ns + 10 * MARGIN_NS)


def test_a_journal_cut_by_its_quota_makes_everything_suspect(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    ends = written(places, segment_bytes=1000)
    for info in list_segments(places.journal)[:2]:
        info.path.unlink()
    suspects = Suspects()
    add_written(suspects, places, [ORIGIN, ends[0]])
    assert suspects.includes(1, b"o" * 16, 0)


def test_a_damaged_journal_makes_everything_suspect(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    ends = written(places)
    path = list_segments(places.journal)[0].path
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    suspects = Suspects()
    add_written(suspects, places, [ends[0]])
    assert suspects.includes(1, b"o" * 16, 0)


def test_an_attempt_that_breaks_off_is_remembered_until_the_proof(tmp_path: Path) -> None:
    assert load_suspects(tmp_path) == Suspects()
    first = Suspects({(1, b"a" * 16)}, None, ORIGIN, was_open=True)
    save_suspects(tmp_path, first)
    assert load_suspects(tmp_path) == first
    forget_suspects(tmp_path)
    assert load_suspects(tmp_path) == Suspects()


def test_a_damaged_memory_makes_everything_suspect(tmp_path: Path) -> None:
    (tmp_path / "suspects.json").write_text("{half")
    places = Places.below(tmp_path / "server")
    ends = written(places)
    suspects = load_suspects(tmp_path)
    add_written(suspects, places, [ends[-1]])
    assert suspects.includes(1, b"o" * 16, 0)


def test_a_source_has_no_copy_behind_it(tmp_path: Path) -> None:
    """What it writes is kept when it is overwritten later, although a copy was complete before."""
    places = Places.below(tmp_path)
    ends = written(places)
    save_suspects(places.state, Suspects(was_open=True, settled=True))
    places.group_settings.write_text(f'version = 1\ngroup = "shop"\ngroup_id = "{"ab" * 16}"\n')
    replicator = Replicator(Context(places, "beta", load_group(places.group_settings)))
    replicator.handle("source", {"epoch": 2, "peers": []})
    replicator.close()
    suspects = load_suspects(places.state)
    add_written(suspects, places, [ends[3]])
    assert suspects.objects == {(1, bytes([n]) * 16) for n in (4, 5)}
