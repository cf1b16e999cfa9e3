"""GeoJSON polygons (RFC 7946): check them, explain what is wrong, and turn them into shapely's shapes. No I/O."""

from typing import Any

import msgspec
import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from tracking.errors import ErrorCode, Refusal
from tracking.geo import PlaceAt

MAX_VERTICES = 20_000
_MAX_BRACKETS = 2 * MAX_VERTICES
"""Opening brackets in the text of a geometry. A position has one. A ring of four positions has two more."""
_MIN_AREA = 1e-12
"""In square degrees: a hundredth of a square metre."""


def shape_of(geometry: dict[str, Any]) -> BaseGeometry:
    """A GeoJSON Polygon or MultiPolygon as a shapely shape. `checked_geometry` reads one that a client sent."""
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    # shapely takes ten times as long with lists as with arrays.
    shapes = [_polygon([np.array(ring, dtype=float) for ring in rings]) for rings in polygons]
    return shapes[0] if geometry["type"] == "Polygon" else MultiPolygon(shapes)


def read_geometry(text: bytes) -> tuple[dict[str, Any], BaseGeometry]:
    """`checked_geometry` of JSON text, and its shape.

    Each call into C takes a few milliseconds at most. So a thread that works on it does not block the others.
    """
    if text.count(b"[") > _MAX_BRACKETS:
        raise _too_many()
    try:
        kind, polygons = _arrays(text)
    except (msgspec.DecodeError, RecursionError, ValueError):
        # The JSON is wrong or unusual. The slower check looks at each position, and names the wrong one.
        geometry = checked_geometry(_json(text))
        return geometry, shape_of(geometry)
    return _turned(kind, [_polygon(rings) for rings in polygons])


def _json(text: bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Refusal(ErrorCode.BAD_JSON, f"the body is not JSON that can be used: {error}") from None


class _Polygon(msgspec.Struct, tag="Polygon"):
    coordinates: list[list[list[float]]]


class _MultiPolygon(msgspec.Struct, tag="MultiPolygon"):
    coordinates: list[list[list[list[float]]]]


_decode = msgspec.json.Decoder(_Polygon | _MultiPolygon).decode


def _arrays(text: bytes) -> tuple[str, list[list[Any]]]:
    """Polygons of rings, each an array `(n, 2)`. Raises `ValidationError` or `ValueError` if one is invalid."""
    given = _decode(text)
    kind, found = ("Polygon", [given.coordinates]) if isinstance(given, _Polygon) else ("MultiPolygon", given.coordinates)
    polygons = [[np.array(ring, dtype=float)[:, :2] for ring in rings if len(ring) >= 4 or _raise()] for rings in found]
    rings = [ring for polygon in polygons for ring in polygon]
    if not rings or not all(polygons) or sum(map(len, rings)) > MAX_VERTICES:
        raise ValueError
    for ring in rings:
        if not ((np.abs(ring) <= (180.0, 90.0)).all() and (ring[0] == ring[-1]).all()):
            raise ValueError
    return kind, polygons


def _raise() -> bool:
    raise ValueError


def _polygon(rings: list[Any]) -> Polygon:
    return Polygon(rings[0], rings[1:])


def checked_geometry(geometry: object) -> dict[str, Any]:
    """Check a GeoJSON Polygon or MultiPolygon of a client, and order its rings as RFC 7946 3.1.6 says.

    Outer rings are counterclockwise. Raises `Refusal`, which says what is wrong, where, and what to do.
    """
    if not isinstance(geometry, dict) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        kind = geometry.get("type") if isinstance(geometry, dict) else geometry
        raise _refusal(f"must be a GeoJSON Polygon or MultiPolygon; got {kind!r:.60}", ErrorCode.BAD_TYPE)
    coordinates = geometry.get("coordinates")
    polygons = [coordinates] if geometry["type"] == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise _refusal("has no coordinates: draw at least one ring of four positions")
    total = 0
    shapes = []
    for polygon in polygons:
        if not isinstance(polygon, list) or not polygon:
            raise _refusal("has an empty polygon: give it a ring of at least four positions")
        rings = [_ring(ring) for ring in polygon]
        total += sum(map(len, rings))
        if total > MAX_VERTICES:
            raise _too_many()
        shapes.append(Polygon(rings[0], rings[1:]))
    return _turned(geometry["type"], shapes)[0]


def _turned(kind: str, shapes: list[Polygon]) -> tuple[dict[str, Any], BaseGeometry]:
    """The polygons as one geometry, and its shape. Raises `Refusal` if they enclose no area."""
    shape = shapes[0] if kind == "Polygon" else MultiPolygon(shapes)
    # The shape's own method takes a second for a polygon with many spikes. No other thread runs during that second.
    if not shapely.is_valid(shape):
        raise _refusal(f"is not a valid polygon: {shapely.is_valid_reason(shape)}; its lines may not cross or overlap")
    if shape.area < _MIN_AREA:
        raise _refusal("encloses nothing: its positions lie on one line, or in one place")
    if any(east - west > 180 for west, _, east, _ in (part.bounds for part in shapes)):
        raise _refusal(
            "is wider than 180 degrees: one that goes across the date line is cut there, into a MultiPolygon (RFC 7946, 3.1.9)"
        )
    turned = shapely.orient_polygons(shape)
    return {"type": kind, "coordinates": _coordinates(turned)}, turned


def _ring(ring: object) -> list[PlaceAt]:
    if not isinstance(ring, list) or len(ring) < 4:
        raise _refusal("has a ring of fewer than four positions: the first is repeated as the last")
    places: list[PlaceAt] = []
    for position in ring:
        if (
            not isinstance(position, list)
            or len(position) < 2
            or any(isinstance(number, bool) or not isinstance(number, int | float) for number in position[:2])
        ):
            raise _refusal(f"has the position {position!r:.60}: expected [longitude, latitude]", ErrorCode.BAD_TYPE)
        longitude, latitude = position[:2]
        if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
            raise _refusal(
                f"has the position {position[:2]!r:.60}: expected [longitude, latitude] in degrees",
                ErrorCode.OUT_OF_RANGE,
            )
        places.append((float(longitude), float(latitude)))
    if places[0] != places[-1]:
        raise _refusal("has a ring that is not closed: repeat its first position as the last")
    return places


def _coordinates(shape: BaseGeometry) -> list[Any]:
    if isinstance(shape, MultiPolygon):
        return [_coordinates(part) for part in shape.geoms]
    assert isinstance(shape, Polygon)
    return [shapely.get_coordinates(ring).tolist() for ring in (shape.exterior, *shape.interiors)]


def _too_many() -> Refusal:
    return _refusal(f"has more than {MAX_VERTICES} vertices: simplify it, a metre is finer than any receiver")


def _refusal(detail: str, code: ErrorCode = ErrorCode.BAD_FIELD) -> Refusal:
    return Refusal(code, f"`geometry` {detail}", field="geometry")
