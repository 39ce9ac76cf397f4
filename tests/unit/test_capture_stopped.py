"""When the guard's service has ended: who closes its gates, and when nobody must."""

import pytest

from everup.capture.stopped import told_to_stop


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ("", False),
        ("No jobs running.\n", False),
        ("2023 everup-guard.service stop running\n", True),
        ("2023 everup-guard.service restart waiting\n", True),
        ("7 everup-agent.service stop waiting\n8 everup-guard.service stop running\n", True),
        # The agent, the keeper and the replicator want it; they died too and are started again.
        ("2024 everup-guard.service start waiting\n", False),
        ("2024 everup-agent.service stop running\n", False),
    ],
)
def test_only_a_job_that_ends_it_closes_its_gates(jobs: str, told: bool) -> None:
    assert told_to_stop(jobs) == told
