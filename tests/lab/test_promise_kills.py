"""Promises `no-block` and `ordered`: any process of Everup may die at any moment."""

import re
import time

import pytest
from tests.lab.ground import Ground, wait

from everup.errors import EverupError

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

UNITS = {
    "guard-worker": "everup-guard",
    "replicator": "everup-replicator",
    "keeper": "everup-keeper",
    "agent": "everup-agent",
}
KILLS = 2
ALL_S = 20
TROUBLE = re.compile(r"PANIC|ERROR|Input/output error|could not (write|read|open|fsync|extend)")


def process_id(ground: Ground, server: str, process: str) -> int:
    if process == "guard-worker":
        return int(ground.ask(server, "guard")["worker"]["pid"])
    return ground.main_process(server, UNITS[process])


def kill(ground: Ground, server: str, process: str) -> None:
    """SIGKILL, and see another process in its place."""
    old = process_id(ground, server, process)
    assert old > 0
    ground.run(server, "kill", "-KILL", str(old))

    def replaced() -> bool:
        try:
            return process_id(ground, server, process) not in (0, old)
        except (EverupError, KeyError, TypeError, ValueError):
            return False

    wait(replaced, 15, f"new {process} on {server}")


def database_log(ground: Ground, server: str) -> str:
    version = ground.database.version
    return ground.run(server, "cat", f"/var/log/postgresql/postgresql-{version}-main.log").output


@pytest.mark.parametrize("process", list(UNITS))
def test_a_killed_process_costs_the_application_nothing(ground: Ground, process: str) -> None:
    """Twice on either side under load: the same server stays active, work goes on, the database
    meets no error, nothing acknowledged is missing, the trees are identical."""
    active, passive = ground.active, ground.passive
    epoch = ground.group.status(active)["epoch"]
    before = len(database_log(ground, active))
    with ground.load() as load:
        for server in (passive, active):
            for _ in range(KILLS):
                kill(ground, server, process)
                load.wait_for(50, deadline_s=15)
                time.sleep(0.5)
        assert load.missing(active) == set()
    log = database_log(ground, active)[before:]
    assert [line for line in log.splitlines() if TROUBLE.search(line)] == []
    status = ground.wait_whole()
    assert (ground.active, status["epoch"]) == (active, epoch)
    found = ground.compare()
    assert found.differences == []


def test_everything_that_dies_at_once_costs_the_application_a_wait(ground: Ground) -> None:
    """Also the guard's holder, so that systemd alone has the connections to the kernel: the same
    server stays active in the same epoch, work goes on, the database meets no error."""
    active = ground.active
    epoch = ground.group.status(active)["epoch"]
    before = len(database_log(ground, active))
    units = [*UNITS.values(), "everup-console"]
    with ground.load() as load:
        began = time.monotonic()
        ground.run(active, "systemctl", "kill", "--kill-whom=all", "--signal=KILL", *units)
        load.wait_for(50, deadline_s=ALL_S, after=began + 1)
        print(f"work went on {time.monotonic() - began:.1f} s after everything was killed")
        assert load.missing(active) == set()
    log = database_log(ground, active)[before:]
    assert [line for line in log.splitlines() if TROUBLE.search(line)] == []
    status = ground.wait_whole()
    assert (ground.active, status["epoch"]) == (active, epoch)
    assert ground.compare().differences == []


def test_a_killed_guard_worker_costs_a_busy_file_tree_nothing(ground: Ground) -> None:
    """Every kind of change goes on through three kills; no call fails, the trees are identical."""
    active = ground.active
    with ground.churn(active) as said:
        for _ in range(3):
            steps = len(said())
            wait(lambda steps=steps: len(said()) > steps, 20, "further changes")
            kill(ground, active, "guard-worker")
        steps = len(said())
        wait(lambda: len(said()) > steps, 20, "changes after the last kill")
        assert "refused" not in said()[-1]
    ground.wait_whole()
    found = ground.compare()
    assert found.differences == []
