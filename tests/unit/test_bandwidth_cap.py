"""The cap: which holds when, and that what is sent keeps to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_config_load import GOOD, mistakes_of

from everup.config.caps import DAYS, Bandwidth, CapWindow, cap_at
from everup.config.load import parse_group
from everup.config.text import group_text
from everup.wire.bucket import BURST_BYTES_MIN, BURST_SECONDS, TokenBucket

TABLE = """
[bandwidth]
kbit_per_s = 8000

[[bandwidth.windows]]
to = "primary"
kbit_per_s = 100

[[bandwidth.windows]]
days = "mon-fri"
hours = "08:00-18:00"
kbit_per_s = 2000

[[bandwidth.windows]]
days = "fri"
hours = "22:00-06:00"
kbit_per_s = 0
"""
WEEK = {name: number for number, name in enumerate(DAYS)}


@pytest.mark.parametrize(
    ("day", "time", "kbit"),
    [
        ("mon", "07:59", 8000), ("mon", "08:00", 2000), ("fri", "17:59", 2000),
        ("fri", "18:00", 8000), ("sat", "12:00", 8000), ("fri", "22:00", 0), ("sat", "05:59", 0),
        ("sat", "06:00", 8000), ("fri", "05:00", 8000), ("sun", "05:00", 8000),
    ],
)  # fmt: skip
def test_cap_of_the_hour(day: str, time: str, kbit: int) -> None:
    bandwidth = parse_group(GOOD + TABLE).bandwidth
    hour, minute = map(int, time.split(":"))
    assert cap_at(bandwidth, "other", WEEK[day], hour * 60 + minute) == kbit * 125
    assert cap_at(bandwidth, "primary", WEEK[day], hour * 60 + minute) == 100 * 125


def test_cap_table_is_written_and_read_again() -> None:
    group = parse_group(GOOD + TABLE)
    assert parse_group(group_text(group)) == group
    assert parse_group(GOOD).bandwidth == Bandwidth()


@pytest.mark.parametrize(
    ("line", "wrong", "part"),
    [
        ('days = "mon-fri"', 'days = "mon-fry"', "'mon-fry' is not like"),
        ('hours = "08:00-18:00"', 'hours = "08:00-25:00"', "'08:00-25:00' is not like"),
        ('hours = "08:00-18:00"', 'hours = "08:00-08:00"', "is not like"),
        ('hours = "08:00-18:00"', 'hours = "24:00-08:00"', "is not like"),
        ("kbit_per_s = 2000", "kbit_per_s = 20", "must be 0 (no limit) or at least 64"),
        ("kbit_per_s = 8000", "kbit_per_s = -1", "must be 0 (no limit) or at least 64"),
        ('to = "primary"', 'to = "nobody"', "'nobody' is no server"),
    ],
)
def test_cap_mistakes_are_named(line: str, wrong: str, part: str) -> None:
    text = GOOD + TABLE.replace(line, wrong)
    assert any(part in sentence for _, sentence in mistakes_of(text))


@given(
    st.integers(64_000 // 8, 10**9),
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 1 << 20)), max_size=60),
)
def test_cap_is_never_exceeded_by_more_than_a_burst(
    rate: int, steps: list[tuple[int, int]]
) -> None:
    """Whoever asks first and sends no more than allowed stays below the line at any time."""
    bucket, now, sent = TokenBucket(rate, 0), 0, 0
    for passed, wanted in steps:
        now += passed
        count = min(wanted, bucket.allowed(now))
        bucket.spend(count, now)
        sent += count
        assert sent <= max(rate * BURST_SECONDS, BURST_BYTES_MIN) + rate * now / 1e9 + 1


@given(st.integers(8000, 10**8), st.integers(0, 1 << 22))
def test_cap_waiting_as_long_as_it_says_is_enough(rate: int, owed: int) -> None:
    bucket = TokenBucket(rate, 0)
    bucket.spend(owed, 0)
    pause = bucket.wait_ms(0)
    assert bucket.allowed(pause * 10**6) >= min(rate * BURST_SECONDS, BURST_BYTES_MIN) / 2 - 1
    assert bucket.wait_ms(pause * 10**6) <= 1


def test_cap_keeps_the_line_full() -> None:
    """Sending whenever it is allowed reaches the rate."""
    bucket, now, sent = TokenBucket(1e6, 0), 0, 0
    while now < 10 * 10**9:
        now += max(1, bucket.wait_ms(now)) * 10**6
        count = bucket.allowed(now)
        bucket.spend(count, now)
        sent += count
    assert sent == pytest.approx(10e6, rel=0.02)


def test_cap_change_holds_at_once() -> None:
    bucket = TokenBucket(1e9, 0)
    assert bucket.allowed(10**9) == 10**8
    bucket.set_rate(1e5, 10**9)
    assert bucket.allowed(10**9) == 1e5 * BURST_SECONDS
    bucket.spend(10_000, 10**9)
    assert bucket.allowed(10**9) == 0
    assert bucket.allowed(2 * 10**9) == 10_000


def test_cap_first_window_that_holds_decides() -> None:
    windows = (CapWindow(kbit_per_s=100, days="sat,sun"), CapWindow(kbit_per_s=200))
    bandwidth = Bandwidth(kbit_per_s=300, windows=windows)
    assert cap_at(bandwidth, "x", WEEK["sun"], 0) == 100 * 125
    assert cap_at(bandwidth, "x", WEEK["mon"], 1439) == 200 * 125
    assert cap_at(Bandwidth(windows=(CapWindow(kbit_per_s=64, days="sat-mon"),)), "x", 6, 5) == 8000
