"""Starting the systemd-nspawn machine of a lab server, and knowing when it is up.

What enters: the lab's ground, the plan, the mounted root. What leaves: a machine whose supervisor
and first process are found through its control group.
"""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from everup.errors import DeadlinePassed
from everup.lab import launch as launch_program
from everup.lab.base import Base
from everup.lab.cgroups import Group
from everup.lab.commands import LabError
from everup.lab.layout import ServerPlan
from everup.lab.root import Root

# The lab's servers do what real ones do: FUSE, handles, nftables, locked memory, real time.
_NSPAWN = [
    "systemd-nspawn",
    "--quiet",
    "--boot",
    "--register=no",
    "--keep-unit",
    "--notify-ready=yes",
    "--link-journal=no",
    "--resolv-conf=off",
    "--timezone=off",
    "--capability=all",
    "--system-call-filter=@known",
]
_MESSAGE_BYTES = 4096
_HEAR_S = 2.0
_LAUNCH_S = 30.0
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
}


class Boot:
    """The machine of one server."""

    def __init__(self, base: Base, plan: ServerPlan, root: Root) -> None:
        self._base = base
        self._plan = plan
        self._root = root
        self._group = Group(base.name, plan.name)
        self._machine = Group(base.name, plan.name, "machine")
        self.console = base.directory / "console" / f"{plan.name}.log"
        self._ready: threading.Event | None = None

    def supervisor(self) -> int | None:
        """The nspawn process, when the server has power."""
        below = Group(self._base.name, self._plan.name, "machine", "supervisor").members()
        members = below or self._machine.members()
        return members[0] if members else None

    def leader(self) -> int | None:
        """The server's own process 1."""
        supervisor = self.supervisor()
        if supervisor is None:
            return None
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found = [int(word) for word in children.read_text().split()]
            return found[0] if found else None
        return None

    def start(self) -> None:
        """Begin to boot; `wait` tells the end."""
        self._machine.make()
        self.console.parent.mkdir(exist_ok=True)
        self._listen()
        name = self._plan.name
        arguments = [
            *_NSPAWN,
            f"--directory={self._root.inside}",
            f"--machine={name}",
            f"--network-namespace-path=/run/netns/{name}",
            *self._root.nspawn_binds(),
            "systemd.unit=multi-user.target",
        ]
        with self.console.open("ab") as words:
            process = subprocess.Popen(
                self._launch(arguments),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env={**_ENVIRONMENT, "NOTIFY_SOCKET": str(self._socket_path)},
                start_new_session=True,
            )
        self._wait_for_the_first_process(process)

    def _wait_for_the_first_process(self, process: subprocess.Popen[bytes]) -> None:
        """From here on the server has power: programs can be run in it, and it can be cut."""
        end = time.monotonic() + _LAUNCH_S
        while self.leader() is None:
            if process.poll() is not None or time.monotonic() > end:
                raise LabError(
                    f"The server {self._plan.name} did not start: {self._last_words()}",
                    remedy=f"See {self.console}.",
                )
            time.sleep(0.005)

    def _launch(self, arguments: list[str]) -> list[str]:
        groups = [str(path) for path in self._machine.joining()]
        program = [sys.executable, "-I", "-S", str(Path(launch_program.__file__))]
        return [*program, str(self._base.holder_id), self._plan.name, *groups, "--", *arguments]

    @property
    def _socket_path(self) -> Path:
        return self._base.directory / "notify" / self._plan.name

    def _listen(self) -> None:
        """Hear what the server says of itself until it is up, whether anybody waits or not.

        nspawn passes the messages on and waits for room: a socket that nobody reads would in the
        end stop the server's own process 1.
        """
        self._socket_path.parent.mkdir(exist_ok=True)
        self._socket_path.unlink(missing_ok=True)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        opened.bind(str(self._socket_path))
        self._ready = threading.Event()
        threading.Thread(target=self._hear, args=(opened, self._ready), daemon=True).start()

    def _hear(self, opened: socket.socket, ready: threading.Event) -> None:
        with opened:
            opened.settimeout(_HEAR_S)
            while not ready.is_set():
                try:
                    if b"READY=1" in opened.recv(_MESSAGE_BYTES):
                        ready.set()
                except TimeoutError:
                    if self.supervisor() is None:
                        return

    def wait(self, timeout_s: float) -> None:
        """Return when systemd in the server says that everything it had to start has started."""
        if self._ready is None:
            raise LabError("Only the process that gave the server power can wait for it.")
        end = time.monotonic() + timeout_s
        while not self._ready.wait(min(0.2, timeout_s)):
            if time.monotonic() > end:
                raise DeadlinePassed(
                    f"The server {self._plan.name} was not up after {timeout_s} s.",
                    remedy=f"See {self.console}.",
                )
            if self.supervisor() is None:
                raise LabError(
                    f"The server {self._plan.name} went away: {self._last_words()}",
                    remedy=f"See {self.console}.",
                )
        self._ready = None

    def _last_words(self) -> str:
        return self.console.read_text(errors="replace").strip()[-300:]
