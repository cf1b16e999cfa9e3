"""Rejections on both sides of each limit, and the fast check that replaces them for nearly all fixes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from tests.support.fixes import DAY, LATITUDE, LONGITUDE, NOW, fix
from tracking.errors import ErrorCode
from tracking.ingest.credibility import drop_untrue
from tracking.ingest.filters import judge
from tracking.ingest.motion import Motion
from tracking.ingest.rejections import REJECTIONS, reject
from tracking.model import Fix

EDGES: list[tuple[str, float, float, str]] = [
    ("latitude", 90.0, 90.001, "-90 to 90"),
    ("latitude", -90.0, -90.001, "-90 to 90"),
    ("longitude", 180.0, 180.001, "-180 to 180"),
    ("longitude", -180.0, -180.001, "-180 to 180"),
    ("accuracy", 0.0, -0.001, "0 metres or more"),
]


@pytest.mark.parametrize(("field", "inside", "outside", "allowed"), EDGES)
def test_a_value_out_of_range_is_rejected_with_field_value_and_range(
    field: str, inside: float, outside: float, allowed: str
) -> None:
    good = fix()
    setattr(good, field, inside)
    assert reject(good, NOW) is None
    for value in (outside, math.nan):
        bad = fix()
        setattr(bad, field, value)
        rejected = reject(bad, NOW)
        assert rejected is not None
        code, detail = rejected
        assert code is ErrorCode.OUT_OF_RANGE
        assert f"`{field}`" in detail and str(value) in detail and allowed in detail


def test_the_detail_asks_about_a_latitude_that_may_be_a_longitude() -> None:
    sydney = reject(fix(latitude=151.2, longitude=-33.9), NOW)
    assert sydney is not None and "exchanged" in sydney[1]
    nowhere = reject(Fix(1, NOW, 151.2, 170.0), NOW)
    assert nowhere is not None and "exchanged" not in nowhere[1]


@pytest.mark.parametrize(
    ("code", "taken", "thrown_away"),
    [(ErrorCode.CLOCK_SKEW, 60_000, 60_001), (ErrorCode.TOO_OLD, -7 * DAY, -7 * DAY - 1)],
)
def test_a_time_far_off_is_rejected_with_the_difference(code: ErrorCode, taken: int, thrown_away: int) -> None:
    assert reject(Fix(1, NOW + taken, LATITUDE, LONGITUDE), NOW) is None
    rejected = reject(Fix(1, NOW + thrown_away, LATITUDE, LONGITUDE), NOW)
    assert rejected is not None and rejected[0] is code
    assert str(abs(thrown_away)) in rejected[1] and str(abs(taken)) in rejected[1]


numbers = st.floats(width=64)
optional = st.one_of(st.just(UNSET), numbers)
any_fix = st.builds(
    Fix,
    seq=st.integers(),
    fix_time=st.one_of(st.integers(), st.integers(NOW - 8 * DAY, NOW + 100_000)),
    latitude=numbers,
    longitude=numbers,
    accuracy=optional,
    altitude=optional,
    speed=optional,
    bearing=optional,
    battery=optional,
)


@given(any_fix)
def test_any_fix_that_is_not_rejected_can_be_judged(any_one: Fix) -> None:
    if reject(any_one, NOW) is None:
        drop_untrue(any_one)
        assert all(value is UNSET or math.isfinite(value) for value in (any_one.altitude, any_one.speed, any_one.bearing))
        motion = Motion()
        for session in (1, 2):
            judge(any_one, motion, session, NOW)


@given(any_fix)
def test_the_fast_path_gives_the_same_result_as_all_rejections(any_one: Fix) -> None:
    reasons = [(code, detail) for code, predicate in REJECTIONS if (detail := predicate(any_one, NOW)) is not None]
    assert reject(any_one, NOW) == (reasons[0] if reasons else None)
