"""Makes messages fit into one frame of 64 KiB.

A track or a route stays whole if it fits. A longer one loses points that a map would not show.
"""

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from math import cos, radians
from typing import Any, NamedTuple

import msgspec
import numpy as np
import shapely
from msgspec import UNSET, UnsetType
from shapely.geometry.base import BaseGeometry

from tracking.errors import ErrorCode, Refusal
from tracking.geo import METRES_PER_DEGREE
from tracking.geojson import shape_of
from tracking.model import Geofence, Trip
from tracking.protocol.codec import MAX_FRAME_BYTES, encode
from tracking.protocol.dispatcher import GeofenceNews
from tracking.protocol.http import GeofenceView, TripView
from tracking.protocol.passenger import Segment, TrackPoint

PLACES_ROOM = 16 * 1024
"""Bytes that a trip may take in a frame, without its route."""
ROUTE_ROOM = 16 * 1024
"""Bytes that its route may take in a frame."""
ENVELOPE = 1024
"""Bytes of the other fields around a track."""
TRACK_ROOM = MAX_FRAME_BYTES - ENVELOPE

_TOLERANCES = 18
"""The number of tolerances that are tried. Each is twice the one before, from half a metre to 65 km."""
_SIMPLIFY_SECONDS = 1.0
"""The time to simplify a geofence or route with rising tolerances."""
MAX_SIMPLIFIED = 250_000
"""Points of one vehicle that are simplified. Of a longer line, only every second or third point is used."""
_WHOLE_POINT = 56
"""The most bytes of `[longitude,latitude,fix_time],` at full precision."""
_ROUNDED_POINT = 39
"""The same with six decimals (0.1 m): `[-180.123456,-90.123456,1234567890123],`."""
_ROUTE_POINT = 25
"""`[-180.123456,-90.123456],`"""


def check_places(view: TripView) -> None:
    """Raises `Refusal` (`bad_field`) for a trip whose places take too much of a frame."""
    size = len(encode(msgspec.structs.replace(view, route=msgspec.UNSET)))
    if size > PLACES_ROOM:
        detail = f"pickup, dropoff and stops take {size} bytes, at most {PLACES_ROOM} fit: fewer stops, or shorter names"
        raise Refusal(ErrorCode.BAD_FIELD, detail, field="stops")


def live_view(trip: Trip, *, show_vehicle: bool = True) -> TripView:
    """The trip as sockets show it. Its route is simplified to fit into a frame; HTTP has it whole."""
    view = TripView.of(trip, show_vehicle=show_vehicle)
    if trip.route is None:
        return view
    data = encode(trip.route["coordinates"])
    if len(data) <= ROUTE_ROOM:
        return view
    return msgspec.structs.replace(view, route={"type": "LineString", "coordinates": _thin_route(data)})


