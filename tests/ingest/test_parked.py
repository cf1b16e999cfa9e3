"""Vehicles that stand for hours near a cell tower and between buildings, and vehicles that really jump."""

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from tests.support.fixes import NOW
from tests.support.parked import BEGIN, HOME, Parked, Tunnel, off, place, seconds_until_shown, shown
from tracking.ingest.filters import judge
from tracking.ingest.jumps import AGREEING
from tracking.ingest.motion import MAX_HOLD, ROOTED, STOOD, Motion
from tracking.model import Fix

WAYS = [(1.0, 5.0, 120.0), (1.0, 20.0, 120.0), (2.0, 20.0, 60.0), (5.0, 5.0, 120.0), (5.0, 20.0, 0.0)]


@pytest.mark.parametrize("reports", [False, True], ids=["places alone", "speeds too"])
@pytest.mark.parametrize("every, sigma, memory", WAYS, ids=str)
def test_a_vehicle_parked_for_eight_hours_is_never_shown_at_a_cell_tower(
    every: float, sigma: float, memory: float, reports: bool
) -> None:
    result = shown(Parked(3, every, sigma, memory, reports).fixes())
    count = len(result.live) + result.doubted
    print(
        f"every {every:g} s, sigma {sigma:g} m: {result.distance / 1000:.0f} km from fix to fix, shown {result.beyond(1_000)} "
        f"past 1 km, {result.beyond(150)} past 150 m; doubted {result.doubted / count:.2%}"
    )
    assert result.beyond(1_000) == 0
    # Reflections beyond 150 m are some 2 % of all fixes.
    assert result.beyond(150) <= 0.005 * count
    assert result.doubted < 0.12 * count


@given(
    st.integers(0, 2**32),
    st.sampled_from([1.0, 2.0, 5.0]),
    st.floats(5, 20),
    st.sampled_from([60.0, 120.0, 600.0]),
    st.booleans(),
)
# An excursion of half a minute, and a bounce soon after it.
@example(17295, 5.0, 8.0, 60.0, True)
@example(1319198490, 5.0, 17.406078893145114, 120.0, False)
# An excursion that was shown, the way back from it, and a bounce.
@example(3968901306, 5.0, 10.48005254226351, 60.0, True)
@settings(max_examples=30)
def test_no_bounce_is_believed_after_a_quarter_of_an_hour_at_one_place(
    seed: int, every: float, sigma: float, memory: float, reports: bool
) -> None:
    motion = Motion()
    parked = Parked(seed, every, sigma, memory, reports, hours=0.25, bounces=0, excursions=0)
    shown(parked.fixes(), motion)
    parked = Parked(seed, every, sigma, memory, reports, hours=2)
    result = shown(parked.fixes(begin=900), motion)
    assert result.beyond(1_000) == 0


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize("seconds, speed, drives_on", [(30, 15.0, False), (30, 15.0, True), (20, 25.0, True)])
def test_a_vehicle_that_drove_off_is_not_shown_at_home_for_a_few_old_fixes(
    seconds: int, speed: float, drives_on: bool, reports: bool
) -> None:
    motion = Motion()
    shown(Parked(1, 1.0, excursions=0, bounces=0, hours=0.25, reports=reports).fixes(), motion)

    def fixes(begin: int, end: int, metres: float, pace: float) -> Iterator[Fix]:
        for second in range(begin, end):
            latitude, longitude = place(metres + pace * (second - begin), second % 7 / 10)
            yield Fix(second, BEGIN + (900 + second) * 1_000, latitude, longitude, speed=pace if reports else UNSET)

    left = shown(fixes(1, seconds, speed, speed), motion)
    assert not left.doubted
    old = shown(fixes(seconds, seconds + 3, 0.0, 0.0), motion)
    assert not old.live
    metres = (seconds + 3) * speed if drives_on else seconds * speed
    assert not shown(fixes(seconds + 3, seconds + 180, metres, speed if drives_on else 0.0), motion).doubted


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize("every", [1.0, 5.0, 15.0])
@pytest.mark.parametrize("speed", [8.0, 15.0, 30.0])
@pytest.mark.parametrize("minutes", [2, 5, 20])
def test_a_vehicle_from_a_tunnel_or_a_ferry_is_shown_at_once(minutes: int, speed: float, every: float, reports: bool) -> None:
    assert seconds_until_shown(Tunnel(60.0 * minutes, speed, every, reports=reports)) == 0


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize("every", [1.0, 5.0, 15.0])
@pytest.mark.parametrize("speed", [8.0, 15.0, 30.0])
@pytest.mark.parametrize("minutes", [2, 5, 20])
def test_a_receiver_that_repeated_its_position_in_a_tunnel_is_shown_soon(
    minutes: int, speed: float, every: float, reports: bool
) -> None:
    assert seconds_until_shown(Tunnel(60.0 * minutes, speed, every, held=True, reports=reports)) <= max(30.0, 4 * every)


