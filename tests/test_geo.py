"""Geometry against known values and PostGIS' own bytes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracking.geo import antimeridian, distance, pack_point, unpack_point

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


def test_a_known_distance() -> None:
    # Vaduz to Zürich main station, some 82 km by any map.
    assert distance(47.141, 9.521, 47.3779, 8.5403) == pytest.approx(78_600, rel=0.01)


def test_one_degree_of_latitude() -> None:
    assert distance(47, 9, 48, 9) == pytest.approx(111_195, rel=1e-4)


@given(latitudes, longitudes, latitudes, longitudes)
def test_there_is_as_far_as_back(a: float, b: float, c: float, d: float) -> None:
    assert distance(a, b, c, d) == pytest.approx(distance(c, d, a, b), abs=1e-3)


@given(longitudes, latitudes)
def test_a_point_comes_back(longitude: float, latitude: float) -> None:
    assert unpack_point(pack_point(longitude, latitude)) == (longitude, latitude)


@given(st.floats(90.1, 180), st.floats(-180, -90.1), latitudes, latitudes)
@example(180.0, -180.0, -89.99999999999999, 90.0)
def test_the_antimeridian_is_crossed_between_the_ends(east: float, west: float, before: float, after: float) -> None:
    for start, end in (((east, before), (west, after)), ((west, after), (east, before))):
        crossing = antimeridian(start, end)
        assert crossing is not None
        longitude, latitude, share = crossing
        assert abs(longitude) == 180 and longitude * start[0] > 0
        assert min(before, after) <= latitude <= max(before, after)
        assert 0 <= share <= 1