def _thin_route(data: bytes) -> list[list[float]]:
    """The simplified route, from a cache by digest. Every watcher of the trip gets the same route."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    with _thinning:
        known = _thin_routes.pop(digest, None)
    if known is None:
        kept = np.array(msgspec.json.decode(data, type=list[tuple[float, float]]), dtype=float)
        tolerance, most = 0.5, ROUTE_ROOM // _ROUTE_POINT
        until = time.monotonic() + _SIMPLIFY_SECONDS
        while len(kept) > most:
            if time.monotonic() > until:
                # A route this long for its size is not a real one. It is cut short, because others wait.
                kept = kept[np.linspace(0, len(kept) - 1, most).astype(int)]
                break
            kept = kept[_simplified_line(kept, tolerance)]
            tolerance *= 2
        known = encode(kept.round(6).tolist())
    with _thinning:
        _thin_routes[digest] = known
        if len(_thin_routes) > _THIN_ROUTES:
            del _thin_routes[next(iter(_thin_routes))]
    return msgspec.json.decode(known, type=list[list[float]])


_THIN_ROUTES = 256
_thinning = threading.Lock()
_thin_routes: dict[bytes, bytes] = {}
"""The routes asked for last, simplified, as JSON, by the digest of the whole route."""


def prepare_route(route: dict[str, Any]) -> None:
    """Fill the cache of `live_view`. Call it in a thread, as a long route takes tens of milliseconds."""
    data = encode(route["coordinates"])
    if len(data) > ROUTE_ROOM:
        _thin_route(data)


def geofence_news(geofence: Geofence, shape: BaseGeometry | None = None) -> GeofenceNews:
    """The geofence as sockets show it, simplified to fit into a frame; HTTP has it whole.

    A geofence with too many parts, or one that takes too long, is replaced by its bounds. `shape` is its shape, if it is known.
    """
    view = GeofenceView.of(geofence)
    if len(encode(view)) <= TRACK_ROOM:
        return GeofenceNews(view)
    shape = simple = shape_of(geofence.geometry) if shape is None else shape
    until = time.monotonic() + _SIMPLIFY_SECONDS
    for doubled in range(_TOLERANCES):
        if time.monotonic() > until:
            break  # others wait for their turn
        # The shape's own method does not let other threads run.
        simple = shapely.simplify(simple, 0.5 * 2**doubled / METRES_PER_DEGREE, preserve_topology=True)
        if shapely.get_num_coordinates(simple) * _ROUTE_POINT > 2 * TRACK_ROOM:
            continue
        view = msgspec.structs.replace(view, geometry=msgspec.json.decode(shapely.to_geojson(simple)))
        if len(encode(view)) <= TRACK_ROOM:
            return GeofenceNews(view, simplified=True)
    bounds = msgspec.json.decode(shapely.to_geojson(shape.envelope))
    return GeofenceNews(msgspec.structs.replace(view, geometry=bounds), simplified=True)


DrivenPoint = tuple[int, float, float, str]
"""`(fix_time, longitude, latitude, vehicle_id)`, which sorts by time."""


class FittedTrack(NamedTuple):
    """A track as a message has it, and the vehicle of each part. `segments` is unset if one vehicle drove all of it."""

    track: Sequence[TrackPoint]
    segments: Sequence[Segment] | UnsetType


def fit_track(driven: Sequence[DrivenPoint], vehicle_id: str, room: int = TRACK_ROOM) -> FittedTrack:
    """The track in at most `room` bytes of JSON. The first and last point of each vehicle are always in it.

    `driven` is in the order of time. `vehicle_id` is the trip's present vehicle. A track that does not fit is rounded to 0.1 m.
    Each vehicle's line is then simplified by Douglas and Peucker's algorithm (Cartographica 10(2), 1973). The tolerance doubles
    from 0.5 m until the track fits.
    """
    segments = _segments(driven, vehicle_id)
    if len(driven) * _WHOLE_POINT + _size_of(segments) <= room:
        return FittedTrack([(longitude, latitude, time) for time, longitude, latitude, _ in driven], segments)
    lines: dict[str, list[int]] = {}
    for index, point in enumerate(driven):
        lines.setdefault(point[3], []).append(index)
    kept: list[DrivenPoint] = list(driven)
    tolerance = 0.5
    # Both ends of each vehicle's line stay. A track of very many vehicles could not fit, but no trip has so many.
    while len(kept) * _ROUNDED_POINT + _size_of(segments) > room and len(kept) > 2 * len(lines):
        chosen = [
            indices[kept_index]
            for indices in lines.values()
            for kept_index in _simplified([driven[index][1:3] for index in indices], tolerance)
        ]
        kept = [driven[index] for index in sorted(chosen)]
        segments = _segments(kept, vehicle_id)
        tolerance *= 2
    return FittedTrack([(round(longitude, 6), round(latitude, 6), time) for time, longitude, latitude, _ in kept], segments)


def thinned(lines: Mapping[str, Any], room: int) -> list[DrivenPoint]:
    """The lines as `fit_track` would fit them into `room`, in the order of time.

    Each line is an array `(n, 3)` of longitude, latitude and fix time. A million points take a second, so call it in a thread.
    """
    most = room // _ROUNDED_POINT
    kept = dict(lines)
    if sum(map(len, kept.values())) > most:
        # Every k-th point of a line that is longer than any day. In the worst case, simplifying takes the square of the length.
        kept = {vehicle_id: line[:: len(line) // MAX_SIMPLIFIED + 1] for vehicle_id, line in kept.items()}
    tolerance = 0.5
    # Both ends of each vehicle's line stay.
    while 2 * len(kept) < sum(map(len, kept.values())) > most:
        kept = {vehicle_id: line[_simplified_line(line[:, :2], tolerance)] for vehicle_id, line in kept.items()}
        tolerance *= 2
    return sorted(
        {
            (int(time), longitude, latitude, vehicle_id)
            for vehicle_id, line in kept.items()
            for longitude, latitude, time in line.tolist()
        }
    )


def _segments(driven: Sequence[DrivenPoint], vehicle_id: str) -> list[Segment] | UnsetType:
    segments: list[Segment] = []
    before = None
    for index, point in enumerate(driven):
        if point[3] != before:
            before = point[3]
            segments.append((index, before))
    return UNSET if not segments or segments == [(0, vehicle_id)] else segments


def _size_of(segments: list[Segment] | UnsetType) -> int:
    return 0 if segments is UNSET else len(encode(segments))


def _simplified(places: Sequence[Sequence[float]], tolerance: float) -> list[int]:
    """The indices of the places that draw the same line, within `tolerance` metres."""
    if len(places) < 3:
        return list(range(len(places)))
    kept: list[int] = _simplified_line(np.array([place[:2] for place in places], dtype=float), tolerance).tolist()
    return kept


def _simplified_line(places: Any, tolerance: float) -> Any:
    """`_simplified` for an array `(n, 2)`, as an array."""
    if len(places) < 3:
        return np.arange(len(places))
    line = places.copy()
    # A line across the antimeridian continues past 180 degrees.
    line[:, 0] = np.unwrap(line[:, 0], period=360.0) * cos(radians(line[0, 1]))
    # The place's index is the Z coordinate. The algorithm keeps Z and ignores it otherwise.
    drawn = shapely.LineString(np.column_stack((line, np.arange(len(line)))))
    kept = shapely.get_coordinates(
        shapely.simplify(drawn, tolerance / METRES_PER_DEGREE, preserve_topology=False), include_z=True
    )
    return kept[:, 2].astype(int)
