"""A track that fits into a frame."""

import json
from math import cos, sin

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from tracking.geojson import shape_of
from tracking.model import Geofence, Place, Trip, TripStatus
from tracking.protocol.codec import MAX_FRAME_BYTES, frame
from tracking.protocol.fit import DrivenPoint, fit_track, geofence_news, live_view

points = st.tuples(st.integers(0, 2**41), st.floats(-180, 180), st.floats(-90, 90), st.sampled_from(["a", "b", "c" * 64]))


def test_a_track_that_fits_is_whole() -> None:
    driven = [(i, 9.5 + i / 1e7, 47.123456789, "van") for i in range(1000)]
    assert fit_track(driven, "van") == ([(9.5 + i / 1e7, 47.123456789, i) for i in range(1000)], UNSET)


def test_a_long_drive_keeps_its_shape() -> None:
    """Four hours at 1 Hz in ever new curves: no point of the true line is further than 10 m from the thinned one."""
    import shapely

    track = drive(9.5)
    thinned, segments = fit_track([(time, x, y, "van") for x, y, time in track], "van")
    assert segments is UNSET
    assert len(json.dumps(thinned).replace(" ", "")) <= 63 * 1024
    assert (thinned[0][2], thinned[-1][2]) == (track[0][2], track[-1][2])
    assert [p[2] for p in thinned] == sorted(p[2] for p in thinned)
    line = shapely.LineString([p[:2] for p in thinned])
    assert max(line.distance(shapely.Point(p[:2])) for p in track[::50]) * 111_195 < 10


def drive(longitude: float) -> list[tuple[float, float, int]]:
    """Four hours at 1 Hz in ever new curves around a longitude."""
    return [
        (wrapped(longitude + 0.05 * sin(i / 900)), 47.1 + 0.05 * cos(i / 700), 1_763_856_000_000 + i * 1000)
        for i in range(14_400)
    ]


def wrapped(longitude: float) -> float:
    return (longitude + 180.0) % 360.0 - 180.0


def test_a_drive_across_the_antimeridian_is_thinned_as_any_other() -> None:
    here, there = (fit_track([(time, x, y, "van") for x, y, time in drive(longitude)], "van")[0] for longitude in (10.0, 180.0))
    assert len({x > 0 for x, _, _ in there}) == 2
    assert abs(len(here) - len(there)) <= 2
    assert len({time for _, _, time in here} ^ {time for _, _, time in there}) <= 4


def test_a_route_across_the_antimeridian_is_thinned_as_any_other() -> None:
    def shown(longitude: float) -> list[list[float]]:
        route = {"type": "LineString", "coordinates": [[x, y] for x, y, _ in drive(longitude)]}
        place = Place(47.1, longitude)
        trip = Trip(1, "trip", "fleet", None, TripStatus.NEW, 1, place, place, (), route, 0, None, None)
        view = live_view(trip)
        assert view.route is not UNSET
        found: list[list[float]] = view.route["coordinates"]
        return found

    here, there = shown(10.0), shown(180.0)
    assert 2 < len(there) < 1000
    assert abs(len(here) - len(there)) <= 2


def test_each_vehicles_line_is_thinned_by_itself() -> None:
    """Two that drove at the same time, a degree apart, keep the shape of each."""
    driven = sorted((time + wide, x + wide, y, f"van-{wide}") for wide in (0, 1) for x, y, time in drive(9.5))
    track, segments = fit_track(driven, "van-1")
    alone, _ = fit_track([point for point in driven if point[3] == "van-0"], "van-0")
    assert segments is not UNSET
    assert len(json.dumps([track, segments]).replace(" ", "")) <= 63 * 1024 + 1
    first = [point for point in track if point[0] < 10.0]
    assert (first[0][2], first[-1][2]) == (alone[0][2], alone[-1][2])
    assert max(longitude for longitude, _, _ in track) > 10.0 and len(first) > 50


@given(st.lists(points, min_size=2, max_size=300), st.integers(500, 4000))
def test_every_track_fits_and_keeps_its_ends(driven: list[DrivenPoint], room: int) -> None:
    driven.sort()
    thinned, segments = fit_track(driven, "a", room)
    runs = [] if segments is UNSET else segments
    assert len(json.dumps(thinned).replace(" ", "")) + len(json.dumps(runs).replace(" ", "")) <= room + 2
    assert (thinned[0][2], thinned[-1][2]) == (driven[0][0], driven[-1][0])
    assert [time for _, _, time in thinned] == sorted(time for _, _, time in thinned)
    # Whose each point is: by the segments as in the track itself.
    owners = runs or [(0, "a")]
    read = [next(vehicle for begin, vehicle in reversed(owners) if begin <= i) for i in range(len(thinned))]
    for vehicle in {point[3] for point in driven}:
        times = [point[0] for point in driven if point[3] == vehicle]
        kept = [time for (_, _, time), owner in zip(thinned, read, strict=True) if owner == vehicle]
        assert (kept[0], kept[-1]) == (times[0], times[-1])


def test_a_geofence_that_does_not_fit_is_simplified() -> None:
    ring = [[9.5 + 0.1 * cos(i / 10_000 * 6.2831), 47.1 + 0.1 * sin(i / 10_000 * 6.2831)] for i in range(10_000)]
    round_one = Geofence("f", "round", {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}, {"name": "Round"})
    news = geofence_news(round_one)
    view = news.geofence
    assert news.simplified is True
    assert len(frame(news)) <= MAX_FRAME_BYTES
    assert (
        shape_of(view.geometry).symmetric_difference(shape_of(round_one.geometry)).area < 0.001 * shape_of(view.geometry).area
    )
    # Triangles can't lose a corner.
    triangles = [[[[x, y], [x + 0.001, y], [x, y + 0.001], [x, y]]] for x in range(70) for y in range(70)]
    many = Geofence("f", "many", {"type": "MultiPolygon", "coordinates": triangles}, {})
    news = geofence_news(many)
    view = news.geofence
    assert len(frame(news)) <= MAX_FRAME_BYTES
    assert shape_of(view.geometry).bounds == shape_of(many.geometry).bounds
    small = Geofence("f", "small", {"type": "Polygon", "coordinates": triangles[0]}, {})
    assert geofence_news(small).geofence.geometry is small.geometry
