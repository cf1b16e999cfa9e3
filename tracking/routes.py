"""The route of a trip: read it, and check it against the trip's places. No I/O. A long route takes tens of milliseconds."""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import cos, radians
from typing import Any

import msgspec
import numpy as np
import polyline

from tracking.errors import ErrorCode, Refusal
from tracking.geo import METRES_PER_DEGREE, PlaceAt, distance
from tracking.model import Place

MAX_POINTS = 20_000
PRECISION = 5
"""Decimals of an encoded polyline that does not name a precision."""
FINE_PRECISION = 6
NEAR_METRES = 5_000.0
NEAR_SHARE = 0.5
"""A share of the distance between the places.

A route must pass each place of its trip within this share or `NEAR_METRES`, whichever is more.
"""
FAR_APART_METRES = 1_000_000.0
EXCHANGED_METRES = 100_000.0
_ENDLESS_NUMBER = re.compile(r"[_-\x7f]{7}")
"""A number without an end. A difference of 360 degrees has at most 6 characters, the last below `_`, in either precision."""

Given = dict[str, Any] | str
"""A GeoJSON LineString, or an encoded polyline."""
_Points = list[list[float]]


class _LineString(msgspec.Struct, tag="LineString"):
    coordinates: _Points


def line_string(route: Given, precision: int | None, places: Mapping[str, Place]) -> dict[str, Any]:
    """The route as a GeoJSON LineString.

    `places` are the places of its trip by field name, `pickup` first. Raises `Refusal` if the route is far from one of them.
    The error names the likely cause: another precision, or exchanged axes.
    """
    if precision is not None and not isinstance(route, str):
        raise _refusal("is a LineString, and `route_precision` goes with an encoded polyline: leave it out")
    precision = precision or PRECISION
    points = _points(route, precision)
    if not 2 <= len(points) <= MAX_POINTS:
        raise _refusal(f"must have 2 to {MAX_POINTS} points; got {len(points)}")
    outside = next((point for point in points if not _is_place(point)), None)
    if outside is not None:
        cause = _cause(route, precision, points, places)
        expected = f": {cause}" if cause else ": expected [longitude, latitude] in degrees"
        raise _refusal(f"has the point {outside}{expected}", ErrorCode.OUT_OF_RANGE)
    missed = _missed(points, places)
    if missed is not None:
        name, metres = missed
        cause = _cause(route, precision, points, places) or "send the way from pickup to drop-off, or none"
        raise _refusal(f"passes {metres / 1000:,.0f} km from `{name}`: {cause}")
    return {"type": "LineString", "coordinates": points}


def check_places(places: Mapping[str, Place]) -> None:
    """Raises `Refusal` for a place far from the pickup that lies near it with latitude and longitude exchanged."""
    (_, pickup), *others = places.items()
    for name, place in others:
        apart = distance(pickup.latitude, pickup.longitude, place.latitude, place.longitude)
        if apart < FAR_APART_METRES or abs(place.longitude) > 90:
            continue
        exchanged = distance(pickup.latitude, pickup.longitude, place.longitude, place.latitude)
        if exchanged < EXCHANGED_METRES:
            raise Refusal(
                ErrorCode.BAD_FIELD,
                f"`{name}` lies {apart / 1000:,.0f} km from `pickup`, and {exchanged / 1000:,.0f} km from it with latitude and"
                " longitude exchanged: exchange them in one of the two",
                field=name,
            )


def _points(route: Given, precision: int) -> _Points:
    """`[longitude, latitude]` of each point; the range is not checked. Raises `Refusal`."""
    try:
        if isinstance(route, str):
            if _ENDLESS_NUMBER.search(route):
                raise ValueError("a number in it has no end")
            return [[longitude, latitude] for latitude, longitude in polyline.decode(route, precision)]
        if route.get("type") != "LineString":
            raise ValueError("`type` is not LineString")
        points = [point[:2] for point in msgspec.convert(route, _LineString).coordinates]
        short = next((point for point in points if len(point) < 2), None)
        if short is not None:
            raise ValueError(f"it has the point {short}: expected [longitude, latitude]")
    except IndexError:
        raise _refusal("ends in the middle of a number: send the whole polyline, its backslashes too") from None
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise _refusal(f"must be a GeoJSON LineString or an encoded polyline of precision {precision}: {error}") from None
    return points


def _is_place(point: Sequence[float]) -> bool:
    return -180 <= point[0] <= 180 and -90 <= point[1] <= 90


def _cause(route: Given, precision: int, points: _Points, places: Mapping[str, Place]) -> str | None:
    """The likely mistake: the first other reading of the route that passes all places."""
    for reading, cause in _readings(route, precision, points):
        if all(map(_is_place, reading)) and _missed(reading, places) is None:
            return cause
    return None


def _readings(route: Given, precision: int, points: _Points) -> Iterator[tuple[_Points, str]]:
    # The places of the trip may be the exchanged ones instead. The two cases look the same.
    order = "[latitude, longitude], where GeoJSON has [longitude, latitude]: exchange them"
    if not isinstance(route, str):
        yield _exchanged(points), f"its points look like {order}"
        return
    other = FINE_PRECISION if precision == PRECISION else PRECISION
    otherwise = _points(route, other)
    advice = f"send `route_precision: {other}`" if other == FINE_PRECISION else "leave `route_precision` out"
    yield otherwise, f"it looks like a polyline of precision {other}: {advice}"
    order = "encoded as longitude, latitude, where a polyline has latitude, longitude: exchange them"
    yield _exchanged(points), f"its points look {order}"
    yield _exchanged(otherwise), f"it looks like a polyline of precision {other}, its points {order}, and {advice}"


def _exchanged(points: _Points) -> _Points:
    return [[second, first] for first, second in points]


def _missed(points: _Points, places: Mapping[str, Place]) -> tuple[str, float] | None:
    """The first place that the route does not pass, and its distance in metres."""
    pickup, *others = places.values()
    apart = max(distance(pickup.latitude, pickup.longitude, place.latitude, place.longitude) for place in others)
    most = max(NEAR_METRES, NEAR_SHARE * apart)
    line = np.array(points, dtype=float)
    # A route across the date line continues there. It does not go round the globe.
    line[:, 0] = np.unwrap(line[:, 0], period=360)
    for name, place in places.items():
        metres = _distance(line, (place.longitude, place.latitude))
        if metres > most:
            return name, metres
    return None


def _distance(line: Any, place: PlaceAt) -> float:
    """Metres from a place to a line `(n, 2)` of degrees.

    It is computed on a plane that touches the globe at the place, so it is rough for long distances.
    """
    longitude, latitude = place
    narrow = max(cos(radians(latitude)), 1e-6)
    least = float("inf")
    for turn in (-360.0, 0.0, 360.0):
        corners = (line - (longitude + turn, latitude)) * (narrow * METRES_PER_DEGREE, METRES_PER_DEGREE)
        begins, ways = corners[:-1], np.diff(corners, axis=0)
        lengths = np.maximum((ways**2).sum(axis=1), 1e-12)
        shares = np.clip(-(begins * ways).sum(axis=1) / lengths, 0, 1)
        nearest = begins + shares[:, None] * ways
        least = min(least, float(np.sqrt((nearest**2).sum(axis=1).min())))
    return least


def _refusal(detail: str, code: ErrorCode = ErrorCode.BAD_FIELD) -> Refusal:
    return Refusal(code, f"`route` {detail}", field="route")
