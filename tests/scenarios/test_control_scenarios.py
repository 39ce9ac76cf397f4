"""Scenarios of the control turn: plain text with recorded output.

Goal: see at a glance what a change of the table changes. Method: play every file of `control/`
against the real `decide` and compare; `EVERUP_REWRITE=1` writes the output anew, to be reviewed as
a difference. Times and row ids are compared, sentences
only where a scenario asks for one (`said ROW`).
"""

import copy
import os
import sys
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from control_model import Group, play  # noqa: E402
from control_world import SERVERS  # noqa: E402

from everup.act.performers import PERFORMERS  # noqa: E402
from everup.decide.decide import ALL_ROWS  # noqa: E402
from everup.model import action as a  # noqa: E402
from everup.model.role import Role  # noqa: E402

FILES = sorted((HERE / "control").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    text = path.read_text()
    played, _ = play(text)
    if os.environ.get("EVERUP_REWRITE") == "1":
        path.write_text(played)
    assert played == text


def test_every_row_fires_and_every_action_is_performed_in_some_scenario() -> None:
    fired: set[str] = set()
    performed: set[type[a.Action]] = set()
    for path in FILES:
        _, group = play(path.read_text())
        fired |= group.fired
        performed |= group.performed
    assert {row.id for row in ALL_ROWS} - fired == set()
    assert set(PERFORMERS) - performed == set()


# --- stopping after any step

STORIES = {
    "failover": ["power-cut primary", "run 12000"],
    "switchover": ["ask primary switchover secondary", "run 8000"],
    "switchback": ["break-units secondary", "ask primary switchover secondary", "run 12000"],
    "degrade and return": [
        "cut primary secondary",
        "run 3500",
        "heal primary secondary",
        "run 5000",
    ],
}


@cache
def _first_protected(*, pair: bool) -> Group:
    group = Group()
    for line in (*["pair"] * pair, "run 500", "protect primary", "run 6000"):
        group.command(line)
    return group


def _protected(*, pair: bool = False) -> Group:
    return copy.deepcopy(_first_protected(pair=pair))


def _settle(group: Group) -> None:
    """Everything that can run runs again; then one server must serve and the other follow."""
    for name in SERVERS:
        group.command(f"mend-units {name}")
        if not group.servers[name].up:
            group.command(f"power-on {name}")
        elif not group.servers[name].agent:
            group.command(f"start-agent {name}")
    for _ in range(45):
        group.run(1_000)
        if _is_well(group):
            break
    assert _is_well(group), [server.state for server in group.servers.values()]
    group.run(3_000)
    assert _is_well(group), "it did not last"


def _is_well(group: Group) -> bool:
    roles = sorted(server.state.role for server in group.servers.values())
    voters = 3 if group.settings.witness else 1
    everybody = len(group.record.may_take_over) == 2 and len(group.record.voters) == voters
    return roles == [Role.ACTIVE, Role.PASSIVE] and everybody


@pytest.mark.parametrize("fault", ["kill-agent", "power-cut"])
@pytest.mark.parametrize("story", list(STORIES))
@pytest.mark.parametrize("victim", SERVERS)
def test_a_change_may_stop_after_any_step(story: str, victim: str, fault: str) -> None:
    """Every prefix of a change, cut off by the end of an agent or of a server, heals by itself.

    The model checks `single-active` and `durable` at every step; here the group must get well.
    """
    _stop_after_every_step(story, victim, fault, pair=False)


@pytest.mark.parametrize("fault", ["kill-agent", "power-cut"])
@pytest.mark.parametrize("story", ["switchover", "switchback"])
@pytest.mark.parametrize("victim", SERVERS)
def test_a_change_of_a_pair_may_stop_after_any_step(story: str, victim: str, fault: str) -> None:
    """Without an arbiter, when both servers are back, the group gets well by itself too."""
    _stop_after_every_step(story, victim, fault, pair=True)


def _stop_after_every_step(story: str, victim: str, fault: str, *, pair: bool) -> None:
    whole = _protected(pair=pair)
    before = whole.servers[victim].busy_turns
    for line in STORIES[story]:
        whole.command(line)
    steps = whole.servers[victim].busy_turns - before
    assert steps > 0 or story in ("failover", "degrade and return")
    for step in range(1, steps + 1):
        group = _protected(pair=pair)
        group.stop_after = (victim, group.servers[victim].busy_turns + step, fault)
        for line in STORIES[story]:
            group.command(line)
        _settle(group)
