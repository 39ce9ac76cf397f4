"""The dirty map: nothing that was changed is missing in it, whatever happens to its owner."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everup.errors import Corrupt
from everup.journal import dirty
from everup.journal import operation as op
from everup.journal.dirty import BLOCK_BYTES, DirtyMap, load_map, map_path, save_map
from everup.journal.record import Operation

NAMES = [bytes([number]) * 16 for number in range(4)]

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["write", "truncate", "allocate", "create", "rename"]),
        st.integers(0, 1 << 40),
        st.integers(1, 1 << 20),
    ),
    max_size=40,
)


def note(dirty_map: DirtyMap, name: bytes, kind: str, start: int, length: int) -> None:
    if kind == "write":
        dirty_map.note(1, Operation.WRITE, name, op.encode_write(start, b"hint"), length)
    elif kind == "truncate":
        dirty_map.note(1, Operation.TRUNCATE, name, op.encode_truncate(op.Truncate(start, b"h")), 0)
    elif kind == "allocate":
        arguments = op.encode_allocate(op.Allocate(start, length, 3, b"h"))
        dirty_map.note(1, Operation.ALLOCATE, name, arguments, 0)
    elif kind == "create":
        create = op.Create(NAMES[0], 0o100644, 0, 0, 0, b"n", b"h")
        dirty_map.note(1, Operation.CREATE, name, op.encode_create(create), 0)
    else:
        dirty_map.note(1, Operation.RENAME, name, b"", 0)


def covered(parts: list[dirty.Part], name: bytes, start: int, end: int | None) -> bool:
    """Whether every byte of a change lies in some part."""
    if any(p[1] == name and p[3] is None and p[2] <= start for p in parts):
        return True
    if end is None:
        return False
    at = start
    while at < end:
        found = [p for p in parts if p[1] == name and p[2] <= at and (p[3] is None or p[3] > at)]
        if not found:
            return False
        at = max(end if p[3] is None else p[3] for p in found)
    return True


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, killed_after=st.integers(0, 40))
def test_every_change_is_in_the_map(
    changes: list[tuple[bytes, str, int, int]],
    killed_after: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    state = tmp_path_factory.mktemp("dirty")
    dirty_map = DirtyMap(state / "memory")
    for number, change in enumerate(changes):
        if number == killed_after:
            dirty_map = DirtyMap(state / "memory")
        note(dirty_map, *change)
    objects = {name for name, kind, _, _ in changes if kind != "rename"}
    assert dirty_map.facts()["objects"] == len(objects)
    data = dirty_map.take()
    assert data is not None and dirty_map.facts()["objects"] == 0
    save_map(state, "ab", data)
    parts = load_map(state, "ab")
    for name, kind, start, length in changes:
        if kind == "rename":
            continue
        begin = 0 if kind == "create" else start
        end = start + length if kind == "write" else None
        assert covered(parts, name, begin, end), (kind, start, length)


def test_a_full_map_knows_that_it_knows_nothing(tmp_path: Path) -> None:
    dirty_map = DirtyMap(tmp_path / "memory", 10)
    for number in range(11):
        note(dirty_map, NAMES[0], "write", number * BLOCK_BYTES, 1)
    assert dirty_map.facts()["complete"] is False
    assert DirtyMap(tmp_path / "memory", 10).facts()["complete"] is False, "also after a kill"
    assert dirty_map.take() is None
    assert dirty_map.facts() == {"objects": 0, "bytes": 0, "complete": True}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_map_is_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("dirty")
    dirty_map = DirtyMap(state / "memory")
    for number in range(5):
        note(dirty_map, NAMES[number % 4], "write", number << 20, 1)
    content = dirty_map.take()
    assert content is not None
    raw = bytearray(content)
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del raw[at:]
    save_map(state, "ab", bytes(raw))
    with pytest.raises(Corrupt) as caught:
        load_map(state, "ab")
    assert str(map_path(state, "ab")) in caught.value.sentence


def test_only_the_newest_maps_are_kept(tmp_path: Path) -> None:
    dirty_map = DirtyMap(tmp_path / "memory")
    for number in range(dirty.MAPS_KEPT_MAX + 3):
        note(dirty_map, NAMES[0], "write", 0, 1)
        data = dirty_map.take()
        assert data is not None
        save_map(tmp_path, f"{number:02}", data)
    assert len(list((tmp_path / "dirty").iterdir())) == dirty.MAPS_KEPT_MAX
    with pytest.raises(Corrupt):
        load_map(tmp_path, "00")
