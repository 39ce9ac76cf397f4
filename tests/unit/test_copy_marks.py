"""What a copy has sent already: by inode, but a directory by its id."""

import os
from stat import S_IFDIR, S_IFREG

from everup.replicate.copysource import _Marks
from everup.replicate.walk import InodeSet, Seen


def _seen(kind: int, inode: int, number: int) -> Seen:
    status = os.stat_result((kind | 0o755, inode, 1, 1, 0, 0, 0, 0, 0, 0))
    return Seen(b"name", -1, bytes([number]) * 16, status)


def test_a_directory_with_the_inode_of_a_removed_one_is_sent() -> None:
    """Without its entry the listing of what is in it would have no place."""
    marks = _Marks(InodeSet(), InodeSet(), InodeSet())
    assert marks.add(_seen(S_IFDIR, 7, 1))
    assert not marks.add(_seen(S_IFDIR, 7, 1)), "the same one, seen at another place"
    assert not marks.has(_seen(S_IFDIR, 7, 2))
    assert marks.add(_seen(S_IFDIR, 7, 2)), "another one, made in the meantime"


def test_a_file_with_the_inode_of_a_removed_one_comes_by_the_replay() -> None:
    marks = _Marks(InodeSet(), InodeSet(), InodeSet())
    assert marks.add(_seen(S_IFREG, 7, 1))
    assert not marks.add(_seen(S_IFREG, 7, 2))
