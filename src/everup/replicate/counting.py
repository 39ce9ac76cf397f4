"""How many objects lie below a path of a protected tree, entry by entry; no content is read.

What enters: a tree's id and a path. What leaves: counts for people, or a refusal when the path is
not there. Called by the process. Bounded: a tree that is too large is counted as far as it goes.
"""

import os
import time
from collections.abc import Mapping
from stat import S_ISDIR
from typing import Any

from everup.errors import Refused
from everup.replicate.context import Context
from everup.replicate.lower import LowerTree
from everup.replicate.scan import ABSENT, scan
from everup.system.treecalls import open_beneath

ENTRIES_MAX = 1000
SECONDS_MAX = 15.0

Json = dict[str, Any]


def check_paths(context: Context, wanted: Mapping[int, bytes]) -> None:
    """Raise Refused (`path-missing`) for a path that is not there: nothing would be compared."""
    for tree_id, path in wanted.items():
        if path:
            tree = context.open_lower(tree_id)
            try:
                os.close(_open(context, tree, path))
            finally:
                tree.close()


def count_below(
    context: Context, tree_id: int, path: bytes, seconds_max: float = SECONDS_MAX
) -> Json:
    """`{directory, objects, entries: [{name, directory, objects}], more, cut}`.

    `objects` counts a directory itself and everything below it; `more` entries are not named;
    `cut`: it took too long, there are more objects.
    """
    tree = context.open_lower(tree_id)
    try:
        descriptor = _open(context, tree, path)
        directory = S_ISDIR(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        if not directory:
            return {"directory": False, "objects": 1, "entries": [], "more": 0, "cut": False}
        return _count(tree, path, seconds_max)
    finally:
        tree.close()


def _count(tree: LowerTree, top: bytes, seconds_max: float) -> Json:
    end = time.monotonic() + seconds_max
    skip = len(top) + 1 if top else 0
    counts: dict[bytes, int] = {}
    directories: set[bytes] = set()
    cut = False
    for found in scan(tree, top):
        first, _, below = found.path[skip:].partition(b"/")
        counts[first] = counts.get(first, 0) + 1
        if not below and S_ISDIR(found.status.st_mode):
            directories.add(first)
        if time.monotonic() > end:
            cut = True
            break
    entries = [
        {
            "name": os.fsdecode(name).encode("utf-8", "backslashreplace").decode(),
            "directory": name in directories,
            "objects": counts[name],
        }
        for name in sorted(counts)[:ENTRIES_MAX]
    ]
    return {
        "directory": True,
        "objects": 1 + sum(counts.values()),
        "entries": entries,
        "more": max(0, len(counts) - ENTRIES_MAX),
        "cut": cut,
    }


def _open(context: Context, tree: LowerTree, path: bytes) -> int:
    try:
        return open_beneath(tree.root, path, os.O_PATH)
    except OSError as problem:
        if problem.errno not in ABSENT:
            raise
        raise Refused(
            f"{context.path_of(tree.tree_id)}/{os.fsdecode(path)} does not exist",
            remedy="name a file or directory that is there",
            code="path-missing",
        ) from problem
