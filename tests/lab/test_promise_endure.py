"""Random real faults under load, with an audit after each: the short form of `make soak`."""

from pathlib import Path

import pytest
from tests.lab.ground import PROJECT, Ground

from everup.lab.endure.run import Wishes, run_endure

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

# Its first rounds are of the kinds that the other tests here do not have.
SEED = 7
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
