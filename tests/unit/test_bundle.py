"""Bundles: what is in them is what was there first, whole and readable, or the sync stops."""

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from everup.agent.bundles import Bundles
from everup.errors import Refused
from everup.replicate.bundle import Bundle, Key
from everup.replicate.divergence import ONLY_HERE, Divergence
from everup.replicate.lower import LowerTree, open_tree
from everup.replicate.quarantine import Quarantine
from everup.replicate.suspects import Suspects, settle
from everup.replicate.synctarget import asks_first
from everup.system.files import REAL_DOOR

pytestmark = pytest.mark.fuse  # needs root: trusted attributes
GROUP = "ab" * 16


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[LowerTree]:
    (tmp_path / "tree").mkdir()
    opened = open_tree(tmp_path / "tree", 1, GROUP, adopt=True)
    yield opened
    opened.close()


def keep(divergence: Divergence, path: Path, object_id: bytes, name: str) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        divergence.keep(1, object_id, name.encode(), descriptor)
    finally:
        os.close(descriptor)


def shown(root: Path) -> list[dict]:
    bundles = Bundles((root,), "alpha", lambda tree: "/srv/x")
    (bundle,) = bundles.short_list()
    return list(bundles.show(bundle["id"])["objects_kept"])


def test_the_first_version_stays_when_a_copy_begins_again(tmp_path: Path, tree: LowerTree) -> None:
    """The second attempt meets what the first one has already overwritten."""
    file, object_id = tmp_path / "file", b"o" * 16
    file.write_bytes(b"written here")
    suspects = Suspects(changed_after_ns=0)

    def remember(name: str) -> None:
        suspects.bundle = name

    keep(Divergence(tmp_path / "d", suspects, remember=remember), file, object_id, "file")
    assert suspects.bundle
    file.write_bytes(b"from the group")
    second = Divergence(tmp_path / "d", suspects, remember=remember)
    keep(second, file, object_id, "file")
    assert second.finish({1: tree}) == 1
    (entry,) = shown(tmp_path / "d")
    kept = tmp_path / "d" / suspects.bundle / entry["before"]["file"]
    assert kept.read_bytes() == b"written here"
    assert entry["change"] == ONLY_HERE


def test_nothing_is_kept_once_a_copy_was_complete(tmp_path: Path) -> None:
    suspects = Suspects({(1, b"o" * 16)}, changed_after_ns=0, bundle="x")
    settle(suspects)
    file = tmp_path / "file"
    file.write_bytes(b"from the group")
    divergence = Divergence(tmp_path / "d", suspects)
    keep(divergence, file, b"o" * 16, "file")
    assert divergence.path is None and not (tmp_path / "d").exists()


def test_the_first_look_decides_not_what_the_copy_has_changed(tmp_path: Path) -> None:
    """The copy's own changes move the time of change behind the border."""
    file = tmp_path / "file"
    file.write_bytes(b"as the group has it")
    border = file.stat().st_ctime_ns + 1
    divergence = Divergence(tmp_path / "d", Suspects(changed_after_ns=border))
    keep(divergence, file, b"o" * 16, "file")
    while file.stat().st_ctime_ns < border:
        file.chmod(0o600)
    keep(divergence, file, b"o" * 16, "file")
    assert divergence.path is None


def test_what_an_earlier_attempt_has_changed_is_not_kept(tmp_path: Path) -> None:
    """Unless it may have been changed here as well: a further name moves the time, too."""
    single, linked = tmp_path / "single", tmp_path / "linked"
    for file in (single, linked):
        file.write_bytes(b"as the group has it")
    os.link(linked, tmp_path / "other")
    suspects = Suspects(changed_after_ns=0, copied_after_ns=single.stat().st_ctime_ns)
    divergence = Divergence(tmp_path / "d", suspects)
    keep(divergence, single, b"s" * 16, "single")
    assert divergence.path is None
    keep(divergence, linked, b"l" * 16, "linked")
    assert divergence.path is not None


