"""Who is what in the lab right now, and what happens to servers in the words of roles.

What enters: a stage with a protected group. What leaves: names, states, and the small verbs that
the faults are made of. One object per endurance run; `cast` is drawn anew for every round.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from everup.errors import DeadlinePassed, EverupError
from everup.lab.commands import LabError
from everup.lab.endure.plan import ROLES
from everup.lab.group import Json
from everup.lab.layout import server_plan
from everup.lab.server import Server
from everup.lab.stage import Stage
from everup.wire.local import call

POLL_S = 0.05
_ASK_MS = 2000
_ENOUGH_VOTERS = 3
_FILLERS = ("/srv/filler", "/srv/filler.rest", "/srv/filler.crumbs")


@dataclass(frozen=True)
class Cast:
    """The servers by role at the beginning of a round."""

    active: str
    passive: str
    witness: str = "witness"

    def name(self, role: str) -> str:
        """The server that has the role `active`, `passive` or `witness`."""
        return str(getattr(self, role))

    def link(self, link: str) -> str:
        """`ROLE:NETWORK` as the lab's `SERVER:NETWORK`."""
        role, colon, network = link.rpartition(":")
        return f"{self.name(role)}:{network}" if colon else link


@dataclass(frozen=True)
class Blackout:
    """From the first cable to the last process of a power cut. Seconds of the wall clock."""

    server: str
    began: float
    ended: float


class Scene:
    """See the module."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.lab = stage.lab
        self.group = stage.group
        self.blackouts: list[Blackout] = []
        self._switches: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def cast(self) -> Cast:
        active = self.group.active()
        return Cast(active, self.passives(active)[0])

    def passives(self, active: str) -> list[str]:
        """Every other data server."""
        return [name for name in self.lab.data_servers if name != active]

    def server(self, name: str) -> Server:
        return self.lab.server(name)

    def run(self, name: str, *words: str, check: bool = True) -> str:
        """What a program on a server says."""
        return self.server(name).run(list(words), check=check).output

    def ask(self, name: str, process: str) -> Json:
        """`status` on the control socket of one of the server's processes."""
        leader = self.server(name).leader
        socket = Path(f"/proc/{leader}/root/run/everup/{process}.sock")
        return call(socket, "status", deadline_ms=_ASK_MS)

    def roles(self) -> dict[str, str]:
        """Every data server's own word about its role; silent ones are missing."""
        found = {}
        for name in self.lab.data_servers:
            status = quietly(partial(self.group.status, name))
            own = [each for each in (status or {}).get("servers", ()) if each["name"] == name]
            if own:
                found[name] = str(own[0]["role"])
        return found

    # --- what is done to servers ----------------------------------------------------------------

    def power_cut(self, *names: str) -> None:
        """All of them at the same moment, as when a room loses power."""
        with ThreadPoolExecutor(len(ROLES)) as pool:
            for cut in [pool.submit(self._power_cut, name) for name in names]:
                cut.result()

    def _power_cut(self, name: str) -> None:
        with self._switches[name]:
            if self.server(name).powered:
                began = time.time()
                self.server(name).power_cut()
                self.blackouts.append(Blackout(name, began, time.time()))

    def power_on(self, name: str) -> None:
        """Give power; the boot goes on beside us."""
        with self._switches[name]:
            if not self.server(name).powered:
                self.lab.power_on(name, wait=False)

    def fill_disk(self, name: str) -> None:
        """Not one block is left on the server's disk."""
        free = self.run(name, "stat", "--file-system", "--format=%f %S", "/srv").split()
        size = int(free[0]) * int(free[1]) - (1 << 20)
        self.run(name, "fallocate", "--length", str(size), _FILLERS[0], check=False)
        self.run(name, "dd", "if=/dev/zero", f"of={_FILLERS[1]}", "bs=64k", check=False)
        self.run(name, "dd", "if=/dev/zero", f"of={_FILLERS[2]}", "bs=512", check=False)

    def clear_disk(self, name: str) -> None:
        """There is room again; done from the host, whatever state the server is in."""
        for filler in _FILLERS:
            self.server(name).disk.real(filler).unlink(missing_ok=True)

    def cables(self, name: str) -> list[str]:
        return [f"{name}:{network}" for network in server_plan(name).hosts]

    def switchover(self) -> str:
        """`everup switchover` on whoever is active; nothing, or why it was refused or failed."""
        try:
            self.group.everup(self.group.active(), "switchover", timeout_s=90)
        except (EverupError, LabError) as problem:
            return problem.sentence
        return ""

    def begin_switchover(self) -> threading.Thread:
        """The same beside us; its outcome is of no interest, since a fault will hit it."""
        thread = threading.Thread(target=self.switchover, daemon=True)
        thread.start()
        return thread

    # --- back to normal -------------------------------------------------------------------------

    def repair(self) -> None:
        """What people do: thaw, plug in, switch on. Everything else is the group's own task."""
        for line in self.lab.status():
            if line.frozen:
                self.lab.thaw(line.name)
            for network, word in line.cables.items():
                if word != "whole":
                    self.lab.heal(f"{line.name}:{network}")
            if not line.power:
                self.power_on(line.name)
        for name in self.lab.data_servers:
            self.clear_disk(name)

    def whole(self) -> Json | None:
        """The active server's status when the pair is in sync and could fail over by itself."""
        status = quietly(lambda: self.group.status(self.group.active()))
        if status is None:
            return None
        arbiter = status["arbiter"]
        complete = set(arbiter["voters"]) == self._voters()
        good = status["state"] == "synchronized" and complete and arbiter["automatic_failover"]
        return status if good else None

    def _voters(self) -> set[str]:
        """Three data servers need no witness."""
        data = self.lab.data_servers
        return set(data if len(data) >= _ENOUGH_VOTERS else self.group.members)

    def wait_whole(self, deadline_s: float) -> Json:
        """Raises DeadlinePassed with the group's own sentence."""
        end = time.monotonic() + deadline_s
        while True:
            status = self.whole()
            if status is not None:
                return status
            if time.monotonic() > end:
                told = quietly(lambda: self.group.status(self.group.active())) or {}
                words = told.get("sentence") or f"no active server; roles: {self.roles()}"
                raise DeadlinePassed(f"The group was not whole after {deadline_s:.0f} s: {words}")
            time.sleep(POLL_S)


def quietly(ask: Callable[[], Any]) -> Any:
    """The answer, or None while there is nobody who could give one."""
    try:
        return ask()
    except (EverupError, LabError, OSError, StopIteration, KeyError):
        return None


def wait_until(what: str, condition: Callable[[], object], deadline_s: float) -> None:
    """Poll. Raises DeadlinePassed naming `what`."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise DeadlinePassed(f"{what}: not within {deadline_s:.0f} s.")
        time.sleep(POLL_S)
