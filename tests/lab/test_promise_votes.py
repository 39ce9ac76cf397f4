"""Promises `single-active` and `no-block`: who goes on, and who may not, when members are gone."""

import time

import pytest
from tests.lab.ground import Ground, wait

from everup.lab.demo.measure import longest_gap_ms

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

ADAPTED_S = 20.0
"""The group has taken a lost member out of its voters long before."""
QUIET_S = 6.0
"""Three times what a promotion takes: who is not active by then will not be."""


def wait_voters(ground: Ground, server: str, expected: set[str]) -> None:
    def seen() -> set[str]:
        status = ground.quietly(lambda: ground.group.status(server))
        return set(status["arbiter"]["voters"]) if status else set()

    wait(lambda: seen() == expected, ADAPTED_S, f"voters {expected}", lambda: str(seen()))


def assert_goes_on(ground: Ground, server: str, begin: float, gap_ms: float = 1000) -> None:
    """Clients were answered by `server` alone, from `begin` until now, without a pause."""
    answers = ground.answers(begin)
    assert {each.server for each in answers} == {server}
    assert longest_gap_ms([each.at for each in answers], begin, time.monotonic()) < gap_ms


def assert_nobody_answers(ground: Ground, begin: float, seconds: float) -> None:
    time.sleep(max(0.0, begin + seconds - time.monotonic()))
    assert not ground.answers(begin + 0.5), "somebody answered from the public address"
    assert "active" not in ground.roles().values()


def test_the_passive_is_gone_and_the_witness_reboots(ground: Ground) -> None:
    """The active serves without a pause, and takes work, before, during and after."""
    active, passive = ground.active, ground.passive
    ground.lab.power_cut(passive)
    wait_voters(ground, active, {active})
    begin = time.monotonic()
    with ground.load() as load:
        ground.lab.power_cut("witness")
        time.sleep(3)
        load.wait_for(100)
        ground.lab.power_on("witness")
        time.sleep(3)
        load.wait_for(100)
        assert load.missing(active) == set()
    assert_goes_on(ground, active, begin)


def test_the_active_is_gone_the_other_took_over_and_the_witness_reboots(ground: Ground) -> None:
    """The new active serves on through the loss of its last partner."""
    active, passive = ground.active, ground.passive
    cut = time.monotonic()
    ground.lab.power_cut(active)
    ground.wait_answer(passive, cut, 10)
    wait_voters(ground, passive, {passive})
    begin = time.monotonic()
    ground.lab.power_cut("witness")
    time.sleep(3)
    ground.lab.power_on("witness")
    time.sleep(3)
    assert_goes_on(ground, passive, begin)
    assert ground.roles() == {passive: "active"}


def test_the_witness_is_gone_then_the_active_and_nobody_promotes(ground: Ground) -> None:
    """Neither at once, nor when the witness comes back: the old active alone had the votes. It
    takes up its work by itself when it returns."""
    active, passive = ground.active, ground.passive
    ground.lab.power_cut("witness")
    wait_voters(ground, active, {active})
    assert ground.group.status(active)["arbiter"]["automatic_failover"] is False
    begin = time.monotonic()
    ground.lab.power_cut(active)
    assert_nobody_answers(ground, begin, QUIET_S)
    begin = time.monotonic()
    ground.lab.power_on("witness")
    assert_nobody_answers(ground, begin, QUIET_S)
    assert ground.roles() == {passive: "passive"}
    begin = time.monotonic()
    ground.lab.power_on(active)
    ground.wait_answer(active, begin, 40)


def test_active_and_witness_are_gone_at_once_and_nobody_promotes(ground: Ground) -> None:
    """The passive alone is no majority; with the witness back, it takes over by itself."""
    active, passive = ground.active, ground.passive
    begin = ground.cut_power_together(active, "witness")
    assert_nobody_answers(ground, begin, QUIET_S)
    assert ground.roles() == {passive: "passive"}
    begin = time.monotonic()
    ground.lab.power_on("witness")
    ground.wait_answer(passive, begin, 20)
