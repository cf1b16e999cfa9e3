"""What fits into one frame of 64 KiB. A track or a route is whole as long as it fits; a longer one loses the points that a map
would not show."""

import functools
from collections.abc import Sequence
from math import cos, radians

import msgspec
import shapely

from tracking.errors import ErrorCode, Refusal
from tracking.geo import METRES_PER_DEGREE
from tracking.geojson import shape_of
from tracking.model import Geofence, Trip
from tracking.protocol import MAX_FRAME_BYTES, GeofenceNews, GeofenceView, TrackPoint, TripView, encode

PLACES_ROOM = 16 * 1024
"""Bytes that a trip may take in a frame, without its route."""
ROUTE_ROOM = 16 * 1024
"""Bytes that its route may take in one."""
ENVELOPE = 1024
"""Bytes of everything else around a track."""
TRACK_ROOM = MAX_FRAME_BYTES - ENVELOPE

_TOLERANCES = 18
"""Each twice the one before it, from half a metre to 65 km."""
_WHOLE_POINT = 56
"""Bytes of `[longitude,latitude,fix_time],` at full precision, at the most."""
_ROUNDED_POINT = 39
"""The same with six decimals (0.1 m): `[-180.123456,-90.123456,1234567890123],`."""
_ROUTE_POINT = 25
"""`[-180.123456,-90.123456],`"""


def check_places(view: TripView) -> None:
    """Raises `Refusal` (`bad_field`) for a trip whose places would leave no room for anything else in a frame."""
    size = len(encode(msgspec.structs.replace(view, route=msgspec.UNSET)))
    if size > PLACES_ROOM:
        detail = f"pickup, dropoff and stops take {size} bytes, at most {PLACES_ROOM} fit: fewer stops, or shorter names"
        raise Refusal(ErrorCode.BAD_FIELD, detail, field="stops")


def live_view(trip: Trip, *, show_vehicle: bool = True) -> TripView:
    """The trip as sockets show it: its route simplified as far as a frame needs. HTTP gives it whole."""
    view = TripView.of(trip, show_vehicle=show_vehicle)
    if trip.route is None:
        return view
    data = encode(trip.route["coordinates"])
    if len(data) <= ROUTE_ROOM:
        return view
    return msgspec.structs.replace(view, route={"type": "LineString", "coordinates": _thin_route(data)})


@functools.lru_cache(maxsize=256)
def _thin_route(data: bytes) -> list[list[float]]:
    """Remembered, because everyone who comes to watch the trip is shown the same."""
    points = msgspec.json.decode(data, type=list[list[float]])
    kept = _simplified(points, ROUTE_ROOM // _ROUTE_POINT)
    return [[round(points[index][0], 6), round(points[index][1], 6)] for index in kept]


def geofence_news(geofence: Geofence) -> GeofenceNews:
    """The geofence as sockets show it: simplified as far as a frame needs, to its bounds where it has too many parts for
    anything else. HTTP gives it whole.
    """
    view = GeofenceView.of(geofence)
    if len(encode(view)) <= TRACK_ROOM:
        return GeofenceNews(view)
    shape = shape_of(geofence.geometry)
    for doubled in range(_TOLERANCES):
        simple = shape.simplify(0.5 * 2**doubled / METRES_PER_DEGREE, preserve_topology=True)
        view = msgspec.structs.replace(view, geometry=msgspec.json.decode(shapely.to_geojson(simple)))
        if len(encode(view)) <= TRACK_ROOM:
            return GeofenceNews(view, simplified=True)
    bounds = msgspec.json.decode(shapely.to_geojson(shape.envelope))
    return GeofenceNews(msgspec.structs.replace(view, geometry=bounds), simplified=True)


def fit_track(track: Sequence[TrackPoint], room: int = TRACK_ROOM) -> Sequence[TrackPoint]:
    """The track, in at most `room` bytes of JSON, its first and last point always in it.

    Where it does not fit it is rounded to 0.1 m, and simplified by Douglas and Peucker's algorithm (Cartographica 10(2),
    1973) with a tolerance that doubles from 0.5 m until it does.
    """
    if len(track) * _WHOLE_POINT <= room:
        return track
    kept: Sequence[int] = range(len(track))
    if len(track) * _ROUNDED_POINT > room:
        kept = _simplified(track, room // _ROUNDED_POINT)
    return [(round(track[index][0], 6), round(track[index][1], 6), track[index][2]) for index in kept]


def _simplified(points: Sequence[Sequence[float]], most: int) -> list[int]:
    """The indices of at most `most` points that draw the same line, as nearly as so few can."""
    narrow = cos(radians(points[0][1]))
    # The point's index rides along as Z, which the algorithm carries and does not weigh.
    line = shapely.LineString([(point[0] * narrow, point[1], float(index)) for index, point in enumerate(points)])
    tolerance = 0.5
    while True:
        kept = shapely.get_coordinates(line.simplify(tolerance / METRES_PER_DEGREE, preserve_topology=False), include_z=True)
        if len(kept) <= most:
            return [int(index) for _, _, index in kept]
        tolerance *= 2
