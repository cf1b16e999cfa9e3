"""A track that fits into one frame. Whole as long as it fits; a longer one loses the points that a map would not show."""

from collections.abc import Sequence
from math import cos, radians

import shapely

from tracking.protocol import MAX_FRAME_BYTES, TrackPoint

ROOM = MAX_FRAME_BYTES - 8 * 1024
"""Bytes of a frame left for a track beside the trip, its stops and its route."""
_WHOLE_POINT = 56
"""Bytes of `[longitude,latitude,fix_time],` at full precision, at the most."""
_ROUNDED_POINT = 39
"""The same with six decimals (0.1 m): `[-180.123456,-90.123456,1234567890123],`."""
_METRES_PER_DEGREE = 111_195.0


def fit_track(track: Sequence[TrackPoint], room: int = ROOM) -> Sequence[TrackPoint]:
    """The track, in at most `room` bytes of JSON, its first and last point always in it.

    Where it does not fit it is rounded to 0.1 m, and simplified by Douglas and Peucker's algorithm (Cartographica 10(2),
    1973) with a tolerance that doubles from 0.5 m until it does.
    """
    if len(track) * _WHOLE_POINT <= room:
        return track
    most = room // _ROUNDED_POINT
    rounded = [(round(longitude, 6), round(latitude, 6), fix_time) for longitude, latitude, fix_time in track]
    if len(rounded) <= most:
        return rounded
    narrow = cos(radians(track[0][1]))
    # The fix time rides along as Z, which the algorithm carries and does not weigh.
    line = shapely.LineString(
        [(longitude * narrow, latitude, float(index)) for index, (longitude, latitude, _) in enumerate(track)]
    )
    tolerance = 0.5
    while True:
        kept = shapely.get_coordinates(line.simplify(tolerance / _METRES_PER_DEGREE), include_z=True)
        if len(kept) <= most:
            return [rounded[int(index)] for _, _, index in kept]
        tolerance *= 2
