"""A guard whose journal is replayed while it grows, by two appliers that share no code.

What enters: what a test does in a directory of the mounted tree. What leaves: an assertion that the
journal describes exactly the lower tree: in order from an empty directory, by the independent
replayer and by the product's applier, and from any batch end on copies of the tree that were taken
later. Used by the property tests; one guard serves many examples, each in a directory of its own.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "contract"))

from guarding import GROUP_ID, GuardProcess
from replaying import BATCH, CREATE, Entry, Replayer, Tail, describe, differences
from replicating import object_ids

from everup.journal.reader import Cursor
from everup.journal.record import Record
from everup.model.ids import root_object_id
from everup.model.position import Position
from everup.replicate.apply import TreeSet, apply_record, records_of
from everup.replicate.lower import open_tree
from everup.replicate.names import TreeOperations
from everup.replicate.window import Window

SETTLED_S = 10.0
LONGER = int(os.environ.get("EVERUP_LONGER", "1"))
"""How many times as many examples as usual; the soak asks for more."""
HIDDEN = ".everup-orphans"


def tree_set(path: Path) -> TreeSet:
    """The product's applier on a directory."""
    return TreeSet(lambda number: TreeOperations(open_tree(path, number, GROUP_ID, adopt=True)))


def copy_tree(source: Path, target: Path, name: str) -> None:
    """One directory of a tree with everything that is in it, and what is kept aside."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    parts = [str(source / part) for part in (name, HIDDEN) if (source / part).exists()]
    subprocess.run(["cp", "--archive", *parts, str(target)], check=True, timeout=60)


class Moment:
    """The tree as it was after a record: a copy of the example's directory."""

    def __init__(self, path: Path, sequence: int) -> None:
        self.path = path
        self.sequence = sequence


class Example:
    """One run of a property in a directory of its own, `root` through the mount."""

    def __init__(self, followed: "Followed", name: str) -> None:
        self.followed = followed
        self.name = name
        self.root = followed.guard.tree / name
        self.lower = followed.guard.lower() / name
        self.root.mkdir()
        followed.settle()
        self.begin = followed.ends[-1]
        self.moments: list[Moment] = []

    def take_moment(self) -> None:
        """Copy the tree; nothing may be going on in it. Then compare it with its records."""
        followed = self.followed
        followed.read()
        path = followed.base / f"moment-{self.name}-{len(self.moments)}"
        copy_tree(followed.guard.lower(), path, self.name)
        self.moments.append(Moment(path, followed.sequence))
        ours = describe(path / self.name, times=False)
        theirs = describe(followed.replayed / self.name, times=False, stored=1)
        assert differences(ours, theirs) == [], "in the middle of a batch"

    def check(self, choice: int = 0) -> None:
        """At the end: everything that was promised. `choice` picks where replays begin."""
        followed = self.followed
        followed.settle()
        replayer = followed.replayer
        assert replayer.hints_right == replayer.hints_all, "a record points to another path"
        replayer.forget()
        self._equal(followed.replayed, "the independent replayer")
        self._equal(followed.applied, "the applier")
        self._equal_ids(followed.applied)
        for number, moment in enumerate(self.moments):
            for begin in self._begins(moment, choice + number):
                self._replay_window(moment, begin)
            shutil.rmtree(moment.path)

    def _begins(self, moment: Moment, choice: int) -> set[Position]:
        """The example's begin, the batch end before the moment, and one between them."""
        ends = self.followed.ends
        first = ends.index(self.begin)
        before = [end for end in ends[first:] if end.sequence <= moment.sequence]
        return {before[0], before[choice % len(before)], before[-1]}

    def _replay_window(self, moment: Moment, begin: Position) -> None:
        path = self.followed.base / "window"
        copy_tree(moment.path, path, self.name)
        records = self.followed.records_after(begin)
        trees = tree_set(path)
        try:
            window = Window()
            window.add(records)
            trees.set_window(window)
            for record in records:
                apply_record(trees, record)
            trees.end_window()
        finally:
            trees.close()
        self._equal(path, f"replay from {begin.sequence} on the tree of {moment.sequence}")
        self._equal_ids(path)

    def _equal(self, tree: Path, who: str) -> None:
        found = differences(describe(self.lower), describe(tree / self.name))
        assert found == [], f"{who}: lower tree / replayed"

    def _equal_ids(self, tree: Path) -> None:
        assert object_ids(self.lower) == object_ids(tree / self.name)


class Followed:
    """A guard with an open gate, its journal's readers and two trees made from it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.guard = GuardProcess(base)
        self.replayed, self.applied = base / "replayed", base / "applied"
        self.sequence = 0
        self.ends: list[Position] = []
        self._open_batch = False
        self._numbers = count()

    def start(self) -> None:
        self.guard.start()
        self.guard.arm()
        self.guard.open()
        for path in (self.replayed, self.applied):
            path.mkdir()
            path.chmod(0o755)
        self._tail = Tail(self.guard.places.journal)
        self.replayer = Replayer(self.replayed, 1, root_object_id(GROUP_ID, 1))
        self._trees = tree_set(self.applied)
        self._cursor = Cursor(self.guard.places.journal, Position(0, 0, bytes(16)))
        self.settle()

    def stop(self) -> None:
        try:
            self._trees.close()
            self._cursor.close()
        finally:
            self.guard.stop()
            shutil.rmtree(self.base, ignore_errors=True)

    @contextmanager
    def example(self) -> Iterator[Example]:
        yield Example(self, f"e{next(self._numbers)}")

    def read(self) -> list[Entry]:
        """Take what is new in the journal into the independent replayer."""
        found = list(self._tail.new())
        for entry in found:
            if entry.operation >= CREATE:
                self.replayer.apply(entry)
            self.sequence = entry.sequence
            self._open_batch = entry.operation != BATCH
        return found

    def settle(self) -> None:
        """Wait for the end of the open batch, and have both appliers there."""
        give_up = time.monotonic() + SETTLED_S
        self.read()
        while self._open_batch:
            assert time.monotonic() < give_up, "the batch is not closed"
            time.sleep(0.002)
            self.read()
        while (batch := self._cursor.next()) is not None:
            for record in records_of(batch):
                apply_record(self._trees, record)
            self.ends.append(batch.end)
        assert self.ends[-1].sequence == self.sequence

    def records_after(self, begin: Position) -> list[Record]:
        cursor = Cursor(self.guard.places.journal, begin)
        try:
            return [r for batch in iter(cursor.next, None) for r in records_of(batch)]
        finally:
            cursor.close()


class Renewed:
    """A followed guard that is replaced after a failure, since its trees are then no basis."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._numbers = count()
        self._current: Followed | None = None

    @contextmanager
    def example(self) -> Iterator[Example]:
        if self._current is None:
            path = self._base / f"guard{next(self._numbers)}"
            path.mkdir()
            self._current = Followed(path)
            self._current.start()
        try:
            with self._current.example() as made:
                yield made
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._current is not None:
            current, self._current = self._current, None
            current.stop()
