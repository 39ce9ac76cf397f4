"""The ground a lab stands on: its directory on the host and the namespaces of its holder.

What enters: the lab's name. What leaves: a way to run programs and to reach files in there. Nothing
is remembered in this process: the holder is found by its control group, so that any process can
work on a lab that another one started, or that was left behind half-way.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from everup.lab import holder as holder_program
from everup.lab.cgroups import Group, labs
from everup.lab.commands import DEFAULT_TIMEOUT_S, LabError, run_host
from everup.lab.layout import check_lab_name

_READY_TIMEOUT_S = 20.0


def labs_directory() -> Path:
    """Where all labs keep their disk images: a real disk, never a tmpfs."""
    return Path(os.environ.get("EVERUP_LAB_DIRECTORY", "/var/lib/everup-lab"))


def known_labs() -> list[str]:
    """Labs that run or have left something behind."""
    directory = labs_directory()
    on_disk = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
    return sorted({name for name in [*labs(), *on_disk] if not name.startswith(".")})


class Base:
    """Directory, holder process and namespaces of one lab."""

    def __init__(self, name: str) -> None:
        self.name = check_lab_name(name)
        self.directory = labs_directory() / name
        self.group = Group(name)
        self._holder_group = Group(name, "holder")

    @property
    def running(self) -> bool:
        return bool(self._holder_group.members())

    @property
    def exists(self) -> bool:
        return self.directory.exists() or self.group.directory.exists()

    @property
    def holder_id(self) -> int:
        members = self._holder_group.members()
        if not members:
            raise LabError(
                f"The lab {self.name} is not running.",
                remedy=f"Start it with 'everup lab up --name {self.name}'.",
            )
        return members[0]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time builds up, takes down, or switches power."""
        labs_directory().mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(labs_directory() / f".{self.name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def start(self) -> None:
        """Make the directory and the namespaces."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._holder_group.make()
        program = [sys.executable, "-I", "-S", str(Path(holder_program.__file__))]
        process = subprocess.Popen(
            program + [str(path) for path in self._holder_group.joining()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.directory / "holder.log").open("wb"),
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout as words:
            if words.readline() != b"ready\n":
                told = (self.directory / "holder.log").read_text(errors="replace").strip()
                raise LabError(f"The lab's namespaces could not be made: {told[-300:]}")

    def run(
        self,
        arguments: list[str],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        check: bool = True,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the host inside the lab's mount and network namespaces."""
        enter = ["nsenter", f"--target={self.holder_id}", "--mount", "--net", "--wd=/"]
        return run_host([*enter, *arguments], timeout_s=timeout_s, check=check, stdin=stdin)

    def path(self, inside: str) -> Path:
        """The host's way to a file that only the lab's mount namespace has."""
        return Path(f"/proc/{self.holder_id}/root") / inside.lstrip("/")

    def is_mounted(self, inside: str) -> bool:
        """Whether something is mounted at `inside`, seen from the lab's namespace.

        (os.path.ismount resolves the way through /proc back to the host and is always wrong here,
        and a disk that has lost its power answers no stat.)
        """
        lines = Path(f"/proc/{self.holder_id}/mountinfo").read_text().splitlines()
        return any(line.split()[4] == inside for line in lines)

    def remove(self) -> None:
        """Kill everything that belongs to the lab and remove what it kept. Safe to repeat."""
        self.group.end()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            raise LabError(f"{self.directory} could not be removed.")
        (labs_directory() / f".{self.name}.lock").unlink(missing_ok=True)
        for shared in (labs_directory(), Group().directory, Group().named_directory):
            if shared is not None:
                with suppress(OSError):  # another lab is in there
                    shared.rmdir()
