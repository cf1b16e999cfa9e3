"""A track that fits into a frame."""

import json
from math import cos, sin

from hypothesis import given
from hypothesis import strategies as st

from tracking.frames import fit_track, geofence_news
from tracking.geojson import shape_of
from tracking.model import Geofence
from tracking.protocol import MAX_FRAME_BYTES, TrackPoint, frame

points = st.tuples(st.floats(-180, 180), st.floats(-90, 90), st.integers(0, 2**41))


def test_a_track_that_fits_is_whole() -> None:
    track = [(9.5 + i / 1e7, 47.123456789, i) for i in range(1000)]
    assert fit_track(track) == track


def test_a_long_drive_keeps_its_shape() -> None:
    """Four hours at 1 Hz in ever new curves: no point of the true line is further than 10 m from the thinned one."""
    import shapely

    track: list[TrackPoint] = [
        (9.5 + 0.05 * sin(i / 900), 47.1 + 0.05 * cos(i / 700), 1_763_856_000_000 + i * 1000) for i in range(14_400)
    ]
    thinned = fit_track(track)
    assert len(json.dumps(thinned).replace(" ", "")) <= 63 * 1024
    assert (thinned[0][2], thinned[-1][2]) == (track[0][2], track[-1][2])
    assert [p[2] for p in thinned] == sorted(p[2] for p in thinned)
    line = shapely.LineString([p[:2] for p in thinned])
    assert max(line.distance(shapely.Point(p[:2])) for p in track[::50]) * 111_195 < 10


@given(st.lists(points, min_size=2, max_size=300), st.integers(200, 4000))
def test_every_track_fits_and_keeps_its_ends(track: list[TrackPoint], room: int) -> None:
    thinned = fit_track(track, room)
    assert len(json.dumps(thinned).replace(" ", "")) <= room
    assert (thinned[0][2], thinned[-1][2]) == (track[0][2], track[-1][2])


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
