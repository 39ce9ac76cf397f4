"""Random real faults under load, with an audit after each: the short form of `make soak`."""

import os
from pathlib import Path

import pytest
from tests.lab.ground import PROJECT, Ground

from everup.lab.database import PROTECTED
from everup.lab.endure.audit import Audit
from everup.lab.endure.run import Wishes, run_endure

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

# Two faults at once, a power cut within a switchover, a shutdown, a kill, a long freeze.
SEED = 15190
ROUNDS = 5


def test_rounds_of_random_faults_leave_no_trace(ground: Ground, tmp_path: Path) -> None:
    """After each: whole by itself, one active, nothing lost or resurrected, trees identical, no
    word in the logs that nobody expected."""
    wishes = Wishes(
        name=ground.lab.name,
        rounds=ROUNDS,
        seed=SEED,
        report=tmp_path / "endure.json",
        project=PROJECT,
    )
    report = run_endure(wishes)
    assert report.all_findings == []
    assert len(report.rounds) == ROUNDS
    assert all(each.acknowledged > 0 and each.compared_entries > 500 for each in report.rounds)


def test_the_audit_sees_what_is_lost_resurrected_doubled_and_different(ground: Ground) -> None:
    """Each is made by hand, found, and undone; at the end there is nothing to find."""
    with ground.load() as load:
        load.wait_for(20)
    server, audit = ground.server(ground.active), Audit(ground.scene)
    ask = ground.database.ask
    worker, number = max(load.acknowledged())
    row = f"worker = {worker} AND number = {number}"

    def found(words: str) -> bool:
        return any(words in sentence for sentence in audit.examine(load.began).findings)

    ask(server, f"DELETE FROM ledger WHERE {row}")
    assert found("1 acknowledged transactions are lost")
    ask(server, f"INSERT INTO ledger (worker, number) VALUES ({worker}, {number})")
    ask(server, "INSERT INTO ledger (worker, number) VALUES (0, 999999999)")
    assert found("1 transactions that never happened")
    ask(server, "DELETE FROM ledger WHERE number = 999999999")
    ask(server, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1")
    assert found("applied twice")
    ask(server, "UPDATE pgbench_accounts SET abalance = abalance - 1 WHERE aid = 1")

    there = ground.server(ground.passive).disk.real(PROTECTED[0])
    before = there.stat()
    os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert found("modification time")
    os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert audit.examine(load.began).findings == []
