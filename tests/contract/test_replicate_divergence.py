"""What an old active wrote alone, between two replicator processes, and in a real tar archive."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from replicating import differences, wait_for
from test_replicate_pair import Pair
from test_replicate_roles import promote_beta, wait_back

from everup.agent.bundles import Bundles
from everup.journal.writer import CAUSE_FSYNC

TOP = "/srv/tree1"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def shared_beginning(pair: Pair) -> None:
    """What both have before alpha is cut off."""
    guard = pair.guard
    pair.start()
    for name in ("written", "old name", "removed", "one", "attributed", "replaced", "fresh"):
        guard.create(name)
        guard.write(name, 0, name.encode() + bytes(200_000))
    guard.link("one", "two")
    # What the copy makes anew is settled in several steps, and is not what was here before.
    guard.attributes("removed", mode=0o600, owner=(11, 12))
    guard.set_xattr("removed", "user.note", b"value")
    guard.create("directory", 0o40755)
    guard.attributes("directory", owner=(11, 12))
    guard.create("directory/inner")
    pair.wait_in_sync()
    pair.settle()
    pair.alpha.kill()


def alpha_alone(pair: Pair) -> None:
    """Every kind of change, which nobody receives."""
    guard = pair.guard
    guard.write("written", 100_000, b"only alpha wrote this")
    guard.rename("old name", "new name")
    guard.unlink("removed")
    guard.write("one", 5, b"through one of its names")
    guard.link("one", "three")
    guard.attributes("attributed", mode=0o640, owner=(17, 18))
    guard.set_xattr("attributed", "user.note", b"\xff value")
    guard.create("pointer", 0o120777, target="written")
    guard.create("zero", stat.S_IFCHR | 0o600, device=os.makedev(1, 5))
    guard.create("pipe", stat.S_IFIFO | 0o600)
    guard.rename("fresh", "replaced")
    guard.unlink("directory/inner")
    guard.unlink("directory")
    guard.end_batch(CAUSE_FSYNC)
    guard.stop()


def rejoined(pair: Pair, snapshot: Path) -> Bundles:
    """alpha alone, then beta goes on, then alpha follows it; `snapshot`: alpha's last own tree."""
    shared_beginning(pair)
    alpha_alone(pair)
    subprocess.run(["cp", "-a", f"{pair.alpha.lower()}/.", str(snapshot)], check=True)
    other = promote_beta(pair, 2)
    try:
        other.write("written", 0, b"beta goes on")
        pair.alpha.start()
        pair.alpha.call("target")
        wait_back(pair, other)
        assert differences(pair.beta.lower(), pair.alpha.lower()) == []
    finally:
        other.stop()
    places = pair.alpha.places
    return Bundles((places.divergence, places.quarantine), "alpha", lambda tree: TOP)


def test_every_change_that_nobody_received_is_in_the_bundle(pair: Pair, tmp_path: Path) -> None:
    """Files, names, links, attributes and removals, before and after, by standard tools."""
    snapshot, out = tmp_path / "snapshot", tmp_path / "out"
    snapshot.mkdir()
    out.mkdir()
    bundles = rejoined(pair, snapshot)
    (bundle,) = bundles.short_list()
    assert bundle["complete"] and bundle["kind"] == "divergence"
    assert bundle["fork"]["epoch"] == 1
    lines = [entry["line"] for entry in bundles.show(bundle["id"])["objects_kept"]]
    for line in (
        f"changed       {TOP}/written",
        f"renamed       {TOP}/new name -> {TOP}/old name",
        f"removed here  {TOP}/removed",
        f"removed here  {TOP}/directory",
        f"only here     {TOP}/pointer  (lrwxrwxrwx; owner 0:0; link to written)",
        f"only here     {TOP}/zero  (crw-------; owner 0:0; device 1:5)",
        f"only here     {TOP}/pipe",
        f"renamed       {TOP}/replaced -> {TOP}/fresh",
        f"removed here  {TOP}/replaced",
    ):
        assert any(each.startswith(line) for each in lines), (line, lines)
    attributed = next(each for each in lines if "attributed" in each)
    for word in ("mode 0640 -> 0644", "uid 17 -> 0", "gid 18 -> 0", "attribute user.note"):
        assert word in attributed
    named = next(each for each in lines if each.startswith("changed") and "also named" in each)
    assert all(f"{TOP}/{name}" in named for name in ("one", "two", "three"))
    archive = tmp_path / "lost.tar"
    with archive.open("wb") as file:
        bundles.export(bundle["id"], file)
    extract = ["tar", "--xattrs", "--xattrs-include=*", "-xpf", str(archive), "-C", str(out)]
    subprocess.run(extract, check=True)
    before, after = (out / bundle["id"] / side / TOP[1:] for side in ("before", "after"))
    for name in ("written", "new name", "one", "two", "three", "attributed", "pointer", "replaced"):
        assert same(before / name, snapshot / name), name
    assert not (before / "removed").exists() and not (before / "old name").exists()
    one, three = os.stat(before / "one"), os.stat(before / "three")
    assert one.st_ino == three.st_ino
    assert os.stat(before / "zero").st_rdev == os.makedev(1, 5)
    for name in ("written", "old name", "removed", "attributed", "fresh", "replaced", "directory"):
        assert same(after / name, pair.beta.lower() / name), name
    listed = (out / bundle["id"] / "list.txt").read_text()
    assert all(line in listed for line in lines) and "removed here  this server" in listed


