"""The node table: names, paths, and lookup counts that are exact whenever a worker is killed."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from everup.capture import counts, nodes
from everup.capture.counts import CHUNK
from everup.capture.nodes import NodeTable
from everup.capture.protocol import ROOT_NODE

LONG = b"n" * 255
FILES = ("nodes", "nodes-long", "nodes-counts")
KEPT_BYTES = 1 << 16


def learn(table: NodeTable, node: int, parent: int, name: bytes) -> None:
    learn.unique += 2  # type: ignore[attr-defined]
    table.learn(0, learn.unique, [(node, parent, name)])  # type: ignore[attr-defined]


learn.unique = 100  # type: ignore[attr-defined]


def test_paths_follow_moves_of_directories(tmp_path: Path) -> None:
    table = NodeTable(tmp_path)
    learn(table, 2, ROOT_NODE, b"a")
    learn(table, 3, 2, b"b")
    learn(table, 4, 3, LONG)
    assert table.path(4) == b"a/b/" + LONG
    assert table.directory_path(3) == b"a/b"
    table.move(2, ROOT_NODE, b"moved", directory=True)
    assert table.directory_path(3) == b"moved/b"
    assert table.path(ROOT_NODE) == b""


def test_next_worker_finds_every_node(tmp_path: Path) -> None:
    table = NodeTable(tmp_path)
    learn(table, 2, ROOT_NODE, b"directory")
    for i in range(10, 1000):
        learn(table, i, 2, LONG if i % 10 == 0 else b"file%d" % i)
    for i in range(10, 500):
        assert table.forget(0, 10_000 + 2 * i, [(i, 1)]) == [i]
    after = NodeTable(tmp_path)
    assert len(after) == 501
    assert after.path(500) == b"directory/" + LONG
    assert after.path(999) == b"directory/file999"
    assert after.entry(10) is None
    learn(after, 5000, 2, b"new")
    assert NodeTable(tmp_path).path(5000) == b"directory/new"


def test_lookup_counts_decide_when_a_node_is_forgotten(tmp_path: Path) -> None:
    table = NodeTable(tmp_path)
    for name in (b"a", b"a", b"other link"):
        learn(table, 7, ROOT_NODE, name)
    assert table.forget(0, 2, [(7, 2)]) == []
    assert table.path(7) == b"other link"
    assert NodeTable(tmp_path).forget(0, 4, [(7, 1)]) == [7]


def test_lost_name_leaves_no_hint_and_the_count(tmp_path: Path) -> None:
    table = NodeTable(tmp_path)
    learn(table, 7, ROOT_NODE, b"a")
    table.unname(7, ROOT_NODE, b"something else")
    assert table.path(7) == b"a"
    table.unname(7, ROOT_NODE, b"a")
    assert table.path(7) == b""
    table.name(7, ROOT_NODE, LONG)
    assert table.path(7) == LONG and table.lookups(7) == 1


def test_a_long_answer_is_counted_in_parts_and_once(tmp_path: Path) -> None:
    table = NodeTable(tmp_path)
    found = [(i, ROOT_NODE, b"%d" % i) for i in range(10, 10 + 2 * CHUNK + 5)]
    # A hard link: the same node under two names of one answer.
    found.append((10, ROOT_NODE, b"second"))
    table.learn(3, 42, found)
    NodeTable(tmp_path).learn(3, 42, found)
    after = NodeTable(tmp_path)
    assert after.lookups(10) == 2
    assert {after.lookups(node) for node, _, _ in found[1:-1]} == {1}
    dropped = [(node, 1) for node, _, _ in found]
    assert len(set(after.forget(1, 44, dropped))) == len(found) - 1
    assert set(NodeTable(tmp_path).forget(1, 44, dropped)) == {node for node, _, _ in found}


Step = Callable[[NodeTable], Any]
CHANGES: dict[str, tuple[Step, dict[int, int], dict[int, bytes]]] = {
    "lookup of a known node": (
        lambda t: t.learn(2, 50, [(7, ROOT_NODE, b"seven")]), {7: 4}, {7: b"seven"},
    ),
    "lookup of a new node": (
        lambda t: t.learn(2, 50, [(9, ROOT_NODE, b"nine")]), {7: 3, 9: 1}, {9: b"nine"},
    ),
    "another name, that is longer": (
        lambda t: t.learn(2, 50, [(7, ROOT_NODE, LONG)]), {7: 4}, {7: LONG},
    ),
    "another name, that is shorter": (
        lambda t: t.learn(2, 50, [(8, ROOT_NODE, b"short")]), {7: 3, 8: 3}, {8: b"short"},
    ),
    "a directory is listed": (
        lambda t: t.learn(2, 50, [(7, ROOT_NODE, b"seven"), (8, ROOT_NODE, b"s"), (9, 7, b"n")]),
        {7: 4, 8: 3, 9: 1}, {8: b"s"},
    ),
    "forget some": (lambda t: t.forget(2, 50, [(7, 2), (8, 1)]), {7: 1, 8: 1}, {}),
    "forget all": (lambda t: t.forget(2, 50, [(7, 3), (8, 2)]), {}, {}),
    "the same node twice": (lambda t: t.forget(2, 50, [(7, 1), (7, 1)]), {7: 1, 8: 2}, {}),
}  # fmt: skip


def prepared(directory: Path) -> NodeTable:
    table = NodeTable(directory)
    for _ in range(3):
        learn(table, 7, ROOT_NODE, b"seven")
    for _ in range(2):
        learn(table, 8, ROOT_NODE, LONG)
    return table


def copy_memory(source: Path, target: Path) -> None:
    """The beginning of the shared files, as they are at this moment."""
    target.mkdir()
    for name in FILES:
        with (source / name).open("rb") as file:
            (target / name).write_bytes(file.read(KEPT_BYTES))


@pytest.mark.parametrize("name", CHANGES)
def test_a_kill_at_any_line_leaves_a_change_done_once(tmp_path: Path, name: str) -> None:
    """The memory is copied at every line of the table; the request is then done again there."""
    step, expected, names = CHANGES[name]
    table = prepared(tmp_path / "before")
    moments: list[Path] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        del argument
        if frame.f_code.co_filename not in (nodes.__file__, counts.__file__):
            return None
        if event in ("line", "return"):
            moments.append(tmp_path / f"moment{len(moments)}")
            copy_memory(tmp_path / "before", moments[-1])
        return trace

    sys.settrace(trace)
    try:
        step(table)
    finally:
        sys.settrace(None)
    assert len(moments) > 20
    for moment in moments:
        after = NodeTable(moment)
        step(after)
        found = NodeTable(moment)
        for node in {7, 8, 9} & (expected.keys() | {7}):
            assert found.lookups(node) == expected.get(node, 0), (moment, node)
        assert len(found) == len(after)
        for node, right in names.items():
            assert found.path(node) == right
        shutil.rmtree(moment)
