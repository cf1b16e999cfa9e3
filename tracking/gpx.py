"""A track as GPX 1.1 (https://www.topografix.com/GPX/1/1/), in pieces, serialised by gpxpy.

The file has one `trk`. A `trkseg` ends when no fix came for more than `GAP_MS`, or when another vehicle took over. A point of
GPX 1.1 has no speed or course. So speed (m/s) and course (degrees) are in Garmin's `TrackPointExtension` v2. Numbers have no
exponent. A longitude lies in [-180, 180) and a course in [0, 360), as the schemas require.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime, timedelta
from xml.etree.ElementTree import Element, SubElement

from gpxpy.gpx import GPX, GPXTrack, GPXTrackPoint
from gpxpy.gpxfield import gpx_fields_to_xml

from tracking.numbers import decimal
from tracking.store.positions import TrackRow

GAP_MS = 300_000
_VERSION = "1.1"
_EXTENSION = "http://www.garmin.com/xmlschemas/TrackPointExtension/v2"
_NAMESPACES = {"gpxtpx": _EXTENSION}
_END = "</trk>"
_CHUNK_ROWS = 500


async def gpx(rows: AsyncIterator[TrackRow], name: str) -> AsyncGenerator[bytes, None]:
    """The file, in pieces of about 500 points."""
    document = GPX()
    document.creator = "tracking"
    document.nsmap = dict(_NAMESPACES)
    document.tracks.append(GPXTrack(name=name))
    head, end, tail = document.to_xml(_VERSION).rpartition(_END)
    parts = [head.rstrip()]
    last: TrackRow | None = None
    async for row in rows:
        if last is None:
            parts.append("\n    <trkseg>")
        elif row.fix_time - last.fix_time > GAP_MS or row.vehicle_id != last.vehicle_id:
            parts.append("\n    </trkseg>\n    <trkseg>")
        parts.append(gpx_fields_to_xml(_point(row), "trkpt", _VERSION, nsmap=_NAMESPACES, indent="      "))
        last = row
        if len(parts) >= _CHUNK_ROWS:
            yield "".join(parts).encode()
            parts.clear()
    if last is not None:
        parts.append("\n    </trkseg>")
    parts += ("\n  ", end, tail)
    yield "".join(parts).encode()


class _Time(datetime):
    """A time that is always written with milliseconds. gpxpy calls `isoformat`, which writes six digits or none."""

    def isoformat(self, sep: str = "T", timespec: str = "milliseconds") -> str:
        return super().isoformat(sep, timespec)


_EPOCH = _Time(1970, 1, 1, tzinfo=UTC)


def _point(row: TrackRow) -> GPXTrackPoint:
    # Our longitudes may be 180 or -180. GPX allows only -180.
    longitude = -180.0 if row.longitude == 180.0 else row.longitude
    point = GPXTrackPoint(row.latitude, longitude, row.altitude, _EPOCH + timedelta(milliseconds=row.fix_time))
    if row.speed is not None or row.bearing is not None:
        extension = Element(f"{{{_EXTENSION}}}TrackPointExtension")
        course = None if row.bearing is None else row.bearing % 360
        for tag, value in (("speed", row.speed), ("course", course)):
            if value is not None:
                SubElement(extension, f"{{{_EXTENSION}}}{tag}").text = decimal(value)
        point.extensions.append(extension)
    return point
