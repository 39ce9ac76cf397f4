"""How hard to compress: what the link takes decides, patiently."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everup.wire.levels import (
    HEADROOM,
    HOLD_MS,
    LADDER,
    LevelControl,
    LinkState,
    Measured,
    best_rung,
)
from everup.wire.linkspeed import FAR_BYTES_PER_S, FAR_US, LinkSpeed, Look

MEGABIT = 1e6 / 8
USUAL = Measured()


def level(bytes_per_s: float, oldest_ms: float = 0.0, measured: Measured = USUAL) -> int:
    return LADDER[best_rung(LinkState(bytes_per_s, oldest_ms), measured)].level


def test_level_fits_the_link() -> None:
    assert level(0) == -5, "a link that was never full"
    assert level(10_000 * MEGABIT) == -5
    assert level(1000 * MEGABIT) <= 1
    assert 1 <= level(100 * MEGABIT) <= 3
    assert 3 <= level(10 * MEGABIT) <= 9
    assert level(1 * MEGABIT) >= 9
    assert level(1 * MEGABIT, 5000) == 12


def test_level_a_slow_processor_compresses_less() -> None:
    assert level(10 * MEGABIT, 0, Measured(speed=0.05)) < level(10 * MEGABIT)


def test_level_what_waits_makes_bytes_dearer() -> None:
    rates = [2**n * MEGABIT for n in range(11)]
    assert all(level(rate, 5000) >= level(rate) for rate in rates)
    assert any(level(rate, 5000) > level(rate) for rate in rates)


def test_level_data_that_shrinks_to_nothing_is_still_fed_fast_enough() -> None:
    """A level that makes 100 bytes of 10 000 must take 100 times what the link takes."""
    shrinks = Measured(share=0.04)
    index = best_rung(LinkState(10 * MEGABIT, 5000), shrinks)
    rung = LADDER[index]
    assert rung.bytes_per_s * rung.share * shrinks.share >= 10 * MEGABIT * HEADROOM
    assert index < best_rung(LinkState(10 * MEGABIT, 5000), USUAL)


@given(
    st.floats(1e3, 1e11),
    st.floats(0, 1e6),
    st.floats(0.01, 10),
    st.floats(0.001, 4),
    st.floats(1, 9),
)
def test_level_a_faster_link_is_never_compressed_harder(
    rate: float, oldest_ms: float, speed: float, share: float, faster: float
) -> None:
    measured = Measured(speed, share)
    slow = best_rung(LinkState(rate, oldest_ms), measured)
    fast = best_rung(LinkState(rate * faster, oldest_ms), measured)
    assert fast <= slow


def test_level_changes_only_when_another_was_better_for_a_while() -> None:
    control = LevelControl()
    slow, fast = LinkState(2 * MEGABIT, 0), LinkState(0, 0)
    assert control.choose(slow, 0) == LADDER[0]
    assert control.choose(slow, HOLD_MS - 1) == LADDER[0]
    high = control.choose(slow, HOLD_MS)
    assert high.level >= 9
    # A link that flutters is left at its level.
    now = float(HOLD_MS)
    for _ in range(20):
        now += HOLD_MS / 2
        assert control.choose(fast, now) == high
        now += HOLD_MS / 2
        assert control.choose(slow, now) == high
    control.choose(fast, now + 1)
    assert control.choose(fast, now + 1 + HOLD_MS) == LADDER[0]


def test_level_measures_machine_and_data() -> None:
    control = LevelControl()
    for _ in range(100):
        control.note(
            1 << 20,
            int((1 << 20) * LADDER[0].share / 2),
            int(2e9 * (1 << 20) / LADDER[0].bytes_per_s),
        )
    assert control.measured.speed == pytest.approx(0.5, rel=0.02)
    assert control.measured.share == pytest.approx(0.5, rel=0.02)
    before = control.measured
    control.note(100, 100, 10**9)
    assert control.measured == before, "a small body says nothing about the level"


class Line:
    """Looks at a connection that takes `rate` for a while."""

    def __init__(self, round_trip_us: int = 0) -> None:
        self.speed = LinkSpeed()
        self._round_trip_us = round_trip_us
        self._at = self._acknowledged = 0.0
        self.takes(0, waiting=0)

    def takes(self, rate: float, *, waiting: int, seconds: float = 0.25) -> float:
        self._at += seconds
        self._acknowledged += rate * seconds
        self.speed.note(Look(self._at, int(self._acknowledged), waiting, self._round_trip_us))
        return self.speed.bytes_per_s


def test_level_link_speed_is_known_only_once_the_link_was_full() -> None:
    line = Line()
    assert line.takes(1e6, waiting=0) == 0, "there was too little to send"
    assert line.takes(1e6, waiting=5000) == 0, "something waits only now"
    assert line.takes(1e6, waiting=5000) == 1e6
    assert line.takes(1e5, waiting=0) == 1e6
    assert 1e6 < line.takes(2e6, waiting=0) < 2e6
    for _ in range(6):
        line.takes(1e3, waiting=5000)
    assert line.speed.bytes_per_s < 1.5e3, "it has become slow"


def test_level_a_long_way_counts_as_narrow_until_it_shows_more() -> None:
    line = Line(FAR_US)
    assert line.takes(1e3, waiting=0) == FAR_BYTES_PER_S
    assert level(line.speed.bytes_per_s) == 6
    assert line.takes(5e7, waiting=0) == 5e7
    assert line.takes(1e3, waiting=1) == 5e7
    assert line.takes(1e4, waiting=1) == 1e4
    assert Line(FAR_US - 1).takes(1e3, waiting=0) == 0
