"""The pure parts of the replicator: catch-up, queues, states of the tree."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from everup.model.position import ORIGIN, Position
from everup.replicate.applier import MISMATCH_CODES, as_error
from everup.replicate.catchup import RESYNC, STREAM, choose_catch_up
from everup.replicate.queues import ENTRIES_MAX, QueueMeter
from everup.replicate.quota import QuotaWatch, quota_level
from everup.replicate.treestate import (
    AT,
    EMPTY,
    OPEN,
    SYNCING,
    TreeState,
    load_tree_state,
    save_tree_state,
)
from everup.replicate.walk import InodeSet

HERE = Position(4, 100, bytes(16))


@pytest.mark.parametrize(
    ("state", "position", "known", "held", "missing", "unclean", "kind", "words"),
    [
        ("at", HERE, True, True, (), 0, STREAM, "goes on from there"),
        ("at", HERE, True, True, (), 4, STREAM, "goes on from there"),
        ("at", HERE, True, True, (), 5, RESYNC, "unclean stop"),
        ("at", HERE, True, True, (2,), 0, RESYNC, "tree 2"),
        ("at", HERE, True, False, (), 0, RESYNC, "no longer holds"),
        ("at", HERE, False, False, (), 0, RESYNC, "not in the history"),
        ("empty", None, False, False, (), 0, RESYNC, "no copy yet"),
        ("open", None, False, False, (), 0, RESYNC, "did not stop cleanly"),
        ("syncing", None, False, False, (), 0, RESYNC, "unfinished"),
        ("at", None, False, False, (), 0, RESYNC, "lost the log"),
        ("something new", None, False, False, (), 0, RESYNC, "no position"),
    ],
)
def test_every_case_has_its_sentence(
    state: str, position: Position | None, known: bool, held: bool,
    missing: tuple[int, ...], unclean: int, kind: str, words: str,
) -> None:  # fmt: skip
    choice = choose_catch_up(
        "beta", state, position, known=known, held=held,
        missing_trees=missing, unclean_epoch=unclean,
    )  # fmt: skip
    assert choice.kind == kind
    assert words in choice.sentence
    assert "beta" in choice.sentence


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ({}, "the content of 7 objects is compared"),
        ({"unequal": True}, "was found different"),
        ({"unreadable": "segment x is damaged"}, "segment x is damaged"),
        ({"unclean_epoch": 5}, "unclean stop"),
        ({"missing_trees": (2,)}, "tree 2"),
    ],
)
def test_the_dirty_map_comes_after_every_doubt(why: dict[str, Any], words: str) -> None:
    choice = choose_catch_up("beta", "at", HERE, known=True, held=False, dirty_objects=7, **why)
    assert choice.kind == RESYNC and words in choice.sentence and "beta" in choice.sentence
    assert choice.narrowed == (not why)


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ({}, "the content of 7 objects is compared"),
        ({"dirty_objects": None}, "unfinished copy: its trees"),
        ({"unequal": True}, "was found different"),
        ({"unclean_epoch": 5}, "unfinished copy: its trees"),
        ({"missing_trees": (2,)}, "unfinished copy: its trees"),
        ({"partial": None}, "unfinished copy: its trees"),
    ],
)
def test_a_narrowed_copy_that_broke_off_stays_narrowed(why: dict[str, Any], words: str) -> None:
    facts = {"dirty_objects": 7, "partial": HERE, **why}
    choice = choose_catch_up("beta", "syncing", None, known=True, held=False, **facts)
    assert choice.kind == RESYNC and words in choice.sentence
    assert choice.narrowed == (not why)


def test_the_stream_comes_before_the_dirty_map() -> None:
    choice = choose_catch_up("beta", "at", HERE, known=True, held=True, dirty_objects=7)
    assert choice.kind == STREAM and not choice.narrowed


@pytest.mark.parametrize(
    ("used", "level"), [(0, 0), (69, 0), (70, 70), (84, 70), (85, 85), (95, 95), (200, 95)]
)
def test_levels_of_a_quota(used: int, level: int) -> None:
    assert quota_level(used, 100) == level
    assert quota_level(used, 0) == 0, "no quota, no warning"


def test_a_level_is_said_once_and_does_not_flutter() -> None:
    watch = QuotaWatch("the journal")
    used = [60, 71, 72, 69, 66, 64, 70, 96, 94, 86, 64, 64]
    said = [news[0] if (news := watch.news(step, 100)) else None for step in used]
    assert said == [None, 70, None, None, None, 0, 70, 95, None, 85, 0, None]


def test_queue_of_what_is_not_done() -> None:
    meter = QueueMeter()
    meter.add(10, 3, 300, 1_000_000_000)
    meter.add(20, 5, 500, 3_000_000_000)
    now = 5_000_000_000
    assert meter.measure(0, now) == {"bytes": 800, "operations": 8, "oldest_ms": 4000}
    assert meter.measure(10, now) == {"bytes": 500, "operations": 5, "oldest_ms": 2000}
    assert meter.measure(20, now) == {"bytes": 0, "operations": 0, "oldest_ms": 0}


def test_the_queue_is_bounded_and_loses_nothing() -> None:
    meter = QueueMeter()
    for number in range(ENTRIES_MAX * 2):
        meter.add(number + 1, 1, 10, number)
    measured = meter.measure(0, 0)
    assert measured["operations"] == ENTRIES_MAX * 2
    assert measured["bytes"] == ENTRIES_MAX * 20
    assert meter.measure(ENTRIES_MAX * 2, 0)["operations"] == 0


@pytest.mark.parametrize(
    "state",
    [
        TreeState(EMPTY),
        TreeState(AT, HERE),
        TreeState(SYNCING, begin=ORIGIN),
        TreeState(SYNCING, begin=ORIGIN, until=HERE),
        TreeState(OPEN, epoch=3, server="alpha"),
    ],
)
def test_states_come_back(tmp_path: Path, state: TreeState) -> None:
    save_tree_state(tmp_path / "tree.json", state)
    assert load_tree_state(tmp_path / "tree.json") == state


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"state": "at"}', '{"state": "at", "position": {"epoch": 1}}',
     '{"state": "new"}', '"at"'],
)  # fmt: skip
def test_what_is_not_understood_is_at_no_position(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tree.json"
    path.write_text(text)
    state = load_tree_state(path)
    assert state.state == OPEN and state.position is None


def test_no_file_is_an_empty_tree(tmp_path: Path) -> None:
    assert load_tree_state(tmp_path / "tree.json") == TreeState(EMPTY)


def test_what_the_guard_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    path.write_text(json.dumps({"state": "at", "position": HERE.to_json(), "more": 1}))
    assert load_tree_state(path) == TreeState(AT, HERE)


def test_inodes_are_remembered() -> None:
    seen = InodeSet()
    numbers = [0, 1, 4095, 4096, 1 << 40, (1 << 63) - 1]
    assert all(seen.add(number) for number in numbers)
    assert not any(seen.add(number) for number in numbers)
    assert 5 not in seen and 4096 in seen and (1 << 50) not in seen


def test_a_failed_proof_compares_everything() -> None:
    choice = choose_catch_up("beta", "at", HERE, known=True, held=True, unequal=True)
    assert choice.kind == RESYNC and "different" in choice.sentence


@pytest.mark.parametrize(
    ("number", "compared"),
    [(errno.ENOENT, True), (errno.ENOTEMPTY, True), (errno.EEXIST, True), (errno.ENOTDIR, True),
     (errno.ENOSPC, False), (errno.EIO, False), (errno.EROFS, False)],
)  # fmt: skip
def test_a_tree_that_is_not_as_recorded_is_compared_and_not_tried_for_ever(
    number: int, compared: bool
) -> None:
    error = as_error(OSError(number, os.strerror(number), b"name"))
    assert (error.code in MISMATCH_CODES) == compared and "name" in error.sentence
