"""One server of a lab: power, pause, and running programs in it.

What enters: the lab's ground, the server's plan. What leaves: a booted systemd-nspawn machine with
real systemd; after `power_cut` nothing of it, except what its disk had been made to keep.
"""

import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from everup.errors import DeadlinePassed
from everup.lab import enter as enter_program
from everup.lab.base import Base
from everup.lab.boot import Boot
from everup.lab.cgroups import Group
from everup.lab.commands import LabError
from everup.lab.disk import Disk
from everup.lab.layout import ServerPlan
from everup.lab.root import Root
from everup.lab.wiring import Wiring

_NO_POWER = "The server {name} has no power."


@dataclass(frozen=True)
class Outcome:
    """How a program inside a server ended."""

    arguments: list[str]
    exit_code: int
    output: str
    errors: str

    def checked(self) -> "Outcome":
        """This outcome, or a LabError with the program's last words."""
        if self.exit_code != 0:
            words = (self.errors or self.output).strip()[-800:]
            raise LabError(f"'{' '.join(self.arguments)}' ended with {self.exit_code}: {words}")
        return self


class Server:
    """A server by name; holds no state of its own."""

    def __init__(self, base: Base, wiring: Wiring, plan: ServerPlan) -> None:
        self.plan = plan
        self.name = plan.name
        self.disk = Disk(base, plan.name)
        self.root = Root(base, plan, self.disk.inside)
        self._base = base
        self._wiring = wiring
        self._group = Group(base.name, plan.name)
        self._boot = Boot(base, plan, self.root)

    @property
    def powered(self) -> bool:
        return self._boot.supervisor() is not None

    @property
    def frozen(self) -> bool:
        freeze = self._group.directory / "cgroup.freeze"
        return freeze.exists() and freeze.read_text().strip() == "1"

    @property
    def leader(self) -> int:
        """Process id (on the host) of the server's first process."""
        leader = self._boot.leader()
        if leader is None:
            raise LabError(
                _NO_POWER.format(name=self.name),
                remedy=f"everup lab power-on {self.name} --name {self._base.name}",
            )
        return leader

    def create(self, file_system: str, services: tuple[str, ...] = ()) -> None:
        """A new disk with a prepared root on it, mounted."""
        self.disk.create(file_system)
        self.root.mount()
        self.root.prepare(services)

    def power_on(self, *, wait: bool = True, timeout_s: float = 60.0) -> None:
        """Boot from what the disk holds. With `wait` returns when the server is up."""
        if self.powered:
            raise LabError(f"The server {self.name} has power already.")
        # Left by a shutdown in order, or by a power cut that was not brought to its end.
        self._take_apart()
        self.disk.mount()
        self.root.mount()
        self._wiring.connect(self.plan)
        self._boot.start()
        if wait:
            self._boot.wait(timeout_s)

    def wait_until_up(self, timeout_s: float = 60.0) -> None:
        """Return when the server has finished booting."""
        self._boot.wait(timeout_s)

    def power_cut(self) -> None:
        """As if the plug was pulled: no goodbye on any cable, nothing more reaches the disk.

        The order is the point: cables first (no FIN, no RST may leave), then the disk (the page
        cache is lost), then the processes.
        """
        if not self.powered:
            raise LabError(_NO_POWER.format(name=self.name))
        self._wiring.unplug(self.plan)
        self.disk.lose_power()
        self._take_apart()

    def _take_apart(self) -> None:
        """Nothing of the machine is left but its disk. Safe to repeat, from any state."""
        try:
            self._group.end()
        finally:
            self._wiring.disconnect(self.plan)
            if self._base.is_mounted(self.root.inside):
                self.root.unmount()
            if self._base.is_mounted(self.disk.inside):
                self.disk.unmount()

    def freeze(self) -> None:
        """Every process stands still; the network cards stay up."""
        self._group.freeze(True)

    def thaw(self) -> None:
        self._group.freeze(False)

    def command(self, arguments: list[str], group: Group) -> list[str]:
        """The host's program that runs `arguments` in the server, counted in `group`."""
        group.make()
        program = [sys.executable, "-I", "-S", str(Path(enter_program.__file__))]
        procs = str(group.directory / "cgroup.procs")
        return [*program, procs, str(self.leader), *arguments]

    def run(
        self,
        arguments: list[str],
        *,
        stdin: str | None = None,
        timeout_s: float = 60.0,
        check: bool = True,
    ) -> Outcome:
        """Run a program in the server and wait for its end.

        Raises LabError when it fails and `check` is set, DeadlinePassed when it takes too long
        (it is killed then, with everything it started).
        """
        group = Group(self._base.name, self.name, f"exec-{uuid.uuid4().hex[:12]}")
        try:
            done = subprocess.run(
                self.command(arguments, group),
                input=stdin if stdin is not None else "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            group.kill()
            raise DeadlinePassed(
                f"'{' '.join(arguments)}' on {self.name} took longer than {timeout_s} s."
            ) from late
        finally:
            _remove_if_empty(group)
        outcome = Outcome(arguments, done.returncode, done.stdout, done.stderr)
        return outcome.checked() if check else outcome

    def start(self, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program in the server that goes on beside us; its words go to `log`."""
        group = Group(self._base.name, self.name, f"exec-{uuid.uuid4().hex[:12]}")
        with log.open("wb") as words:
            return subprocess.Popen(
                self.command(arguments, group),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
            )

    def attach(self, arguments: list[str]) -> int:
        """Run a program with our own stdin, stdout and stderr; returns its exit code."""
        group = Group(self._base.name, self.name, f"exec-{uuid.uuid4().hex[:12]}")
        try:
            return subprocess.run(self.command(arguments, group), check=False).returncode
        finally:
            _remove_if_empty(group)


def _remove_if_empty(group: Group) -> None:
    """A program may have left a service behind in its group; that one ends with the server."""
    for _ in range(20):
        try:
            group.remove()
            return
        except OSError:
            time.sleep(0.005)
