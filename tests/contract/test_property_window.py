"""Short scripts on few names, replayed from every point onto the tree of every later point."""

import os
import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID, HIDDEN, differences, object_ids
from standin_guard import StandInGuard

from everup.journal.reader import Cursor
from everup.journal.record import Record
from everup.model.position import ORIGIN
from everup.places import Places
from everup.replicate.apply import TreeSet, apply_record, records_of
from everup.replicate.lower import open_tree
from everup.replicate.names import TreeOperations
from everup.replicate.operations import ApplyStopped
from everup.replicate.window import Window

pytestmark = pytest.mark.fuse  # trusted extended attributes need root
PATHS = ("a", "b", "c", "d", "d/a", "d/b", "e", "e/a")
EXCHANGE = 2
NUMBERS = count()
LONGER = int(os.environ.get("EVERUP_LONGER", "1"))


class Line(NamedTuple):
    """One line of a script."""

    operation: str
    path: str
    other: str = "a"


WORK: dict[str, Callable[[StandInGuard, Line], object]] = {
    "create": lambda guard, line: guard.create(line.path),
    "mkdir": lambda guard, line: guard.create(line.path, 0o40755),
    "write": lambda guard, line: guard.write(line.path, 5, line.other.encode() * 9),
    "truncate": lambda guard, line: guard.truncate(line.path, 7),
    "link": lambda guard, line: guard.link(line.path, line.other),
    "unlink": lambda guard, line: guard.unlink(line.path),
    "rename": lambda guard, line: guard.rename(line.path, line.other),
    "exchange": lambda guard, line: guard.rename(line.path, line.other, EXCHANGE),
    "mode": lambda guard, line: guard.attributes(line.path, mode=0o600),
    "end": lambda guard, line: guard.end_batch(),
}
LINES = st.builds(
    Line,
    st.sampled_from((*WORK, "create", "create", "mkdir", "rename", "rename", "link", "unlink")),
    st.sampled_from(PATHS),
    st.sampled_from(PATHS),
)


def written(base: Path, script: list[Line]) -> tuple[StandInGuard, list[Record]]:
    """The tree that a script leaves, and its records."""
    places = Places.below(base)
    places.make()
    places.lower(1).mkdir(mode=0o755)
    guard = StandInGuard(places, GROUP_ID)
    guard.open(1, "alpha")
    for line in script:
        try:
            WORK[line.operation](guard, line)
        except OSError:
            continue
    guard.end_batch()
    cursor = Cursor(places.journal, ORIGIN)
    records = [record for batch in iter(cursor.next, None) for record in records_of(batch)]
    cursor.close()
    return guard, records


def trees_at(path: Path) -> TreeSet:
    return TreeSet(lambda number: TreeOperations(open_tree(path, number, GROUP_ID, adopt=True)))


def replayed(path: Path, records: list[Record], begin: int, ahead: int) -> None:
    """The tree as it was after `ahead` records, then everything from `begin` on once more."""
    path.mkdir()
    path.chmod(0o755)
    trees = trees_at(path)
    for record in records[:ahead]:
        apply_record(trees, record)
    trees.close()
    trees = trees_at(path)
    window = Window()
    window.add(records[begin:])
    trees.set_window(window)
    for record in records[begin:]:
        apply_record(trees, record)
    trees.end_window()
    trees.close()


LOST_AND_FOUND = [
    Line("create", "a"), Line("write", "a", "b"), Line("link", "a", "b"), Line("unlink", "a"),
    Line("rename", "b", "a"),
]  # fmt: skip
REPLACED_AND_BACK = [
    Line("create", "a"), Line("write", "a", "x"), Line("link", "a", "b"), Line("create", "c"),
    Line("rename", "c", "a"), Line("rename", "b", "a"),
]  # fmt: skip
TURNED_AROUND = [
    Line("mkdir", "d"), Line("mkdir", "e"), Line("create", "d/a"), Line("rename", "e", "d/b"),
    Line("rename", "d/b", "e"), Line("rename", "d", "e/a"),
]  # fmt: skip


@settings(max_examples=10 * LONGER, deadline=None, print_blob=True)
@example(LOST_AND_FOUND)
@example(REPLACED_AND_BACK)
@example(TURNED_AROUND)
@given(st.lists(LINES, min_size=3, max_size=8))
def test_every_window_of_a_short_script(
    tmp_path_factory: pytest.TempPathFactory, script: list[Line]
) -> None:
    base = tmp_path_factory.mktemp(f"script{next(NUMBERS)}")
    try:
        guard, records = written(base / "source", script)
        assume(len(records) > 4)
        for ahead in range(2, len(records) + 1):
            for begin in range(2, ahead + 1):
                target = base / f"{begin}-{ahead}"
                replayed(target, records, begin, ahead)
                found = differences(guard.root, target)
                assert found == [], f"from {begin} on, tree at {ahead}: {records_text(records)}"
                assert object_ids(guard.root) == object_ids(target)
                assert list((target / HIDDEN.decode()).iterdir()) == []
                shutil.rmtree(target)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def records_text(records: list[Record]) -> str:
    return " ".join(f"{record.operation}:{record.object_id.hex()[:4]}" for record in records)


def test_a_name_that_holds_another_object_is_never_removed(tmp_path: Path) -> None:
    """Outside a window the tree is as the record found it, or everything stops."""
    _, records = written(tmp_path / "source", [Line("create", "a"), Line("unlink", "a")])
    target = tmp_path / "target"
    target.mkdir()
    trees = trees_at(target)
    for record in records[:3]:
        apply_record(trees, record)
    (target / "a").unlink()
    (target / "a").write_bytes(b"somebody else's")
    with pytest.raises(ApplyStopped) as stopped:
        for record in records[3:]:
            apply_record(trees, record)
    trees.close()
    assert stopped.value.code == "apply-conflict"
    assert (target / "a").read_bytes() == b"somebody else's"
