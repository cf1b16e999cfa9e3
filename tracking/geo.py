"""Pure geometry on WGS 84: no I/O, no state. Degrees and metres."""

import struct
from collections.abc import Iterator
from math import asin, copysign, cos, radians, sin, sqrt

PlaceAt = tuple[float, float]
"""`(longitude, latitude)`, as in GeoJSON."""
EARTH_RADIUS = 6_371_008.8
"""Mean radius R1 of the GRS 80 ellipsoid, metres (Moritz, Geodetic Reference System 1980, 2000)."""

METRES_PER_DEGREE = radians(1.0) * EARTH_RADIUS
"""Metres in a degree of latitude on that sphere, and in a degree of longitude at the equator."""

_pack_point = struct.Struct("<BIdd").pack
_unpack_point = struct.Struct("<BIdd").unpack
_EWKB_POINT = 1
VERTEX_BYTES = 24
"""Bytes of a vertex with M."""
WKB_LINE_HEAD = 9
"""Bytes before the vertices of a line, without SRID."""
_unpack_vertices = struct.Struct("<ddd").iter_unpack
_unpack_point_srid = struct.Struct("<BIIdd").unpack


def distance(latitude1: float, longitude1: float, latitude2: float, longitude2: float) -> float:
    """Great-circle distance in metres on a sphere of `EARTH_RADIUS`, by the haversine formula.

    Source: R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (1984). Within 0.6 % of the ellipsoid.
    """
    phi1, phi2 = radians(latitude1), radians(latitude2)
    half_phi = (phi2 - phi1) / 2
    half_lambda = radians(longitude2 - longitude1) / 2
    h = sin(half_phi) ** 2 + cos(phi1) * cos(phi2) * sin(half_lambda) ** 2
    return 2 * EARTH_RADIUS * asin(min(1.0, sqrt(h)))


def around(degrees: float) -> float:
    """The shorter difference of two longitudes, -180 to 180, across the antimeridian if that is shorter."""
    if degrees > 180.0:
        return degrees - 360.0
    return degrees + 360.0 if degrees < -180.0 else degrees


def antimeridian(start: PlaceAt, end: PlaceAt) -> tuple[float, float, float] | None:
    """The point at which the straight line between two places crosses the antimeridian; None if it does not.

    The values are the longitude on the start's side (180 or -180), the latitude, and the share of the way from the start.
    """
    if abs(end[0] - start[0]) <= 180.0:
        return None
    there, here = 180.0 - abs(start[0]), 180.0 - abs(end[0])
    share = there / (there + here) if there + here > 0.0 else 1.0
    latitude = start[1] + (end[1] - start[1]) * share
    # Rounding must not move the point past the pole.
    return copysign(180.0, start[0]), min(max(latitude, min(start[1], end[1])), max(start[1], end[1])), share


def pack_point(longitude: float, latitude: float) -> bytes:
    """A point as 21 bytes of little-endian EWKB; PostGIS gives it the column's SRID."""
    return _pack_point(1, _EWKB_POINT, longitude, latitude)


def unpack_point(ewkb: bytes) -> tuple[float, float]:
    """`(longitude, latitude)` of a little-endian EWKB point, with or without SRID. Raises `struct.error` otherwise."""
    if len(ewkb) == 21:
        _, _, longitude, latitude = _unpack_point(ewkb)
    else:
        _, _, _, longitude, latitude = _unpack_point_srid(ewkb)
    return longitude, latitude


def unpack_vertices_m(wkb: bytes) -> Iterator[tuple[float, float, float]]:
    """`(longitude, latitude, m)` of vertices in little-endian WKB."""
    return _unpack_vertices(wkb)
