"""The wheels that the lab's servers are installed from: Everup's own, and what it depends on.

What enters: a directory with the built wheel. What leaves: paths; the dependencies are fetched once
through pip into the wheelhouse, because the lab's servers have no way to the outside.
"""

import hashlib
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from everup.errors import Refused
from everup.lab.commands import run_host

_FETCH_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Wheels:
    """Everup's wheel and the directory with everything that it needs."""

    wheel: Path
    wheelhouse: Path

    @property
    def wheel_digest(self) -> str:
        return hashlib.blake2b(self.wheel.read_bytes(), digest_size=8).hexdigest()

    @property
    def dependencies_digest(self) -> str:
        names = sorted(entry.name for entry in self.wheelhouse.glob("*.whl"))
        words = "\n".join([sys.version.split()[0], *names])
        return hashlib.blake2b(words.encode(), digest_size=8).hexdigest()


def find_wheels(project: Path) -> Wheels:
    """The newest wheel in PROJECT/dist, with its wheelhouse filled in PROJECT/build."""
    built = sorted(project.glob("dist/everup-*.whl"), key=lambda path: path.stat().st_mtime)
    if not built:
        raise Refused(
            f"There is no wheel of Everup in {project / 'dist'} to install on the lab's servers.",
            remedy="Run 'make wheel' first, or use 'everup lab up --bare'.",
        )
    wheels = Wheels(built[-1], project / "build/wheelhouse")
    _fill(wheels)
    return wheels


def _requirements(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    return "\n".join(line for line in lines if line.startswith("Requires-Dist:"))


def _fill(wheels: Wheels) -> None:
    """Fetch the dependencies when the wheel's list of them has changed."""
    wanted = _requirements(wheels.wheel)
    stamp = wheels.wheelhouse / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    fresh = wheels.wheelhouse.with_name("wheelhouse.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    what = ["--only-binary", ":all:", "--dest", str(fresh), f"{wheels.wheel}[lab]"]
    run_host([*pip, *what], timeout_s=_FETCH_TIMEOUT_S)
    for own in fresh.glob("everup-*.whl"):
        own.unlink()
    (fresh / "requirements.txt").write_text(wanted)
    shutil.rmtree(wheels.wheelhouse, ignore_errors=True)
    fresh.rename(wheels.wheelhouse)
