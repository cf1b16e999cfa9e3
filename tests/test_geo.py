"""Geometry against known values and PostGIS' own bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.geo import distance, pack_point, unpack_point

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
