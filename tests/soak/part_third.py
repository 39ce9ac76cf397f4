"""The third server in a lab: three whole servers, no witness, two power cuts one after the other.

What enters: nothing. What leaves: findings, and the figures of each step. The second server takes
over by itself; when that one is lost too, the third goes on when a person insists, with every row
that was acknowledged; all return, are identical, and the stream is passed on from one to the next.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab.ground import SCALE, Ground, wait

from everup.errors import EverupError
from everup.lab import Lab
from everup.lab.database import PROTECTED
from everup.lab.endure.scene import Scene
from everup.lab.stage import Stage
from everup.lab.wheels import find_wheels

PROJECT = Path(__file__).parents[2]
SERVERS = ("primary", "secondary", "tertiary", "client")
PROMOTION_S = 5.0
QUIET_S = 4.0


class Three(Ground):
    """Three servers that hold data and vote."""

    def __init__(self) -> None:
        self.lab = Lab(f"third{os.getpid()}")
        self.stage = Stage(self.lab)
        self.group = self.stage.group
        self.database = self.stage.database
        self.scene = Scene(self.stage)

    def build(self) -> None:
        self.lab.down()
        self.stage.build(find_wheels(PROJECT), {"secondary": "xfs"}, SERVERS)
        self.database.create(self.lab.server("primary"), SCALE)
        self.stage.form()
        words = ["--unit", self.database.unit, "--mode", "durable", "--deadline", "120"]
        self.group.everup("primary", "protect", *PROTECTED, *words, timeout_s=150)
        self.group.wait("primary", "synchronized", 120)
        for name in self.lab.data_servers:
            self.run(name, "systemctl", "start", "everup-lab-echo")
        self.stage.start_prober()
        self.stage.settle()

    def wait_all(self, deadline_s: float = 120) -> None:
        """Everybody is synchronized, votes, and may take over."""
        names = set(self.lab.data_servers)

        def whole() -> bool:
            status = self.quietly(lambda: self.group.status(self.active))
            arbiter = (status or {}).get("arbiter", {})
            return bool(
                status
                and status["state"] == "synchronized"
                and set(arbiter["voters"]) == set(arbiter["may_take_over"]) == names
            )

        wait(whole, deadline_s, "three whole servers", lambda: str(self.group.status(self.active)))

    def comparisons(self, name: str) -> int:
        """How often this server's trees had to be compared since it was set up."""
        words = ("journalctl", "-u", "everup-replicator", "-o", "cat", "--no-pager")
        return self.run(name, *words).output.count("replicator: resync-started")

    def supplier(self, name: str) -> str:
        peers = self.ask(self.active, "replicator")["peers"]
        found = next(peer for peer in peers if peer["server"] == name)
        return str(found["supplied_by"]) if found["in_sync"] else ""


def run(memory: dict[str, Any], keep: Callable[[], None]) -> None:
    """The whole story once; what does not hold is a finding."""
    ground = Three()
    memory["steps"] = {}
    try:
        ground.build()
        _story(ground, memory["steps"], keep)
    except (AssertionError, EverupError) as broken:
        memory["findings"].append(f"after {list(memory['steps'])}: {broken}")
        _keep_logs(ground)
    finally:
        ground.down()


def _keep_logs(ground: Three) -> None:
    """What every server has said, to find out why."""
    directory = PROJECT / "build/soak"
    directory.mkdir(parents=True, exist_ok=True)
    for name in ground.lab.data_servers:
        words = ("journalctl", "-u", "everup-*", "-o", "short-iso-precise", "--no-pager")
        said = ground.quietly(lambda name=name, words=words: ground.run(name, *words).output)
        (directory / f"third-{name}.log").write_text(said or "it has no power")


def _story(ground: Three, steps: dict[str, Any], keep: Callable[[], None]) -> None:
    ground.wait_all()
    compared = ground.comparisons("tertiary")
    with ground.load() as load:
        load.wait_for(300)
        cut = time.monotonic()
        ground.lab.power_cut("primary")
        steps["second_took_over_s"] = ground.wait_answer("secondary", cut, PROMOTION_S)
        load.wait_for(200, after=cut)
        assert load.missing("secondary") == set(), "rows are missing on the secondary"
        assert ground.comparisons("tertiary") == compared, "the tertiary was compared anew"
        # Every answer from here on waits for the tertiary, too.
        listed = ground.group.status("secondary")["arbiter"]["may_take_over"]
        assert "tertiary" in listed, listed
        keep()
        cut = time.monotonic()
        ground.lab.power_cut("secondary")
        time.sleep(QUIET_S)
        assert not ground.answers(cut + 1.0), "the tertiary went on alone, without a majority"
        forced = time.monotonic()
        done = ground.everup("tertiary", "failover", "--force")
        assert done.exit_code == 0, done.output + done.errors
        steps["third_forced_s"] = ground.wait_answer("tertiary", forced, 30)
        load.wait_for(200, after=forced)
        steps["acknowledged"] = len(load.acknowledged())
        assert load.missing("tertiary") == set(), "rows are missing on the tertiary"
        keep()
        for name in ("primary", "secondary"):
            ground.lab.power_on(name, wait=False)
        ground.wait_all(180)
    assert ground.compare().differences == [], "not identical after the return of both"
    _chain(ground, steps, keep)


def _chain(ground: Three, steps: dict[str, Any], keep: Callable[[], None]) -> None:
    """Back to the first server, then passed on, then the one that passes on loses its power."""
    done = ground.everup("tertiary", "switchover", "--to", "primary")
    assert done.exit_code == 0, done.output + done.errors
    ground.wait_all()
    ground.change_settings(feed="chain")
    wait(lambda: ground.supplier("tertiary") == "secondary", 30, "a chain")
    compared = ground.comparisons("tertiary")
    with ground.load() as load:
        load.wait_for(200)
        ground.lab.power_cut("secondary")
        cut = time.monotonic()
        wait(lambda: ground.quietly(lambda: ground.supplier("tertiary")) == "primary", 30, "a star")
        steps["supplied_again_s"] = time.monotonic() - cut
        load.wait_for(200)
        ground.lab.power_on("secondary")
        ground.wait_all(180)
        wait(lambda: ground.supplier("tertiary") == "secondary", 60, "a chain again")
        load.wait_for(200)
    assert ground.comparisons("tertiary") == compared, "the tertiary was compared anew"
    assert ground.compare().differences == [], "not identical after a chain that broke"
    keep()
