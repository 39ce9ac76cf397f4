"""The ground on which the promises are proven: one lab, one protected PostgreSQL, many tests.

What enters: verbs of a test (load, cut, kill, wait, compare). What leaves: figures and facts that
the test asserts. `normal` brings the group back to: every server powered, every cable whole,
durable mode, every server synchronized, every voter voting. Tests speak of `active` and `passive`,
never of primary and secondary, since each test leaves the roles as they fell.
"""

import os
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from everup.errors import EverupError
from everup.lab import Lab
from everup.lab.compare import Comparison
from everup.lab.database import ACCOUNTS_PER_SCALE, PROTECTED
from everup.lab.demo.measure import Answer, read_acknowledged, read_answers
from everup.lab.endure.audit import compare_at_rest
from everup.lab.endure.scene import Scene
from everup.lab.guests import churn as churn_program
from everup.lab.server import Outcome, Server
from everup.lab.stage import ECHO_UNIT, Stage
from everup.lab.wheels import find_wheels
from everup.wire.local import call

KEEP = os.environ.get("EVERUP_LAB_KEEP") == "1"
NAME = "promises" if KEEP else f"promises{os.getpid()}"
PROJECT = Path(__file__).parents[2]
SCALE = 2
WORKERS = 4
VOTERS = {"primary", "secondary", "witness"}
WHOLE_S = 90
USED_TOKEN = "used-token"
CHURN = Path(churn_program.__file__)
EVERUP = "/opt/everup/bin/everup"

Json = dict[str, Any]


@dataclass
class Load:
    """Transactions under way. `began`: monotonic seconds."""

    ground: "Ground"
    began: float

    def acknowledged(self, after: float = 0.0) -> set[tuple[int, int]]:
        """Every transaction that was acknowledged to the client since the load began."""
        logs = read_acknowledged(self.ground.stage.load_logs)
        return {each.key for each in logs if each.at >= max(self.began, after)}

    def wait_for(self, count: int, deadline_s: float = 30.0, after: float = 0.0) -> None:
        """Return when `count` more transactions (or since `after`) are acknowledged."""
        wanted = count if after else len(self.acknowledged()) + count
        wait(lambda: len(self.acknowledged(after)) >= wanted, deadline_s, "acknowledged work")

    def missing(self, server: str) -> set[tuple[int, int]]:
        """Acknowledged transactions that the database on `server` does not hold."""
        ground = self.ground
        return self.acknowledged() - ground.database.ledger(ground.lab.server(server))


