"""stress-ng's file system class on the mount: what passes on the lower file system passes here, and
the journal of it all gives the same tree. Minutes of it: `make soak PART=stress`."""

import shutil
from pathlib import Path

import pytest
from guarding import GuardProcess
from stressing import findings, run_stress, stressors

pytestmark = pytest.mark.fuse
BELOW_S = 4
MOUNT_S = 10
NOT_ON_FUSE = {"fiemap"}
"""Skipped by stress-ng itself: the file system has no extents to tell of."""


@pytest.mark.skipif(not shutil.which("stress-ng"), reason="stress-ng is not installed")
def test_stress_ng_finds_no_difference(guard: GuardProcess, tmp_path: Path) -> None:
    names = stressors()
    assert len(names) > 35
    native = tmp_path / "native"
    native.mkdir()
    below = run_stress(native, names, BELOW_S)
    place = guard.tree / "stress"
    place.mkdir()
    (place / "kept").write_bytes(b"kept")
    mounted = run_stress(place, names, MOUNT_S)
    assert findings(below, mounted) == []
    assert mounted.skipped - below.skipped <= NOT_ON_FUSE
    assert len(mounted.passed) > 35
    guard.compare()
    status = guard.call("status")
    assert status["worker"]["restarts"] == 0
    assert "Traceback" not in guard.log.read_text()
