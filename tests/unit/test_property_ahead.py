"""Whatever is forced to the disk before its record is compared after a power cut, at any moment.

The reader's side (what a journal names) is written here a second time, from the format page.
"""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from everup.capture.ahead import Ahead
from everup.limits import AHEAD_BYTES, COMPARED_BLOCK_BYTES

BLOCK = COMPARED_BLOCK_BYTES
STEP = 48 << 10
PLACES = 3 * AHEAD_BYTES // STEP
ROUNDS_MAX = 60

writes = st.tuples(
    st.sampled_from(("write", "write", "force-and-write")),
    st.one_of(st.integers(0, 3), st.integers(0, PLACES)),
    st.sampled_from((1, 4096, STEP, BLOCK, 1 << 20)),
)
appends = st.tuples(st.just("append"), st.integers(0, 2), st.sampled_from((4096, STEP, 1 << 20)))
others = st.sampled_from(
    [("force", 0, 0), ("journal", 0, 0), ("mark", 0, 0), ("marked", 0, 0), ("cut", 0, 0)]
)


@dataclass
class Disk:
    """An object of the lower tree, its journal, and what of both a power cut leaves."""

    ahead: Ahead = field(default_factory=Ahead)
    records: list[tuple[int, int]] = field(default_factory=list)
    durable: int = 0
    mark: int = 0
    floor: int = 0
    forced: int = 0
    flushes: int = 0

    def write(self, start: int, length: int) -> None:
        self.records.append((start, start + length))
        self.ahead.wrote(len(self.records), start, start + length)

    def force(self, meanwhile: tuple[int, int] | None = None) -> None:
        """`fdatasync`, as the order does it; `meanwhile`: a write of another thread, which this
        one does not promise to force."""
        forced = len(self.records)
        if not self.ahead.covered(self.floor):
            reached = self.ahead.reached()
            self.durable = len(self.records)
            if meanwhile:
                self.write(*meanwhile)
            self.ahead.synced(reached)
            self.flushes += 1
        self.forced = forced

    def finish_mark(self) -> None:
        self.durable = max(self.durable, self.floor)
        self.mark = self.floor

    def named(self) -> set[int]:
        """Blocks that are compared if the power goes now."""
        blocks: set[int] = set()
        known = self.records[self.mark : self.durable]
        for start, end in known:
            blocks.update(range(start // BLOCK, -(-end // BLOCK)))
        if known:
            end = known[-1][1]
            blocks.update(range(end // BLOCK, -(-(end + AHEAD_BYTES) // BLOCK)))
        return blocks

    def check(self) -> None:
        for start, end in self.records[self.durable : self.forced]:
            assert set(range(start // BLOCK, -(-end // BLOCK))) <= self.named()


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(writes, appends, others), max_size=ROUNDS_MAX))
def test_what_is_forced_is_named(steps: list[tuple[str, int, int]]) -> None:
    disk = Disk()
    for step, place, length in steps:
        if step == "write":
            disk.write(place * STEP, length)
        elif step == "append":
            end = disk.records[-1][1] if disk.records else 0
            disk.write(end + place * 4096, length)
        elif step == "force":
            disk.force()
        elif step == "force-and-write":
            disk.force((place * STEP, length))
        elif step == "journal":
            disk.durable = len(disk.records)
        elif step == "mark":
            disk.floor = len(disk.records)
        elif step == "marked":
            disk.finish_mark()
        else:
            disk.ahead.changed_otherwise()
        disk.check()


def test_a_write_that_ends_earlier_shortens_what_is_named_ahead() -> None:
    """The last known write counts, not the one that reaches farthest."""
    disk = Disk()
    disk.write(0, 1 << 20)
    disk.force()
    disk.write(0, 4096)
    disk.durable = len(disk.records)
    disk.write(AHEAD_BYTES + BLOCK, 4096)
    disk.force()
    disk.check()


def test_a_cut_during_the_sync_of_the_journal_is_not_covered_by_it() -> None:
    ahead = Ahead()
    ahead.wrote(1, 0, 4096)
    reached = ahead.reached()
    ahead.changed_otherwise()
    ahead.synced(reached)
    assert not ahead.covered(0)


def test_a_log_that_grows_costs_few_flushes() -> None:
    disk = Disk()
    for number in range(1000):
        disk.write(number * 8192, 8192)
        disk.force()
        if number % 50 == 0:
            disk.check()
    assert disk.flushes == -(-1000 * 8192 // AHEAD_BYTES)


def test_a_page_that_is_written_again_and_again_costs_none() -> None:
    disk = Disk()
    for number in range(100):
        disk.write(8 << 20, 8192 + 512 * number)
        disk.force()
        disk.check()
    assert disk.flushes == 1
