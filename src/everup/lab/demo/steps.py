"""The demo's single steps: wait for a condition, look up transactions, compare trees, count bytes.

What enters: the stage. What leaves: facts; judging them is `round`'s part.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from everup.errors import DeadlinePassed, EverupError
from everup.lab.compare import Comparison, compare_trees
from everup.lab.database import PROTECTED
from everup.lab.group import Json
from everup.lab.layout import server_plan
from everup.lab.stage import ECHO_UNIT, Stage
from everup.wire.local import call

_POLL_S = 0.02
_SETTLED_POLLS = 3
_COMMON_POSITION_S = 20

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], deadline_s: float) -> T:
    """The first thing that `look` finds. Raises DeadlinePassed with `what` did not happen."""
    end = time.monotonic() + deadline_s
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > end:
            raise DeadlinePassed(f"{what}: it did not happen within {deadline_s:.0f} s.")
        time.sleep(_POLL_S)


class Steps:
    """Steps on one stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.group = stage.group
        self.lab = stage.lab

    def other(self, name: str) -> str:
        return next(each for each in self.lab.data_servers if each != name)

    def acknowledged_count(self) -> int:
        """How many transactions were acknowledged so far."""
        if not self.stage.load_logs.exists():
            return 0
        return sum(
            path.read_bytes().count(b"\n") for path in self.stage.load_logs.glob("worker-*.log")
        )

    def mail_after(self, moment: float) -> Json | None:
        """The first mail that arrived after a moment."""
        mails = [json.loads(path.read_text()) for path in sorted(self.stage.mails.glob("*.json"))]
        later = [mail for mail in mails if mail["at_monotonic"] > moment]
        return min(later, key=lambda mail: float(mail["at_monotonic"]), default=None)

    def channel_bytes(self, server: str) -> int:
        """Bytes that went over this server's channel cable in both directions."""
        cable = server_plan(server).cable("channel")
        told = self.lab.base.run(["ip", "-s", "-j", "link", "show", "dev", cable]).stdout
        numbers = json.loads(told)[0]["stats64"]
        return int(numbers["rx"]["bytes"]) + int(numbers["tx"]["bytes"])

    def journal_bytes(self, server: str) -> int:
        """Bytes of the server's journal on its disk."""
        directory = self.lab.server(server).disk.real("/var/lib/everup/journal")
        return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())

    def compare(self, active: str) -> Comparison:
        """Both lower trees at a common position, with the applications stopped.

        The agent is stopped meanwhile, because it would start them again; the keeper holds the
        lease for 30 s without it, and only one of the two servers is asked to stand still.
        """
        server = self.lab.server(active)
        server.run(["systemctl", "stop", "everup-agent"])
        try:
            server.run(["systemctl", "stop", self.stage.database.unit, ECHO_UNIT])
            self._wait_for_common_position(active)
            return self._compare_now(active, self.other(active))
        finally:
            server.run(["systemctl", "start", "everup-agent"])

    def _compare_now(self, active: str, passive: str) -> Comparison:
        found = Comparison()
        for path in PROTECTED:
            trees = [self.lab.server(name).disk.real(path) for name in (active, passive)]
            found += compare_trees(trees[0], trees[1], names=(active, passive))
        return found

    def _wait_for_common_position(self, active: str) -> None:
        """Nothing is under way: the passive has applied what the active has written, repeatedly."""
        same: list[Json] = []

        def look() -> bool | None:
            written = self._told(active, "guard", "position")
            applied = self._told(self.other(active), "replicator", "applied")
            if written is None or written != applied or (same and same[-1] != written):
                same.clear()
            else:
                same.append(written)
            time.sleep(0.1)
            return True if len(same) >= _SETTLED_POLLS else None

        wait_for("Both servers at one position", look, _COMMON_POSITION_S)

    def _told(self, server: str, process: str, name: str) -> Json | None:
        """A field of the status of one of the server's processes, or nothing when it is busy."""
        leader = self.lab.server(server).leader
        path = Path(f"/proc/{leader}/root/run/everup/{process}.sock")
        try:
            value: Json | None = call(path, "status").get(name)
        except EverupError:
            return None
        return value

    def save_logs(self, directory: Path) -> None:
        """What every server's journal says, from the flight recorder outside the servers."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in self.lab.server_names:
            recorder = self.lab.directory / "journal" / name
            words = ["journalctl", "-D", str(recorder), "--no-pager", "-o", "short-precise"]
            done = self.lab.base.run(words, check=False, timeout_s=60)
            (directory / f"{name}.log").write_text(done.stdout)
