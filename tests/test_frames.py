"""A track that fits into a frame."""

import json
from math import cos, sin

from hypothesis import given
from hypothesis import strategies as st

from tracking.frames import fit_track
from tracking.protocol import TrackPoint

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
