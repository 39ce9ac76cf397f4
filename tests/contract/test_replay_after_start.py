"""A passive server that stopped anywhere, in the middle of a batch: its trees are ahead of the
position that it had saved, and everything from there on is replayed onto them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from receiving_alone import Passive, frames_of
from replicating import GROUP_ID, differences, object_ids
from standin_guard import StandInGuard

from everup.journal.reader import Cursor
from everup.journal.record import Record
from everup.model.position import ORIGIN, Position
from everup.places import Places
from everup.replicate.apply import TreeSet, apply_record, records_of
from everup.replicate.lower import open_tree
from everup.replicate.names import TreeOperations
from everup.replicate.treestate import AT, TreeState, save_tree_state

pytestmark = pytest.mark.fuse  # trusted extended attributes need root
EXCHANGE = 2
DIRECTORY = 0o40755


def scripted(base: Path) -> tuple[StandInGuard, Position]:
    """A source, and the position that was saved; what follows it takes names away, gives them to
    others, and writes to what is gone at the end."""
    places = Places.below(base)
    places.make()
    places.lower(1).mkdir(mode=0o755)
    guard = StandInGuard(places, GROUP_ID)
    guard.open(1, "alpha")
    for name in ("a", "b", "c"):
        guard.create(name)
        guard.write(name, 0, name.encode() * 100)
    guard.create("d", DIRECTORY)
    guard.end_batch()
    saved = guard.journal.position
    guard.write("a", 50, b"later")
    guard.unlink("a")
    guard.rename("b", "a")
    guard.link("c", "d/c")
    guard.truncate("c", 10)
    guard.unlink("c")
    guard.end_batch()
    guard.create("b", DIRECTORY)
    guard.rename("d/c", "b/c")
    guard.rename("d", "b/d")
    guard.create("c")
    guard.rename("a", "c", EXCHANGE)
    guard.write("c", 0, b"x" * 5000)
    guard.unlink("a")
    guard.end_batch()
    return guard, saved


def records_in(journal: Path) -> list[Record]:
    cursor = Cursor(journal, ORIGIN)
    found = [record for batch in iter(cursor.next, None) for record in records_of(batch)]
    cursor.close()
    return found


def test_a_start_replays_onto_trees_that_are_ahead(tmp_path: Path) -> None:
    """After every record behind the saved position once."""
    guard, saved = scripted(tmp_path / "source")
    frames, records = frames_of(guard), records_in(guard.places.journal)
    passive = Passive(tmp_path / "passive", guard)
    try:
        end = passive.receive(*(frame for frame, _ in frames))
        for ahead in range(saved.sequence, len(records) + 1):

            def crash(ahead: int = ahead) -> None:
                passive.make_tree()
                trees = TreeSet(lambda i: TreeOperations(open_tree(passive.lower, i, GROUP_ID)))
                for record in records[:ahead]:
                    apply_record(trees, record)
                trees.close()
                save_tree_state(passive.places.tree, TreeState(AT, saved))

            passive.restart(crash)
            assert passive.target.drain(20_000) == end, ahead
            assert passive.target.error is None, ahead
            assert differences(guard.root, passive.lower) == [], ahead
            assert object_ids(guard.root) == object_ids(passive.lower), ahead
    finally:
        passive.stop()