@pytest.mark.parametrize("every", [1, 5])
def test_a_vehicle_towed_while_its_receiver_slept_is_believed_after_two_minutes(every: int) -> None:
    motion = Motion()
    shown(Parked(1, float(every), excursions=0, bounces=0, hours=1).fixes(), motion)
    begin = motion.time
    towed = [Fix(1, begin + 1000 * every * n, *place(9_000, 0)) for n in range(1, 200)]
    verdicts = [judge(each, motion, 1, each.fix_time)[1] for each in towed]
    first = verdicts.index(True)
    assert all(verdicts[first:])
    assert towed[first].fix_time - begin <= MAX_HOLD + 2_000 * every


def test_an_anchor_that_stood_longer_needs_more_jumps_to_outweigh_it() -> None:
    """It needs three jumps that agree just after the vehicle stopped, and two minutes of them later."""
    needed = []
    for stood in (60, STOOD // 1000, 120, 150, 3_600):
        motion = Motion()
        shown(Parked(1, 3.0, 3.0, excursions=0, bounces=0, hours=(stood + 3) / 3600).fixes(), motion)
        assert motion.support == ROOTED
        begin = motion.time
        jumps = (Fix(1, begin + 3_000 * n, *place(9_000, 0)) for n in range(1, 200))
        needed.append(next(n for n, each in enumerate(jumps, 1) if judge(each, motion, 1, NOW)[1]))
    assert needed[0] == needed[1] == AGREEING
    assert needed == sorted(needed)
    assert needed[-1] == MAX_HOLD // 3_000 + 1


def test_a_vehicle_that_drives_off_during_a_bounce_is_shown_driving() -> None:
    """The receiver bounced to a cell tower. Its next positions are on a road from where the vehicle stood."""
    motion = Motion()
    shown(Parked(1, 1.0, 3.0, excursions=0, bounces=0, hours=0.5).fixes(), motion)
    begin = motion.time
    for n in range(1, 11):
        assert not judge(Fix(1, begin + 1000 * n, *place(4_000, 0)), motion, 1, NOW)[1]
    driving = [Fix(1, begin + 1000 * n, *place(0, 12.0 * n)) for n in range(11, 60)]
    verdicts = [judge(each, motion, 1, NOW)[1] for each in driving]
    assert off(driving[verdicts.index(True)]) < 400
    assert all(verdicts[verdicts.index(True) :])


@pytest.mark.parametrize("home", [9.5, 180.0], ids=["inland", "on the antimeridian"])
def test_a_vehicle_that_stands_on_the_antimeridian_stands(home: float) -> None:
    motion = Motion()
    first = None
    for fix in Parked(1, 1.0, 20.0, excursions=0, bounces=0, hours=0.25).fixes():
        first = first or fix
        fix.longitude += home - HOME[1]
        if fix.longitude > 180.0:
            fix.longitude -= 360.0
        judge(fix, motion, 1, NOW)
    assert first is not None
    assert motion.home_time == first.fix_time
    assert motion.hold == MAX_HOLD
