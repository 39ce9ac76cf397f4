"""The judge must see every kind of difference, and none where there is none."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from everup.lab.compare import compare_trees


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    one = tmp_path / "one"
    (one / "deep/er").mkdir(parents=True)
    (one / "file").write_bytes(b"a" * 5000)
    (one / "deep/small").write_bytes(b"b")
    (one / "deep/er/empty").touch()
    os.link(one / "file", one / "deep/linked")
    (one / "link").symlink_to("deep/small")
    os.mkfifo(one / "pipe")
    with (one / "holes").open("wb") as handle:
        handle.seek(1 << 20)
        handle.write(b"end")
    os.setxattr(one / "file", "user.colour", b"green")
    other = tmp_path / "other"
    subprocess.run(["cp", "-a", str(one), str(other)], check=True)
    return one, other


def test_equal_trees_are_equal_however_holes_are_stored(trees: tuple[Path, Path]) -> None:
    one, other = trees
    dense = (one / "holes").read_bytes()
    before = (one / "holes").stat()
    (other / "holes").write_bytes(dense)
    os.utime(other / "holes", ns=(before.st_atime_ns, before.st_mtime_ns))
    found = compare_trees(one, other)
    assert found.differences == []
    assert found.entries == 10
    assert found.bytes == 5000 + 5000 + 1 + (1 << 20) + 3


def keep_time(path: Path, change: Callable[[], object]) -> None:
    before = path.lstat()
    change()
    if path.exists():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4321] ^= 1
    path.write_bytes(data)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def separate(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    os.setxattr(path, "user.colour", b"green")


def retarget(path: Path) -> None:
    path.unlink()
    path.symlink_to("file")


@pytest.mark.parametrize(
    ("where", "change", "sentence"),
    [
        ("file", flip, "file: content differs at byte 4321"),
        ("file", lambda p: p.chmod(0o4711), "mode is"),
        ("file", lambda p: os.chown(p, 12345, -1), "owner is (0, 0) in A, (12345, 0) in B"),
        ("file", lambda p: os.setxattr(p, "user.colour", b"red"), "user.colour"),
        ("file", lambda p: os.removexattr(p, "user.colour"), "user.colour"),
        ("deep/small", lambda p: p.write_bytes(b"bb"), "size is 1 in A, 2 in B"),
        ("deep/small", lambda p: p.unlink(), "deep/small is in A but not in B"),
        ("deep/small", replace_by_directory, "is a file in A, a directory in B"),
        ("deep/linked", separate, "hard links: deep/linked = file in A"),
        ("link", retarget, "link: target is deep/small in A, file in B"),
        (".", lambda p: (p / "new").touch(), "new is in B but not in A"),
        (".", lambda p: p.chmod(0o700), ".: mode is"),
        ("holes", lambda p: os.truncate(p, 1 << 20), "size"),
    ],
)
def test_each_kind_of_difference_is_told(
    trees: tuple[Path, Path], where: str, change: Callable[[Path], object], sentence: str
) -> None:
    if where == "file" and "owner" in sentence and os.geteuid() != 0:
        pytest.skip("changing owners needs root")
    path = trees[1] / where
    keep_time(path, lambda: change(path))
    found = compare_trees(*trees)
    assert any(sentence in told for told in found.differences), found.differences


def test_a_nanosecond_is_a_difference(trees: tuple[Path, Path]) -> None:
    path = trees[1] / "file"
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    # The file has two names, and both tell it.
    assert len(compare_trees(*trees).differences) == 2


def test_access_control_lists_count_and_everups_own_things_do_not(
    trees: tuple[Path, Path],
) -> None:
    one, other = trees
    before = other.stat()
    shutil.copytree(one / "deep", other / ".everup-orphans")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    if os.geteuid() == 0:
        os.setxattr(other / "file", "trusted.everup.id", b"1" * 24)
    assert compare_trees(one, other).differences == []
    subprocess.run(["setfacl", "-m", "u:65534:r", str(other / "file")], check=True)
    assert "posix_acl" in " ".join(compare_trees(one, other).differences)