class Ground:
    """See the module."""

    def __init__(self) -> None:
        self.lab = Lab(NAME)
        self.stage = Stage(self.lab)
        self.group = self.stage.group
        self.database = self.stage.database
        self.scene = Scene(self.stage)

    # --- building -------------------------------------------------------------------------------

    def build(self) -> None:
        """From nothing to a protected, synchronized group whose client has begun to ask."""
        self.lab.down()
        self.stage.build(find_wheels(PROJECT), {"secondary": "xfs"})
        self.database.create(self.lab.server("primary"), SCALE)
        (self.lab.directory / USED_TOKEN).write_text(self.stage.form()["tokens"]["server"])
        words = ["--unit", self.database.unit, "--mode", "durable", "--deadline", "120"]
        self.group.everup("primary", "protect", *PROTECTED, *words, timeout_s=150)
        self.group.wait("primary", "synchronized", 120)
        # It runs on both servers all the time: only the kernel's rules keep the passive one mute.
        for name in self.lab.data_servers:
            self.run(name, "systemctl", "start", ECHO_UNIT)
        self.stage.start_prober()
        self.stage.settle()

    def down(self) -> None:
        self.lab.down()

    @property
    def used_token(self) -> str:
        """The one with which the second server has joined."""
        return (self.lab.directory / USED_TOKEN).read_text()

    # --- who is what ----------------------------------------------------------------------------

    @property
    def active(self) -> str:
        return self.group.active()

    @property
    def passive(self) -> str:
        return self.other(self.active)

    def other(self, name: str) -> str:
        return "secondary" if name == "primary" else "primary"

    def server(self, name: str) -> Server:
        return self.lab.server(name)

    def roles(self) -> dict[str, str]:
        """Every powered server's own word about its role."""
        found = {}
        for name in self.lab.data_servers:
            status = self.quietly(lambda name=name: self.group.status(name))
            if status is not None:
                own = next(each for each in status["servers"] if each["name"] == name)
                found[name] = str(own["role"])
        return found

    @staticmethod
    def quietly(ask: Callable[[], Any]) -> Any:
        """The answer, or None while there is nobody who could give one."""
        try:
            return ask()
        except (EverupError, OSError, StopIteration, KeyError):
            return None

    # --- back to normal -------------------------------------------------------------------------

    def normal(self, deadline_s: float = WHOLE_S) -> None:
        """Undo whatever a test did, and wait until every promise holds again."""
        self.stop_load()
        booting = []
        for line in self.lab.status():
            if line.frozen:
                self.lab.thaw(line.name)
            for network, word in line.cables.items():
                if word != "whole":
                    self.lab.heal(f"{line.name}:{network}")
            if not line.power:
                self.lab.power_on(line.name, wait=False)
                booting.append(line.name)
        for name in booting:
            self.server(name).wait_until_up()
        wait(lambda: self.quietly(lambda: self.active), deadline_s, "an active server")
        if self.group.status(self.active)["mode"] != "durable":
            self.change_settings(mode="durable")
        self.wait_whole(deadline_s)

    def wait_whole(self, deadline_s: float = WHOLE_S) -> Json:
        """Wait until the pair is synchronized and could fail over by itself."""
        told: Json = {}

        def whole() -> bool:
            status = self.quietly(lambda: self.group.status(self.active))
            if status is None:
                return False
            told.update(status)
            arbiter = status["arbiter"]
            everybody = set(arbiter["voters"]) == VOTERS and arbiter["automatic_failover"]
            return status["state"] == "synchronized" and everybody

        wait(whole, deadline_s, "a whole group", lambda: f"{told.get('state')}: {told}")
        return told

    def change_settings(self, **changes: Any) -> None:
        """`everup config apply` on the active server, as a person does it."""
        active = self.active
        settings = tomllib.loads(self.group.everup(active, "config", "show")["toml"])
        settings.update(changes)
        self.server(active).run(["tee", "/root/group.toml"], stdin=tomli_w.dumps(settings))
        self.group.everup(active, "config", "apply", "/root/group.toml")

    # --- load -----------------------------------------------------------------------------------

    @contextmanager
    def load(self, workers: int = WORKERS) -> Iterator[Load]:
        """Transactions from the client while the block runs; it begins when they flow."""
        load = Load(self, time.monotonic())
        self.stage.start_load(workers, SCALE * ACCOUNTS_PER_SCALE)
        try:
            load.wait_for(50)
            yield load
        finally:
            self.stop_load()

    @contextmanager
    def churn(self, server: str) -> Iterator[Callable[[], list[str]]]:
        """Every kind of change of files on the active server while the block runs, beside the
        database; gives the lines that the program has said so far (`refused ERRNO` at its end)."""
        log = self.lab.directory / "churn.log"
        words = ["python3", "-c", CHURN.read_text(), f"{PROTECTED[0]}/churn", str(time.time_ns())]
        process = self.server(server).start(words, log)
        try:
            yield lambda: log.read_text().split("\n")[:-1]
        finally:
            process.terminate()
            process.wait(10)

    def stop_load(self) -> None:
        client = self.server("client")
        client.run(["systemctl", "kill", "--signal=KILL", "lab-load"], check=False)
        client.run(["systemctl", "stop", "lab-load"], check=False)

    # --- answers on the public address ----------------------------------------------------------

    def answers(self, after: float, server: str = "") -> list[Answer]:
        """What the echo on the public address answered to questions asked after a moment."""
        found = read_answers(self.stage.probe_log)
        return [a for a in found if a.asked_at > after and server in ("", a.server)]

    def wait_answer(self, server: str, after: float, deadline_s: float) -> float:
        """Seconds from `after` to the first answer that `server` gives."""
        left = after + deadline_s - time.monotonic()
        wait(lambda: self.answers(after, server), left, f"{server} to answer")
        return self.answers(after, server)[0].at - after

    # --- power, processes -----------------------------------------------------------------------

    def cut_power_together(self, *names: str) -> float:
        """All at once, as when a room loses power; the moment just before."""
        servers = [self.server(name) for name in names]
        _ = [server.leader for server in servers]
        threads = [threading.Thread(target=server.power_cut) for server in servers]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return began

    def run(self, server: str, *words: str, check: bool = True) -> Outcome:
        return self.server(server).run(list(words), check=check)

    def everup(self, server: str, *words: str) -> Outcome:
        """`everup --json ...`; its exit code is the caller's to judge."""
        return self.server(server).run([EVERUP, "--json", *words], check=False)

    def main_process(self, server: str, unit: str) -> int:
        found = self.run(server, "systemctl", "show", "--property=MainPID", "--value", unit)
        return int(found.output)

    def ask(self, server: str, process: str) -> Json:
        """`status` on a process's own control socket."""
        leader = self.server(server).leader
        socket = Path(f"/proc/{leader}/root/run/everup/{process}.sock")
        return call(socket, "status", deadline_ms=2000)

    # --- judging --------------------------------------------------------------------------------

    def events(self, server: str, after: int = 0) -> list[Json]:
        found = self.group.ask(server, f"/v1/events?after={after}&limit=500")["events"]
        return list(found)

    def last_event(self, server: str) -> int:
        return max((int(event["id"]) for event in self.events(server)), default=0)

    def compare(self, deadline_s: float = 30.0) -> Comparison:
        """Both lower trees, read from the host at one position while the database stands still."""
        found = compare_at_rest(self.scene, self.scene.cast(), deadline_s)
        assert found.entries > 500, "there is something to compare"
        return found


def wait(
    condition: Callable[[], object],
    deadline_s: float,
    what: str,
    seen: Callable[[], str] = str,
) -> None:
    """Poll until `condition` holds; fails the test with what was seen last."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"no {what} within {deadline_s:.0f} s. {seen()}"
        time.sleep(0.05)
