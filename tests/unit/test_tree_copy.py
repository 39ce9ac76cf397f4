"""The target's side of a copy over a real tree: what a copy that broke off has left is seen."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IFDIR, S_IFREG

import pytest

from everup.config.load import parse_group
from everup.places import Places
from everup.replicate.context import Context
from everup.replicate.kept import Kept
from everup.replicate.lower import LowerTree
from everup.replicate.suspects import Suspects
from everup.replicate.treecopy import TreeCopy
from everup.replicate.walk import IdGiver, look
from everup.replicate.writebehind import WriteBehind
from everup.wire.syncmessages import Attributes, Content, Entry, Listing

pytestmark = pytest.mark.fuse  # needs root: trusted attributes

GROUP = f"""
version = 1
group = "shop"
group_id = "{"ab" * 16}"
[[protect]]
id = 1
path = "/srv/data"
"""
OLD, NEW, FILE = (name * 16 for name in (b"o", b"n", b"f"))
FIRST, LAST = b"1" * (1 << 20), b"the last piece"
MTIME_NS = 10**18


@pytest.fixture
def context(tmp_path: Path) -> Context:
    places = Places.below(tmp_path)
    places.make()
    places.lower(1).mkdir(parents=True)
    return Context(places, "beta", parse_group(GROUP))


@pytest.fixture
def tree(context: Context) -> Iterator[LowerTree]:
    opened = context.open_lower(1, adopt=True)
    yield opened
    opened.close()


@pytest.fixture
def behind() -> Iterator[WriteBehind]:
    made = WriteBehind()
    yield made
    made.close()


def attributes(mode: int) -> Attributes:
    return Attributes(mode, 0, 0, MTIME_NS, 0, {})


def directory(name: bytes, object_id: bytes) -> Entry:
    return Entry(name, object_id, attributes(S_IFDIR | 0o755), 1, 0, 0, None)


def file(handle: int = 0) -> Entry:
    size = len(FIRST + LAST)
    return Entry(b"file", FILE, attributes(S_IFREG | 0o644), 1, size, handle, None)


def listing(tree: LowerTree, path: bytes, object_id: bytes, *entries: Entry) -> Listing:
    of_it = attributes(S_IFDIR | 0o755)
    return Listing(1, path, object_id or tree.root_id, of_it, list(entries), True, False)


def narrowed(context: Context, tree: LowerTree) -> TreeCopy:
    """One more attempt, up to the end of its listings; the source has no reason to send content,
    and has moved the file into the directory that comes first."""
    copy = TreeCopy(tree, Kept(context, Suspects(), asked=True))
    copy.listing(listing(tree, b"", b"", directory(b"new", NEW), directory(b"old", OLD)))
    copy.listing(listing(tree, b"new", NEW, file()))
    copy.listing(listing(tree, b"old", OLD))
    return copy


def test_a_file_that_a_copy_has_only_begun_is_wanted_again(
    context: Context, tree: LowerTree, behind: WriteBehind
) -> None:
    """Its name, id and size are right, and it has a hole; attempts between do not hide that."""
    wanted = Content(1, NEW, file(handle=1))
    first = narrowed(context, tree)
    assert [want.object_id for want in first.wants] == [FILE]
    begun = first.content(wanted)
    begun.write(len(FIRST), LAST, behind)
    begun.close()
    for _ in range(2):
        again = narrowed(context, tree)
        assert [(want.object_id, want.runs) for want in again.wants] == [(FILE, None)]
    ended = again.content(wanted)
    ended.write(0, FIRST, behind)
    ended.end(len(FIRST + LAST), MTIME_NS)
    assert (context.places.lower(1) / "new/file").read_bytes() == FIRST + LAST
    assert not narrowed(context, tree).wants, "what is whole does not travel again"


def test_what_has_no_id_yet_is_kept_before_it_gets_one(context: Context, tree: LowerTree) -> None:
    """Made here without a record; its id moves its time of change to when the copy works."""
    path = context.places.lower(1) / "file"
    path.write_bytes(b"only here")
    began_ns = wait_until_later(path)
    suspects = Suspects(changed_after_ns=0, copied_after_ns=began_ns)
    copy = TreeCopy(tree, Kept(context, suspects, asked=True))
    ((_, begun),) = copy.listing(listing(tree, b"", b"", file(handle=1)))
    begun.close()
    (bundle,) = context.places.divergence.iterdir()
    assert [kept.read_bytes() for kept in (bundle / "before").iterdir()] == [b"only here"]


def wait_until_later(path: Path) -> int:
    """A time of change of this file system that is later than that of `path`."""
    other = path.parent / "other"
    other.touch()
    while other.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        other.chmod(0o600)
    began_ns = other.stat().st_ctime_ns
    other.unlink()
    return began_ns


def test_a_name_never_leads_out_of_the_tree(context: Context, tree: LowerTree) -> None:
    """Names come from a peer, too."""
    beside = context.places.lower(1).parent
    assert look(IdGiver(), tree.root, b"..") is None
    assert not [name for name in os.listxattr(beside) if name.startswith("trusted.everup")]
