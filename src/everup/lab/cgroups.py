"""Control groups of a lab: who belongs to it, freezing, and killing all of it at once.

What enters: the lab's and the servers' names. What leaves: directories below the host's unified
hierarchy (and below the named systemd hierarchy where the host is hybrid, because nspawn makes its
groups there too). A lab is found and ended by its group alone, also after a crash of who started
it. No controller is enabled here: nothing is limited, only counted in.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from everup.errors import DeadlinePassed
from everup.lab.commands import LabError

TOP = "everup-lab"
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_LOOK_S = 0.005
_STILL_LOOKS = 20


def unified_root() -> Path:
    """Where the unified hierarchy is mounted on this host."""
    for candidate in (_CGROUP_ROOT, _CGROUP_ROOT / "unified"):
        if (candidate / "cgroup.controllers").exists():
            return candidate
    raise LabError(
        "No unified control group hierarchy is mounted on this machine.",
        remedy="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
    )


def _named_root() -> Path | None:
    """The systemd hierarchy of a hybrid host."""
    named = _CGROUP_ROOT / "systemd"
    return named if (named / "cgroup.procs").exists() else None


def labs() -> list[str]:
    """Names of the labs that have a group."""
    top = unified_root() / TOP
    return sorted(entry.name for entry in top.iterdir() if entry.is_dir()) if top.is_dir() else []


class Group:
    """One control group, by its path below the lab's top."""

    def __init__(self, *names: str) -> None:
        self.directory = unified_root().joinpath(TOP, *names)
        named = _named_root()
        self.named_directory = named.joinpath(TOP, *names) if named else None

    def make(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.named_directory is not None:
            self.named_directory.mkdir(parents=True, exist_ok=True)

    def joining(self) -> list[Path]:
        """The files into which a process writes its id to become a member."""
        directories = [self.directory, self.named_directory]
        return [entry / "cgroup.procs" for entry in directories if entry is not None]

    def members(self) -> list[int]:
        """Process ids in this group itself."""
        return _members_of(self.directory)

    def all_members(self) -> list[int]:
        """Process ids in this group and below it."""
        if not self.directory.is_dir():
            return []
        found = _members_of(self.directory)
        for below in self.directory.rglob("cgroup.procs"):
            found += _members_of(below.parent)
        return found

    def freeze(self, frozen: bool, *, deadline_s: float = 5.0) -> None:
        """Stop or continue every process at once; returns when it is so.

        A process that waits for an answer of FUSE cannot be frozen by the kernel while the guard,
        which would answer, stands still already; it does nothing either, so the wait for the
        kernel's word ends when no process of the group has run for a while.
        """
        (self.directory / "cgroup.freeze").write_text("1" if frozen else "0")
        still = 0
        while not self._says("frozen", frozen):
            still = still + 1 if frozen and not self._runs() else 0
            if still >= _STILL_LOOKS:
                return
            deadline_s -= _LOOK_S
            if deadline_s < 0:
                raise DeadlinePassed(f"The group {self.directory} is not 'frozen {int(frozen)}'.")
            time.sleep(_LOOK_S)

    def _runs(self) -> bool:
        """Whether any thread of the group is on a processor or waits for one."""
        return any(state == "R" for each in self.all_members() for state in _states_of(each))

    def kill(self, *, deadline_s: float = 20.0) -> None:
        """SIGKILL everything in here; returns when nothing is left."""
        with suppress(FileNotFoundError):
            (self.directory / "cgroup.kill").write_text("1")
            self._wait_for_event("populated", False, deadline_s)

    def remove(self) -> None:
        """Remove the group with everything below it. OSError while a process is left in it."""
        for directory in (self.directory, self.named_directory):
            if directory is not None:
                remove_directories(directory)

    def end(self, *, deadline_s: float = 20.0) -> None:
        """Kill what is in here, also what joins meanwhile, and remove it."""
        end = time.monotonic() + deadline_s
        while True:
            self.kill(deadline_s=max(end - time.monotonic(), _LOOK_S))
            try:
                self.remove()
                return
            except OSError as busy:
                if time.monotonic() > end:
                    raise DeadlinePassed(f"{self.directory} is still in use: {busy}.") from busy
            time.sleep(_LOOK_S)

    def _says(self, name: str, wanted: bool) -> bool:
        return f"{name} {int(wanted)}" in (self.directory / "cgroup.events").read_text()

    def _wait_for_event(self, name: str, wanted: bool, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        while not self._says(name, wanted):
            if time.monotonic() > end:
                raise DeadlinePassed(f"The group {self.directory} is not '{name} {int(wanted)}'.")
            time.sleep(0.002)


def remove_directories(directory: Path) -> None:
    """Remove a directory of (empty) directories, together with others who do the same just now."""
    with suppress(FileNotFoundError):
        with os.scandir(directory) as entries:
            below = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        for entry in below:
            remove_directories(entry)
        directory.rmdir()


def _states_of(process: int) -> list[str]:
    """The state letter of every thread; none when the process has ended."""
    found = []
    for thread in Path(f"/proc/{process}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(thread.read_text().rpartition(")")[2].split()[0])
    return found


def _members_of(directory: Path) -> list[int]:
    try:
        return [int(word) for word in (directory / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []
