"""Mistakes put into the decisions on purpose: the simulated groups have to show each of them.

What leaves: context managers that change the decisions and put them back; see `simmutants`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simcontrol import control
from simmutants import changed

from everup.decide import conditions as c
from everup.decide import data as d
from everup.decide import decide as heart
from everup.decide import upkeep
from everup.decide.row import Condition
from everup.model.action import SetPolicy
from everup.model.observation import Observation
from everup.model.role import State

SEEDS = 60


def _duties_with(row_id: str, condition: Condition) -> Any:
    duties = tuple(
        replace(row, condition=condition) if row.id == row_id else row for row in heart.DUTIES
    )
    return changed(heart, DUTIES=duties)


def an_fsync_waits_for_nobody() -> Any:
    def wanted_policy(s: State, o: Observation) -> SetPolicy:
        return SetPolicy(o.group.mode, ())

    return changed(upkeep, wanted_policy=wanted_policy)


def the_gate_opens_before_everything_is_applied() -> Any:
    return _duties_with("open", c.all_of(c.lease_held, d.sealed, c.negated(d.gate_open)))


def a_server_is_listed_before_it_has_everything() -> Any:
    return changed(upkeep, _holds_all=lambda o, joining: True)


def a_voter_that_returns_is_not_asked_again() -> Any:
    return changed(upkeep, _more_voters=lambda s, o: None)


CONTROL_MUTANTS: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        an_fsync_waits_for_nobody,
        the_gate_opens_before_everything_is_applied,
        a_server_is_listed_before_it_has_everything,
        a_voter_that_returns_is_not_asked_again,
    )
}


def try_control_mutant(name: str) -> tuple[str, dict[str, Any]]:
    """Seeds until a promise is broken, or a group does not get well."""
    with CONTROL_MUTANTS[name]():
        for seed in range(SEEDS):
            result = control(seed)
            if result.violations or not result.available_again:
                return name, {"caught": True, "seed": seed, "promise": "control"}
    return name, {"caught": False, "seed": None}
