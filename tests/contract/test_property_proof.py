"""The proof of equality: whatever one thing differs on the target, it is told; and nothing else."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import GROUP_ID

from everup.model.ids import OBJECT_ID_BYTES
from everup.replicate.apply import TreeSet
from everup.replicate.blocks import BLOCK_BYTES, block_count, hash_block
from everup.replicate.lower import LowerTree, give_id, open_tree
from everup.replicate.names import TreeOperations
from everup.replicate.proof import digest_of
from everup.replicate.prooftarget import compare_item
from everup.system.kernelcalls import HandleCalls
from everup.system.treecalls import open_beneath
from everup.wire.syncmessages import ProofItem

pytestmark = pytest.mark.fuse  # trusted extended attributes need root
SIZE = 3 * BLOCK_BYTES + 100
FILES = (b"", b"directory", b"directory/file", b"directory/link", b"directory/second", b"fifo")


def build(root: Path) -> None:
    """Some of every kind; every object has an id that follows from its path."""
    directory = root / "directory"
    directory.mkdir(parents=True)
    (directory / "file").write_bytes(bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256))
    os.setxattr(directory / "file", "user.note", b"value")
    os.symlink("file", directory / "link")
    (directory / "second").write_bytes(b"second")
    os.mkfifo(root / "fifo")
    handles = HandleCalls()
    for number, path in enumerate(FILES[1:]):
        descriptor = os.open(bytes(root) + b"/" + path, os.O_PATH | os.O_NOFOLLOW)
        give_id(descriptor, bytes([number + 1]) * OBJECT_ID_BYTES, handles)
        os.close(descriptor)


def item_of(tree: LowerTree, path: bytes) -> ProofItem:
    """What the source says of an object."""
    descriptor = open_beneath(tree.root, path, os.O_PATH)
    try:
        digest = digest_of(descriptor, with_time=True, is_root=not path)
        blocks: list[int] = []
        hashes = b""
        if path == b"directory/file":
            file = open_beneath(tree.root, path, os.O_RDONLY)
            blocks = list(range(block_count(SIZE)))
            hashes = b"".join(hash_block(file, i, SIZE, mark_holes=False) for i in blocks)
            os.close(file)
    finally:
        os.close(descriptor)
    number = FILES.index(path)
    return ProofItem(1, path, bytes([number]) * 16, 5, True, digest, blocks, hashes)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Path, list[ProofItem], TreeSet]]:
    """The target's tree, the source's items, and the target's trees as the applier has them."""
    source, target = tmp_path / "source", tmp_path / "target"
    build(source)
    tree = open_tree(source, 1, GROUP_ID, adopt=True)
    subprocess.run(["cp", "--archive", str(source), str(target)], check=True, timeout=60)
    items = [item_of(tree, path) for path in FILES]
    tree.close()
    trees = TreeSet(lambda number: TreeOperations(open_tree(target, number, GROUP_ID)))
    yield target, items, trees
    trees.close()


def unequal(items: list[ProofItem], trees: TreeSet) -> dict[bytes, list[int]]:
    """Paths that differ, each with its different blocks."""
    found = {}
    for number, item in enumerate(items):
        try:
            failure = compare_item(trees, number, item)
        except OSError:
            found[item.path] = item.blocks
            continue
        if failure is not None:
            assert failure.number == number
            found[item.path] = failure.blocks
    return found


def flip(path: Path, offset: int) -> None:
    """One bit, and nobody can see it by the times."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def kept_times(path: Path, change: Callable[[], object]) -> None:
    status = path.stat()
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _relink(root: Path) -> None:
    link = root / "directory" / "link"
    before = link.lstat()
    identity = os.getxattr(link, "trusted.everup.id", follow_symlinks=False)

    def replace() -> None:
        link.unlink()
        os.symlink("fi1e", link)

    kept_times(root / "directory", replace)
    os.setxattr(link, "trusted.everup.id", identity, follow_symlinks=False)
    os.utime(link, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def _longer(root: Path) -> None:
    file = root / "directory" / "file"
    kept_times(file, lambda: os.truncate(file, SIZE + 1))


FILE, DIRECTORY = b"directory/file", b"directory"
CHANGES: dict[str, tuple[Callable[[Path], object], dict[bytes, list[int]]]] = {
    "nothing": (lambda root: None, {}),
    "first bit": (lambda root: flip(root / "directory/file", 0), {FILE: [0]}),
    "a block's last byte": (
        lambda root: flip(root / "directory/file", 2 * BLOCK_BYTES - 1), {FILE: [1]}
    ),
    "last byte": (lambda root: flip(root / "directory/file", SIZE - 1), {FILE: [3]}),
    "size": (_longer, {FILE: []}),
    "mode": (lambda root: (root / "directory/file").chmod(0o604), {FILE: []}),
    "owner": (lambda root: os.chown(root / "directory/file", 1, -1), {FILE: []}),
    "group": (lambda root: os.chown(root / "fifo", -1, 1), {b"fifo": []}),
    "one nanosecond": (
        lambda root: os.utime(
            root / "fifo",
            ns=((root / "fifo").stat().st_atime_ns, (root / "fifo").stat().st_mtime_ns + 1),
        ),
        {b"fifo": []},
    ),
    "value of an attribute": (
        lambda root: os.setxattr(root / "directory/file", "user.note", b"valuf"), {FILE: []}
    ),
    "one attribute more": (
        lambda root: os.setxattr(root / "directory", "user.x", b""), {DIRECTORY: []}
    ),
    "target of a link": (_relink, {b"directory/link": []}),
    "one name more": (
        lambda root: kept_times(root / "directory", (root / "directory/x").touch), {DIRECTORY: []}
    ),
    "one name less": (
        lambda root: kept_times(root, (root / "fifo").unlink), {b"": [], b"fifo": []}
    ),
    "another object of that name": (
        lambda root: os.setxattr(root / "fifo", "trusted.everup.id", b"x" * 16),
        {b"": [], b"fifo": []},
    ),
    "a whole directory": (
        lambda root: shutil.rmtree(root / "directory"),
        {b"": [], FILE: [0, 1, 2, 3], **{path: [] for path in (DIRECTORY, FILES[3], FILES[4])}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_one_difference_is_told(pair: tuple[Path, list[ProofItem], TreeSet], name: str) -> None:
    target, items, trees = pair
    change, expected = CHANGES[name]
    change(target)
    assert unequal(items, trees) == expected
