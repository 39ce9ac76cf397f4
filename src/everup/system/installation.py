"""Put Everup into a server's operating system: user, directories, systemd units, the command.

What enters: the places and the Python that runs us. What leaves: files, and a list of what was
changed. Called by `everup install` (any number of times, the second does nothing) and, for the
services, by membership once a server has settings. Below another root (tests, images being built)
only files are written.
"""

import pwd
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from everup.errors import EverupError, Refused
from everup.places import Places
from everup.system.command import run, succeeds
from everup.system.files import save_bytes

USER = "everup"
SERVER_UNITS = (
    "everup-hide.service",
    "everup-guard.service",
    "everup-replicator.service",
    "everup-keeper.service",
    "everup-agent.service",
    "everup-console.service",
)
WITNESS_UNITS = ("everup-witness.service", "everup-witness-api.service")

_POLL_S = 0.25
_PROGRAMS = {"systemctl": "systemd", "nft": "nftables", "ip": "iproute2", "useradd": "passwd"}


@dataclass(frozen=True)
class Step:
    """One thing that the installation looked at."""

    what: str
    changed: bool


def install(places: Places, prefix: Path | None = None) -> list[Step]:
    """Install everything that does not need settings; nothing is started.

    `prefix` is the virtual environment that has Everup (that of this process by default).
    Raises Refused, before anything is changed, when the server lacks something.
    """
    root = root_of(places)
    prefix = prefix or Path(sys.prefix)
    if root == Path("/"):
        _refuse_what_cannot_work()
    steps = [_make_user()] if root == Path("/") else []
    existed = places.state.is_dir() and places.run.is_dir()
    places.make()
    steps.append(Step(f"directories {places.etc}, {places.var}, {places.run}", not existed))
    steps += [_write_unit(root, name, prefix) for name in (*SERVER_UNITS, *WITNESS_UNITS)]
    steps.append(_link_command(root, prefix))
    if root == Path("/") and any(step.changed for step in steps):
        run(["systemctl", "daemon-reload"])
    return steps


def require_installed(places: Places) -> None:
    """Raises Refused when `install` was never run here; asked before anything is written."""
    root = root_of(places)
    units = [root / "etc/systemd/system" / name for name in (*SERVER_UNITS, *WITNESS_UNITS)]
    if not all(unit.is_file() for unit in units):
        raise Refused(
            "Everup is not installed on this server yet: its units are missing",
            remedy="everup install, then the same command again",
            code="not-installed",
        )


def root_of(places: Places) -> Path:
    """The file system root to which these places belong."""
    return places.etc.parent.parent


def enable(units: Sequence[str], *, deadline_ms: int = 30_000) -> list[str]:
    """Start these units now and at every boot; those that do not run at the deadline.

    Not an error: one part that fails must not hide what was achieved (keys, tokens).
    """
    run(["systemctl", "enable", "--quiet", *units])
    run(["systemctl", "start", "--no-block", *units])
    end = time.monotonic() + deadline_ms / 1000
    while (waiting := [unit for unit in units if not _is_running(unit)]) and time.monotonic() < end:
        time.sleep(_POLL_S)
    return waiting


def _is_running(unit: str) -> bool:
    return succeeds(["systemctl", "is-active", "--quiet", unit])


def disable(units: Sequence[str]) -> None:
    """Stop these units, latest first, and do not start them at boot."""
    run(["systemctl", "disable", "--now", "--quiet", *reversed(units)], deadline_ms=120_000)


def enabled(unit: str) -> bool:
    return succeeds(["systemctl", "is-enabled", "--quiet", unit])


def order_after_mounts(places: Places, paths: Sequence[str]) -> bool:
    """Let the early units wait for the disks under the protected paths; True when it changed.

    Without it a path on a disk of its own would be closed first and then mounted over.
    """
    text = "# Written by Everup from the group's settings.\n[Unit]\n"
    text += "".join(f'RequiresMountsFor="{_quoted(path)}"\n' for path in paths)
    changed = False
    for unit in ("everup-hide.service", "everup-guard.service"):
        directory = root_of(places) / "etc/systemd/system" / f"{unit}.d"
        directory.mkdir(parents=True, exist_ok=True)
        changed |= _write_if_other(directory / "50-protected-paths.conf", text.encode())
    if changed and root_of(places) == Path("/"):
        run(["systemctl", "daemon-reload"])
    return changed


def _quoted(path: str) -> str:
    return path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _refuse_what_cannot_work() -> None:
    missing = sorted({p for tool, p in _PROGRAMS.items() if shutil.which(tool, path=_PATH) is None})
    if missing:
        raise Refused(
            f"this server lacks {', '.join(missing)}",
            remedy=f"apt-get install -y {' '.join(missing)}",
            code="missing-package",
        )
    if not Path("/dev/fuse").exists() and not succeeds(["modprobe", "fuse"]):
        raise Refused(
            "the kernel offers no /dev/fuse",
            remedy="load the module fuse (modprobe fuse) or use a kernel that has it",
            code="missing-fuse",
        )


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _make_user() -> Step:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        run(["useradd", *options, "--shell", "/usr/sbin/nologin", USER])
        return Step(f"user {USER}", True)
    return Step(f"user {USER}", False)


def _write_unit(root: Path, name: str, prefix: Path) -> Step:
    text = resources.files("everup.system").joinpath("units", name).read_text()
    text = text.replace("@PYTHON@", str(prefix / "bin/python")).replace("@PREFIX@", str(prefix))
    directory = root / "etc/systemd/system"
    directory.mkdir(parents=True, exist_ok=True)
    return Step(str(directory / name), _write_if_other(directory / name, text.encode()))


def _write_if_other(path: Path, data: bytes) -> bool:
    if path.is_file() and path.read_bytes() == data:
        return False
    save_bytes(path, data, operation="install-file", mode=0o644)
    return True


def _link_command(root: Path, prefix: Path) -> Step:
    link = root / "usr/local/bin/everup"
    target = prefix / "bin/everup"
    if link.is_symlink() and link.readlink() == target:
        return Step(str(link), False)
    if link.exists() and not link.is_symlink():
        raise EverupError(
            f"{link} exists and is not ours",
            remedy=f"remove it, then run everup install again; ours is a link to {target}",
            code="foreign-file",
        )
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return Step(str(link), True)
