"""A wrong clock is distinguished from a queue on any network. The test sets the hub's clock."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.ingest.clocks import BEHIND, MESSAGES, QUEUED, STEADY, ZONE, DeviceClock, continues, described, is_right, is_zone

NOW = 1_762_500_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

_behind = st.integers(-30 * 365 * DAY, -BEHIND - 5_000) | st.sampled_from([-2 * HOUR, -HOUR // 2, -5 * HOUR - HOUR * 3 // 4])


def live(skew: int, interval: int, delays: Iterator[int]) -> Iterator[tuple[int, int]]:
    """`(age, arrival)` of fixes sent as they are made, in order, by a device whose clock is off by `skew`."""
    made = arrived = NOW
    while True:
        made += interval
        arrived = max(arrived, made + next(delays))
        # Many receivers round to whole seconds.
        yield arrived - (made + skew) // 1000 * 1000, arrived


def network(seed: int, longest: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield rng.randint(0, longest)


@given(skew=_behind, interval=st.integers(200, 30_000), longest=st.integers(0, 900), seed=st.integers(0, 99))
def test_a_clock_that_is_behind_is_known_in_time(skew: int, interval: int, longest: int, seed: int) -> None:
    clock = DeviceClock(queued=False)
    count = 0
    for age, now in live(skew, interval, network(seed, longest)):
        count += 1
        known = clock.see(age, now)
        if known:
            break
        # One window may begin with a delayed fix.
        assert now - NOW <= 2 * STEADY + (MESSAGES + 1) * interval + longest
    assert count >= MESSAGES
    assert abs(known - skew) <= 3_000
    # A bad network does not drop a known skew.
    for _, (age, now) in zip(range(50), live(skew, interval, network(seed, 20_000)), strict=False):
        assert clock.see(age, now) == known


@pytest.mark.parametrize(("skew", "soon"), [(-2 * HOUR, True), (-2 * HOUR + 5 * MINUTE, False), (-5 * MINUTE, False)])
def test_a_time_zone_is_known_sooner(skew: int, soon: bool) -> None:
    clock = DeviceClock(queued=False)
    ages = live(skew, 1_000, network(1, 100))
    seconds = next(count for count, (age, now) in enumerate(ages) if clock.see(age, now))
    assert seconds == (ZONE if soon else STEADY) // 1_000


@given(
    oldest=st.integers(2 * MINUTE, 8 * DAY),
    spacing=st.integers(500, 60_000),
    faster=st.floats(1.5, 1_000),
    batch=st.integers(1, 500),
    longest=st.integers(0, 900),
    seed=st.integers(0, 99),
    queued=st.booleans(),
)
def test_a_queue_is_no_wrong_clock(
    oldest: int, spacing: int, faster: float, batch: int, longest: int, seed: int, queued: bool
) -> None:
    clock = DeviceClock(queued=queued)
    delays = network(seed, longest)
    fix_time, sent = NOW - oldest, NOW
    for _ in range(400):
        fix_time += batch * spacing
        sent += max(1, int(batch * spacing / faster))
        arrived = sent + next(delays)
        if is_right(arrived - fix_time) or fix_time > arrived:
            break
        assert clock.see(arrived - fix_time, arrived) == 0


def test_a_queue_that_is_sent_as_fast_as_it_grows_is_given_time() -> None:
    clock = DeviceClock(queued=continues(NOW - 2 * HOUR, NOW - 2 * HOUR - 10_000))
    ages = live(-2 * HOUR, 10_000, network(1, 500))
    _, began = next(ages)
    known_at = next(now for age, now in ages if clock.see(age, now))
    assert known_at - began >= QUEUED
    assert not continues(NOW - 2 * HOUR, NOW)
    assert not continues(NOW, NOW - 2 * HOUR)


def test_a_clock_ahead_is_known_at_once_and_younger_fixes_reset_a_skew() -> None:
    clock = DeviceClock(queued=False)
    assert clock.see(-45_000, NOW) == 45_000
    assert clock.see(-46_000, NOW + 1_000) == 45_000
    assert clock.see(-3 * HOUR, NOW + 2_000) == 3 * HOUR
    ages = live(-HOUR, 1_000, network(1, 0))
    for _, (age, now) in zip(range(20), ages, strict=False):
        clock.see(age, now)
    assert clock.skew == -HOUR
    # After a break, fixes from the device's queue arrive first. Then the clock is set, but it is still wrong.
    assert clock.see(HOUR + 10 * MINUTE, NOW + 60_000) == -HOUR
    assert clock.see(HOUR // 2, NOW + 61_000) == 0


def test_the_driver_learns_how_far_and_in_which_direction_its_clock_is_wrong() -> None:
    assert described(45_000) == "the device's clock is 45 s ahead"
    assert described(-7_201_500) == "the device's clock or time zone is 2 h 00 min behind"
    assert described(-20_700_000) == "the device's clock or time zone is 5 h 45 min behind"
    assert described(-5 * MINUTE) == "the device's clock is 5 min behind"
    assert described(1024 * 7 * DAY) == "the device's clock is 7168 days 0 h ahead"


@given(st.integers(1, 108), st.integers(-15_000, 15_000), st.sampled_from([1, -1]))
def test_zones_differ_by_quarters_of_an_hour(quarters: int, off: int, sign: int) -> None:
    assert is_zone(sign * (quarters * 900_000 + off)) or quarters == 108
    assert not is_zone(sign * (quarters * 900_000 + 450_000 + off))