def same(one: Path, other: Path) -> bool:
    """Everything but what only the file system chooses."""
    left, right = os.lstat(one), os.lstat(other)
    kind = (left.st_mode, left.st_uid, left.st_gid) == (right.st_mode, right.st_uid, right.st_gid)
    if not kind or (stat.S_ISREG(left.st_mode) and left.st_mtime_ns != right.st_mtime_ns):
        return False
    if stat.S_ISLNK(left.st_mode):
        return one.readlink() == other.readlink()
    attributes = [
        {n: os.getxattr(p, n) for n in os.listxattr(p) if not n.startswith("trusted.everup")}
        for p in (one, other)
    ]
    content = not stat.S_ISREG(left.st_mode) or one.read_bytes() == other.read_bytes()
    return attributes[0] == attributes[1] and content


def test_people_are_told_of_a_bundle(pair: Pair, tmp_path: Path) -> None:
    """The event is critical, which is what the agent sends messages for."""
    lines: list[dict[str, object]] = []
    shared_beginning(pair)
    alpha_alone(pair)
    other = promote_beta(pair, 2)
    try:
        pair.alpha.start()
        from everup.wire.local import subscribe

        channel = subscribe(pair.alpha.places.replicator_socket, "subscribe")
        pair.alpha.call("target")

        def told() -> bool:
            line = channel.receive()
            assert line is not None
            lines.append(line)
            return line["event"] == "divergence"

        wait_for(told, 30, "the event")
        channel.close()
        assert lines[-1]["severity"] == "critical"
        assert "everup divergence show" in str(lines[-1]["sentence"])
        bundle = Path(str(lines[-1]["path"]))
        for directory in (bundle, bundle / "before", bundle / "after"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for file in bundle.rglob("*"):
            if file.is_file():
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    finally:
        other.stop()


def test_what_never_came_from_a_source_is_quarantined(pair: Pair) -> None:
    """Found by the first copy, and later by a verification; what was replicated is just removed."""
    strange = pair.beta.lower() / "by hand"
    strange.mkdir()
    (strange / "notes").write_bytes(b"nobody replicated this")
    (pair.alpha.lower() / "replicated").write_bytes(b"x" * 5000)
    pair.start()
    pair.wait_in_sync()
    places = pair.beta.places
    bundles = Bundles((places.divergence, places.quarantine), "beta", lambda tree: TOP)
    (bundle,) = bundles.short_list()
    assert (bundle["kind"], bundle["complete"], bundle["objects"]) == ("quarantine", True, 2)
    lines = [entry["line"] for entry in bundles.show(bundle["id"])["objects_kept"]]
    assert any(line.startswith(f"orphan        {TOP}/by hand/notes") for line in lines), lines
    kept = places.quarantine / bundle["id"] / "before"
    assert [file.read_bytes() for file in kept.iterdir()] == [b"nobody replicated this"]
    assert not strange.exists()
    pair.guard.unlink("replicated")
    pair.compare()
    assert len(bundles.short_list()) == 1, "what the source removes itself is no orphan"
