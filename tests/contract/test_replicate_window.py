"""The applier makes a tree so from any state of a window: random records, random tree states."""

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID, HIDDEN, differences, object_ids
from standin_guard import StandInGuard
from workload import Workload

from everup.journal.reader import Batch, Cursor
from everup.journal.record import Record
from everup.model.position import ORIGIN
from everup.places import Places
from everup.replicate.apply import TreeSet, apply_record, records_of
from everup.replicate.lower import give_id, open_tree
from everup.replicate.names import TreeOperations
from everup.replicate.objects import displaced_name
from everup.replicate.window import Window
from everup.system.kernelcalls import HandleCalls

pytestmark = pytest.mark.fuse  # trusted extended attributes need root


def tree_set(path: Path) -> TreeSet:
    return TreeSet(lambda number: TreeOperations(open_tree(path, number, GROUP_ID, adopt=True)))


def batches_of(guard: StandInGuard) -> list[Batch]:
    cursor = Cursor(guard.places.journal, ORIGIN)
    found = []
    while (batch := cursor.next()) is not None:
        found.append(batch)
    cursor.close()
    return found


def all_records(guard: StandInGuard) -> list[Record]:
    return [record for batch in batches_of(guard) for record in records_of(batch)]


def make_source(base: Path, seed: int, steps: int) -> StandInGuard:
    places = Places.below(base)
    places.make()
    places.lower(1).mkdir()
    guard = StandInGuard(places, GROUP_ID)
    guard.open(1, "alpha")
    workload = Workload(guard, random.Random(seed))
    for _ in range(steps):
        workload.step()
    for object_id in workload.orphans:
        guard.release(object_id)
    guard.end_batch()
    return guard


def assert_equal(source: Path, target: Path) -> None:
    found = differences(source, target)
    assert found == [], "\n".join(found)
    assert object_ids(source) == object_ids(target)


@pytest.mark.parametrize("seed", range(12))
def test_records_in_order_give_the_same_tree(tmp_path: Path, seed: int) -> None:
    guard = make_source(tmp_path / "source", seed, 150)
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    target.chmod(guard.root.stat().st_mode & 0o7777)
    trees = tree_set(target)
    for record in all_records(guard):
        apply_record(trees, record)
    trees.close()
    assert list((target / ".everup-orphans").iterdir()) == []
    assert_equal(guard.root, target)


@pytest.mark.parametrize("seed", range(40))
def test_replay_from_any_later_state_gives_the_same_tree(tmp_path: Path, seed: int) -> None:
    """First the tree runs ahead to some record of the window, then the window is replayed."""
    guard = make_source(tmp_path / "source", seed, 120)
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(guard.root.stat().st_mode & 0o7777)
    records = all_records(guard)
    chooser = random.Random(seed * 7 + 1)
    begin = chooser.randrange(len(records))
    ahead = chooser.randrange(begin, len(records) + 1)
    trees = tree_set(target)
    for record in records[:ahead]:
        apply_record(trees, record)
    trees.close()
    for _ in range(2):
        trees = tree_set(target)
        window = Window()
        window.add(records[begin:])
        trees.set_window(window)
        for record in records[begin:]:
            apply_record(trees, record)
        trees.end_window()
        trees.close()
        assert list((target / ".everup-orphans").iterdir()) == []
        assert_equal(guard.root, target)


def test_what_lies_below_a_directory_that_was_set_aside_is_found_where_it_goes(
    tmp_path: Path,
) -> None:
    """A copy sends aside what moved while it walked; the replay puts it back with all that is in
    it, and may not make any of that a second time."""
    places = Places.below(tmp_path / "source")
    places.make()
    places.lower(1).mkdir()
    guard = StandInGuard(places, GROUP_ID)
    guard.open(1, "alpha")
    guard.create("x")
    guard.rename("x", "y")
    guard.create("from", 0o40755)
    guard.create("aside", 0o40755)
    guard.create("from/inner", 0o40755)
    guard.rename("from/inner", "aside/inner")
    guard.end_batch()
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    target.chmod(guard.root.stat().st_mode & 0o7777)
    handles = HandleCalls()
    opened = open_tree(target, 1, GROUP_ID, adopt=True)
    aside = target / HIDDEN.decode() / displaced_name(guard.id_at(guard.root / "aside")).decode()
    for path, like in ((aside, "aside"), (aside / "inner", "aside/inner"), (target / "y", "y")):
        path.mkdir() if like != "y" else path.touch()
        descriptor = os.open(path, os.O_PATH)
        give_id(descriptor, guard.id_at(guard.root / like), handles)
        os.close(descriptor)
    opened.close()
    trees = tree_set(target)
    records = all_records(guard)
    window = Window()
    window.add(records)
    trees.set_window(window)
    for record in records:
        apply_record(trees, record)
    trees.end_window()
    trees.close()
    assert_equal(guard.root, target)
