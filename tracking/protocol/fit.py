"""What fits into one frame of 64 KiB. A track or a route is whole as long as it fits; a longer one loses the points that a map
would not show."""

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
"""Bytes that its route may take in one."""
ENVELOPE = 1024
"""Bytes of everything else around a track."""
TRACK_ROOM = MAX_FRAME_BYTES - ENVELOPE

_TOLERANCES = 18
"""Each twice the one before it, from half a metre to 65 km."""
_SIMPLIFY_SECONDS = 1.0
"""How long a geofence, or a route, is simplified ever more coarsely."""
MAX_SIMPLIFIED = 250_000
"""Points of one vehicle that are simplified; of more every second one, or every third."""
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


def _thin_route(data: bytes) -> list[list[float]]:
    """Remembered, because everyone who comes to watch the trip is shown the same: by a digest, as the whole is large."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    with _thinning:
        known = _thin_routes.pop(digest, None)
    if known is None:
        kept = np.array(msgspec.json.decode(data, type=list[tuple[float, float]]), dtype=float)
        tolerance, most = 0.5, ROUTE_ROOM // _ROUTE_POINT
        until = time.monotonic() + _SIMPLIFY_SECONDS
        while len(kept) > most:
            if time.monotonic() > until:
                # It goes to and fro, and is no way to drive; others wait for their turn.
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
"""Those that were asked for last, as JSON, by the digests of the whole ones."""


def prepare_route(route: dict[str, Any]) -> None:
    """Makes ready what `live_view` shows of a route: in a thread, as a long one takes tens of milliseconds."""
    data = encode(route["coordinates"])
    if len(data) > ROUTE_ROOM:
        _thin_route(data)


def geofence_news(geofence: Geofence, shape: BaseGeometry | None = None) -> GeofenceNews:
    """The geofence as sockets show it: simplified as far as a frame needs, to its bounds where it has too many parts for
    anything else, or where that takes too long. HTTP gives it whole. `shape` is its, where that is known.
    """
    view = GeofenceView.of(geofence)
    if len(encode(view)) <= TRACK_ROOM:
        return GeofenceNews(view)
    shape = simple = shape_of(geofence.geometry) if shape is None else shape
    until = time.monotonic() + _SIMPLIFY_SECONDS
    for doubled in range(_TOLERANCES):
        if time.monotonic() > until:
            break  # others wait for their turn
        # Not the shape's own method: in that no other thread runs meanwhile.
        simple = shapely.simplify(simple, 0.5 * 2**doubled / METRES_PER_DEGREE, preserve_topology=True)
        if shapely.get_num_coordinates(simple) * _ROUTE_POINT > 2 * TRACK_ROOM:
            continue
        view = msgspec.structs.replace(view, geometry=msgspec.json.decode(shapely.to_geojson(simple)))
        if len(encode(view)) <= TRACK_ROOM:
            return GeofenceNews(view, simplified=True)
    bounds = msgspec.json.decode(shapely.to_geojson(shape.envelope))
    return GeofenceNews(msgspec.structs.replace(view, geometry=bounds), simplified=True)


DrivenPoint = tuple[int, float, float, str]
"""`(fix_time, longitude, latitude, vehicle_id)`, which sorts by time"""


class FittedTrack(NamedTuple):
    """A track as a message has it, and whose which part of it is; `segments` unset where all of it is the one vehicle's."""

    track: Sequence[TrackPoint]
    segments: Sequence[Segment] | UnsetType


def fit_track(driven: Sequence[DrivenPoint], vehicle_id: str, room: int = TRACK_ROOM) -> FittedTrack:
    """The track, in at most `room` bytes of JSON; of each vehicle its first and last point always in it.

    `driven` is in the order of time, `vehicle_id` the vehicle that the trip has now. Where the track does not fit it is rounded
    to 0.1 m, and each vehicle's line simplified by Douglas and Peucker's algorithm (Cartographica 10(2), 1973) with a tolerance
    that doubles from 0.5 m until it does.
    """
    segments = _segments(driven, vehicle_id)
    if len(driven) * _WHOLE_POINT + _size_of(segments) <= room:
        return FittedTrack([(longitude, latitude, time) for time, longitude, latitude, _ in driven], segments)
    lines: dict[str, list[int]] = {}
    for index, point in enumerate(driven):
        lines.setdefault(point[3], []).append(index)
    kept: list[DrivenPoint] = list(driven)
    tolerance = 0.5
    # A vehicle's two ends stay, so that what many vehicles drove a little of each can't be made to fit: no trip has so many.
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
    """The lines, each an array `(n, 3)` of longitude, latitude and fix time by its vehicle, as `fit_track` would fit them into
    `room`, in the order of time. It takes a second for a million points, and is for a thread.
    """
    most = room // _ROUNDED_POINT
    kept = dict(lines)
    if sum(map(len, kept.values())) > most:
        # Every k-th of what is longer than any day: to simplify takes the square of the length at worst.
        kept = {vehicle_id: line[:: len(line) // MAX_SIMPLIFIED + 1] for vehicle_id, line in kept.items()}
    tolerance = 0.5
    # A vehicle's two ends stay.
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
    """The indices of the places that draw the same line, within so many metres."""
    if len(places) < 3:
        return list(range(len(places)))
    kept: list[int] = _simplified_line(np.array([place[:2] for place in places], dtype=float), tolerance).tolist()
    return kept


def _simplified_line(places: Any, tolerance: float) -> Any:
    """The same of an array `(n, 2)`, as an array."""
    if len(places) < 3:
        return np.arange(len(places))
    line = places.copy()
    # Across the antimeridian it goes on past 180 degrees.
    line[:, 0] = np.unwrap(line[:, 0], period=360.0) * cos(radians(line[0, 1]))
    # The place's index rides along as Z, which the algorithm carries and does not weigh.
    drawn = shapely.LineString(np.column_stack((line, np.arange(len(line)))))
    kept = shapely.get_coordinates(
        shapely.simplify(drawn, tolerance / METRES_PER_DEGREE, preserve_topology=False), include_z=True
    )
    return kept[:, 2].astype(int)
