"""Paths that may not be protected, each with its reason; who has files open below a path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from guarding import GuardProcess

from everup.capture.openfiles import open_files
from everup.capture.preflight import refusals
from everup.places import Places
from everup.system.mounts import MNT_DETACH, bind_private, unmount

pytestmark = pytest.mark.fuse


def codes(path: Path, *protected: Path, places: Places | None = None) -> set[str]:
    found = refusals(path, list(protected), places or Places.below(Path("/nowhere")))
    assert all(refusal.sentence and refusal.remedy for refusal in found)
    return {refusal.code for refusal in found}


def test_a_plain_directory_is_accepted_and_left_as_it_was(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    assert codes(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mtime_ns == before
    assert os.listxattr(tmp_path) == []


def test_what_is_not_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert codes(tmp_path / "missing") == {"path-missing"}
    assert codes(tmp_path / "file") == {"path-not-directory"}
    assert codes(tmp_path / "link") == {"path-link"}
    assert codes(Path("relative")) == {"path-not-absolute"}


@pytest.mark.parametrize("path", ["/", "/proc", "/sys", "/dev", "/run", "/boot", "/etc", "/usr"])
def test_the_operating_system_is_refused(path: str) -> None:
    assert codes(Path(path)) in ({"path-system"}, {"path-system", "path-own"}), "no untrue remedy"


def test_everups_own_places_are_refused(tmp_path: Path) -> None:
    places = Places.below(tmp_path / "root")
    places.make()
    assert codes(tmp_path, places=places) == {"path-own"}
    assert codes(places.journal, places=places) == {"path-own"}
    assert "path-own" in codes(Path(sys.prefix))


def test_protected_paths_may_not_lie_in_each_other(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    assert codes(inner, tmp_path) == {"path-inside"}
    assert codes(tmp_path, inner) == {"path-contains"}
    assert codes(inner, inner) == {"path-protected"}
    assert codes(inner, tmp_path / "inner-other") == set()


def test_a_mount_below_is_refused_but_a_mount_point_itself_is_not(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    bind_private(inner, inner)
    try:
        assert codes(tmp_path) == {"path-mount-below"}
        assert codes(inner) == set()
    finally:
        unmount(inner, MNT_DETACH)


def test_a_file_system_without_ids_is_refused() -> None:
    place = Path("/dev/shm/everup-preflight-test")
    place.mkdir(exist_ok=True)
    try:
        # Not below /dev for this purpose: the same directory through a bind.
        target = Path("/tmp/everup-preflight-test")
        target.mkdir(exist_ok=True)
        bind_private(place, target)
        try:
            assert codes(target) == {"path-file-system"}
        finally:
            unmount(target, MNT_DETACH)
            target.rmdir()
    finally:
        place.rmdir()


def test_an_open_gate_is_refused(guard: GuardProcess) -> None:
    assert "gate-open" in codes(guard.tree)


def test_processes_with_open_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(4096))
    program = (
        "import mmap,sys,time; f=open('data','r+b'); m=mmap.mmap(f.fileno(),4096); "
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        found = {(o.pid, o.how, o.path) for o in open_files(tmp_path)}
        assert (process.pid, "works in", str(tmp_path)) in found
        assert (process.pid, "writes", str(tmp_path / "data")) in found
    finally:
        process.kill()
        process.wait()
    assert open_files(tmp_path) == []
