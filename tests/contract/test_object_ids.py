"""An object's first id, when the guard and a copy ask for it at the same moment."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from everup.capture.descriptors import Marks
from everup.capture.lower import LowerTree
from everup.capture.nodes import pack_handle
from everup.model.ids import OBJECT_ID_XATTR, root_object_id
from everup.replicate.walk import IdGiver
from everup.system.kernelcalls import FileHandle, HandleCalls
from everup.system.objectid import encode_id

GROUP_ID = "cd" * 16
STEPS_MAX = 200


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[LowerTree]:
    for name in ("tree", "memory"):
        (tmp_path / name).mkdir()
    root_id = root_object_id(GROUP_ID, 1)
    made = LowerTree(1, tmp_path / "tree", root_id, tmp_path / "memory", Marks())
    yield made
    made.close()


def interrupted(
    first: Callable[[], bytes], second: Callable[[], bytes], step: int
) -> tuple[bytes, bytes | None]:
    """Both answers, when `second` runs before line `step` of `first`; None: it has fewer lines."""
    lines = 0
    answer: bytes | None = None

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines, answer
        lines += event == "line"
        if event == "line" and lines == step:
            answer = second()
        return on_line

    before = sys.gettrace()
    sys.settrace(on_line)
    try:
        found = first()
    finally:
        sys.settrace(before)
    return found, answer


@pytest.mark.parametrize("copied", [False, True], ids=["no-id", "copied-id"])
@pytest.mark.parametrize("guard_first", [False, True], ids=["copy", "guard"])
def test_guard_and_copy_agree_on_the_first_id(
    tree: LowerTree, copied: bool, guard_first: bool
) -> None:
    """Otherwise the guard's records are about an object that the copy never sent."""
    calls, ids = HandleCalls(), IdGiver()
    seen = set()
    for step in range(1, STEPS_MAX):
        descriptor = os.open(b"n%d" % step, os.O_CREAT | os.O_RDWR, dir_fd=tree.root)
        if copied:
            value = encode_id(os.urandom(16), FileHandle(1, bytes(8)))
            os.setxattr(descriptor, OBJECT_ID_XATTR, value)
        hot = tree.hot(pack_handle(calls.of(descriptor)))
        parts = [lambda: tree.identity(hot), lambda: ids.id_of(descriptor)]  # noqa: B023
        first, second = parts if guard_first else reversed(parts)
        one, other = interrupted(first, second, step)
        stored = os.getxattr(descriptor, OBJECT_ID_XATTR)[:16]
        os.close(descriptor)
        if other is None:
            break
        assert one == other == stored, f"interrupted before line {step}"
        seen.add(stored)
    assert len(seen) == step - 1 > 5
