"""The passive side alone: any records, in any groups, stopped anywhere; and what it refuses."""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from receiving_alone import END_BYTES, Passive, frames_of, written_journal
from replicating import GROUP_ID, differences, object_ids
from standin_guard import StandInGuard

from everup.errors import Corrupt, EverupError, Refused
from everup.journal.operation import encode_write
from everup.journal.reader import Cursor
from everup.journal.record import Operation
from everup.journal.writer import CAUSE_AGE, JournalWriter
from everup.model.position import ORIGIN, Position
from everup.replicate.applier import Applier
from everup.replicate.apply import TreeSet
from everup.replicate.lower import open_tree
from everup.replicate.names import TreeOperations
from everup.replicate.treestate import AT, TreeState, load_tree_state, save_tree_state
from everup.wire.frames import BatchFrame

pytestmark = pytest.mark.fuse  # trusted extended attributes need root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("applier")


@pytest.fixture
def source(tmp_path: Path) -> StandInGuard:
    return written_journal(tmp_path / "source", 11, 60)


@pytest.fixture
def passive(tmp_path: Path, source: StandInGuard) -> Iterator[Passive]:
    made = Passive(tmp_path / "passive", source)
    try:
        yield made
    finally:
        made.stop()


NUMBERS = count()
LONGER = int(os.environ.get("EVERUP_LONGER", "1"))


@settings(max_examples=25 * LONGER, deadline=None, print_blob=True)
@given(
    seed=st.integers(0, 1 << 30),
    steps=st.integers(1, 80),
    groups=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    stops=st.sets(st.integers(0, 30), max_size=4),
)
def test_any_groups_and_stops_end_with_the_same_tree(
    base: Path, seed: int, steps: int, groups: list[int], stops: set[int]
) -> None:
    place = base / str(next(NUMBERS))
    guard = written_journal(place / "source", seed, steps)
    passive = Passive(place / "passive", guard)
    try:
        frames = frames_of(guard)
        end = frames[-1][1]
        at = turn = 0
        while at < len(frames):
            size = groups[turn % len(groups)]
            passive.receive(*(frame for frame, _ in frames[at : at + size]))
            if turn in stops:
                passive.restart()
            at, turn = at + size, turn + 1
        assert passive.target.drain(20_000) == end
        assert passive.target.error is None
        assert differences(guard.root, passive.lower) == []
        assert object_ids(guard.root) == object_ids(passive.lower)
        assert load_tree_state(passive.places.tree) == TreeState(AT, end)
    finally:
        passive.stop()
        shutil.rmtree(place, ignore_errors=True)


# what is refused


def test_a_stream_of_an_older_epoch_than_promised_is_refused(passive: Passive) -> None:
    passive.target.seal_promise.promise(5)
    with pytest.raises(Refused) as refused:
        passive.target.take_over_stream(object(), 4, "alpha")
    assert refused.value.code == "sealed-epoch"


def test_nothing_is_received_once_a_newer_epoch_is_promised(
    passive: Passive, source: StandInGuard
) -> None:
    """Not even over a stream that had been accepted before."""
    frames = frames_of(source)
    passive.receive(frames[0][0])
    passive.target.seal_promise.promise(5)
    with pytest.raises(Refused) as refused:
        passive.receive(frames[1][0])
    assert refused.value.code == "sealed-epoch"
    assert passive.target.log.durable == frames[0][1]


def test_a_stream_that_was_replaced_delivers_nothing(
    passive: Passive, source: StandInGuard
) -> None:
    frames = frames_of(source)
    passive.target.take_over_stream(object(), 1, "alpha")
    with pytest.raises(Refused) as refused:
        passive.receive(frames[0][0])
    assert refused.value.code == "replaced"


def test_a_batch_of_a_newer_epoch_than_its_stream_is_refused(
    passive: Passive, source: StandInGuard
) -> None:
    parent = source.journal.position
    source.open(2, "alpha")
    frames = frames_of(source)
    end = [end for _, end in frames].index(parent)
    passive.receive(*(frame for frame, _ in frames[: end + 1]))
    with pytest.raises(Corrupt) as refused:
        passive.receive(frames[end + 1][0])
    assert refused.value.code == "batch-epoch"
    assert passive.target.log.durable == parent


def test_records_of_another_history_are_refused(
    passive: Passive, source: StandInGuard, tmp_path: Path
) -> None:
    """Same sequences, same lengths, every record whole: only the chain tells."""
    passive.receive(*(frame for frame, _ in frames_of(source)))
    one, two = (
        batch_of_another_history(source.places.journal, tmp_path / content.decode(), content)
        for content in (b"one", b"two")
    )
    assert len(one) == len(two) and one != two
    mixed = one[:-END_BYTES] + two[-END_BYTES:]
    with pytest.raises(Corrupt) as refused:
        passive.receive(BatchFrame(mixed, END_BYTES))
    assert refused.value.code == "batch-chain"
    passive.receive(BatchFrame(one, END_BYTES))


def batch_of_another_history(journal: Path, copied: Path, content: bytes) -> bytes:
    """What could have followed in a journal."""
    shutil.copytree(journal, copied)
    writer = JournalWriter(copied)
    writer.recover()
    before = writer.position
    writer.append(Operation.WRITE, 1, bytes(16), encode_write(0, b"file"), content * 100)
    writer.close_batch(CAUSE_AGE)
    cursor = Cursor(copied, before)
    batch = cursor.next()
    cursor.close()
    assert batch is not None
    return batch.data


# what is saved


class Unsyncable(TreeSet):
    """Real trees whose disk cannot be synced for a while."""

    def __init__(self, path: Path) -> None:
        super().__init__(lambda number: TreeOperations(open_tree(path, number, GROUP_ID)))
        self.broken = True
        self.tried = threading.Event()

    def sync(self) -> None:
        if self.broken:
            self.tried.set()
            raise OSError(5, "input/output error")
        super().sync()


def test_a_position_is_saved_only_when_the_trees_are_synced_there(
    passive: Passive, source: StandInGuard
) -> None:
    frames = frames_of(source)
    errors: list[EverupError] = []
    passive.receive(*(frame for frame, _ in frames))
    passive.target.stop()
    save_tree_state(passive.places.tree, TreeState(AT, ORIGIN))
    shutil.rmtree(passive.lower)
    passive.lower.mkdir()
    os.setxattr(passive.lower, "trusted.everup.group", GROUP_ID.encode())
    passive.target.log.open()
    trees = Unsyncable(passive.lower)
    applier = Applier(passive.target.log, trees, passive.places.tree, lambda: None, errors.append)
    applier.start(ORIGIN, None)
    try:
        assert trees.tried.wait(20)
        with pytest.raises(EverupError) as refused:
            applier.drain(5000)
        assert refused.value.code == "apply-disk-error"
        assert load_tree_state(passive.places.tree) == TreeState(AT, ORIGIN)
        trees.broken = False
        end: Position = frames[-1][1]
        for _ in range(50):
            try:
                assert applier.drain(5000) == end
                break
            except EverupError:
                threading.Event().wait(0.1)
        assert load_tree_state(passive.places.tree) == TreeState(AT, end)
    finally:
        applier.stop()