def test_without_room_for_it_the_group_s_version_is_left_out(
    tmp_path: Path, tree: LowerTree
) -> None:
    """What only this server had must be kept; what replaces it is in the tree anyway."""
    inside = tmp_path / "tree/file"
    inside.write_bytes(os.urandom(1 << 20))
    suspects = Suspects(changed_after_ns=0)
    divergence = Divergence(tmp_path / "d", suspects, quota_bytes=2 << 20)
    keep(divergence, inside, b"", "file")
    assert divergence.finish({1: tree}) == 1
    (entry,) = shown(tmp_path / "d")
    assert "file" in entry["before"] and "file" not in entry["after"]
    out = tmp_path / "out.tar"
    with out.open("wb") as file:
        Bundles((tmp_path / "d",), "alpha", lambda tree: "/srv/x").export(
            divergence.path.name if divergence.path else "", file
        )
    with tarfile.open(out) as archive:
        names = archive.getnames()
    assert any(name.endswith("before/srv/x/file") for name in names)
    assert not any(name.endswith("after/srv/x/file") for name in names)


def test_any_name_survives_the_archive(tmp_path: Path) -> None:
    name = b"not utf-8 \xff\n and a line"
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"content")
    bundle = Bundle(tmp_path / "d", "divergence", "words", 1 << 30, REAL_DOOR)
    descriptor = os.open(path, os.O_PATH)
    bundle.keep(Key.of(1, b"", name), name, descriptor, [])
    os.close(descriptor)
    bundle.finish({})
    assert bundle.path is not None
    out = tmp_path / "out.tar"
    with out.open("wb") as target:
        bundles = Bundles((tmp_path / "d",), "alpha", lambda tree: "/srv/x")
        bundles.export(bundle.path.name, target)
    with tarfile.open(out) as archive:
        found = [os.fsencode(each) for each in archive.getnames()]
    assert os.fsencode(bundle.path.name) + b"/before/srv/x/" + name in found


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    divergence = Divergence(tmp_path / "d", Suspects(changed_after_ns=0))
    keep(divergence, file, b"o" * 16, "one")
    keep(divergence, file, b"o" * 16, "two")
    assert divergence.path is not None
    with (divergence.path / "manifest.jsonl").open("ab") as lines:
        lines.write(b'{"tree": 1, "obj')
    (entry,) = shown(tmp_path / "d")
    assert entry["line"].startswith("kept          /srv/x/one")
    assert "also named /srv/x/two" in entry["line"]


def orphan(quarantine: Quarantine, path: Path) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        quarantine.orphan(1, b"strange", descriptor)
    finally:
        os.close(descriptor)


def test_orphans_by_setting(tmp_path: Path) -> None:
    file, root = tmp_path / "strange", tmp_path / "q"
    file.write_bytes(b"by hand")
    with pytest.raises(Refused) as caught:
        orphan(Quarantine(root, "report"), file)
    assert caught.value.code == "orphans-found" and "strange" in caught.value.sentence
    deleting = Quarantine(root, "delete")
    orphan(deleting, file)
    assert deleting.finish().endswith("deleted") and not root.exists()
    assert Quarantine(root, "quarantine").finish() == ""
    for quarantine in (Quarantine(root, "quarantine"), Quarantine(root, "report", asked=True)):
        orphan(quarantine, file)
        assert "1 object that never came" in quarantine.finish()
    kept = [path.read_bytes() for path in root.glob("*/before/*")]
    assert kept == [b"by hand"] * 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.iterdir()} == {0o700}


def test_no_room_for_an_orphan_stops_the_sync(tmp_path: Path) -> None:
    file = tmp_path / "strange"
    file.write_bytes(bytes(range(256)) * 64)
    with pytest.raises(Refused) as caught:
        orphan(Quarantine(tmp_path / "q", "quarantine", quota_bytes=100), file)
    assert caught.value.code == "no-room-for-quarantine"


def test_a_copy_that_would_remove_much_asks_first() -> None:
    """By the group's setting; a handful of objects is never worth a question."""
    assert asks_first(501, 1000, 50) and not asks_first(500, 1000, 50)
    assert asks_first(101, 1000, 10) and not asks_first(101, 1000, 20)
    assert not asks_first(100, 100, 0) and not asks_first(1000, 1000, 100)
