"""Pure geometry on WGS 84: no I/O, no state. Degrees and metres."""

import struct
from collections.abc import Iterator
from math import asin, cos, radians, sin, sqrt

PlaceAt = tuple[float, float]
"""`(longitude, latitude)`, as in GeoJSON."""
EARTH_RADIUS = 6_371_008.8
"""Mean radius R1 of the GRS 80 ellipsoid, metres (Moritz, Geodetic Reference System 1980, 2000)."""

METRES_PER_DEGREE = radians(1.0) * EARTH_RADIUS
"""Of latitude, on that sphere; of longitude at the equator."""

_pack_point = struct.Struct("<BIdd").pack
_unpack_point = struct.Struct("<BIdd").unpack
_EWKB_POINT = 1
_EWKB_HAS_SRID = 0x20000000
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


def unpack_line_m(ewkb: bytes) -> Iterator[tuple[float, float, float]]:
    """`(longitude, latitude, m)` of each vertex of a little-endian EWKB LineStringM, with or without SRID."""
    begin = 13 if int.from_bytes(ewkb[1:5], "little") & _EWKB_HAS_SRID else 9
    return _unpack_vertices(memoryview(ewkb)[begin:])
