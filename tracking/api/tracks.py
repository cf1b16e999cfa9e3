"""Tracks of a trip or a vehicle as GeoJSON, CSV or GPX. Rows are streamed, so that a month of them does not fill memory."""

import csv
import io
import re
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.audit import exported
from tracking.api.http import (
    check_order,
    flag,
    name_in_path,
    not_found,
    principal_of,
    require,
    resource,
    service_of,
    whole_number,
)
from tracking.api.trips import known_trip
from tracking.audit import Kind
from tracking.auth import Principal, Role, TripField, may_manage_fleet, may_see
from tracking.downloads import Download
from tracking.errors import ErrorCode, Refusal
from tracking.geo import PlaceAt, antimeridian
from tracking.gpx import gpx
from tracking.ingest.vehicles import FOREVER
from tracking.model import Trip
from tracking.numbers import decimal
from tracking.service import Service
from tracking.store import tracks, vehicles
from tracking.store.positions import TrackRow

CSV_COLUMNS = (
    "vehicle_id",
    "session",
    "seq",
    "fix_time",
    "server_time",
    "latitude",
    "longitude",
    "accuracy",
    "altitude",
    "speed",
    "bearing",
    "trip_id",
    "suspect",
)
_CHUNK_ROWS = 500
_UNDECIDED = 5_000
"""Positions of a segment after which it is written as a LineString. If it is cut after that, it continues as another Feature.
"""

_encode = msgspec.json.encode
Rows = AsyncIterator[TrackRow]
Batches = AsyncIterator[Sequence[TrackRow]]


async def of_trip(request: Request) -> Response:
    seen = await _seen_trip(request)
    database, suspect = service_of(request).exports, flag(request, "suspect")
    pieces = tracks.of_trip(database, seen.trip.number, suspect=suspect)
    return await _stream(request, seen.principal, Kind.TRIP, seen.trip.trip_id, pieces, lambda: _check_trip(request, seen))


class _SeenTrip(NamedTuple):
    """A trip, the principal that asks for it, and the numbers of the vehicles that drove it."""

    principal: Principal
    trip: Trip
    vehicles: frozenset[int]


async def _seen_trip(request: Request) -> _SeenTrip:
    """Raises `Refusal` unless the principal may see the trip's track now."""
    principal = await principal_of(request)
    service = service_of(request)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    if not may_see(principal.role, TripField.POSITION, trip.status):
        raise Refusal(ErrorCode.FORBIDDEN, f"the trip is {trip.status}: a {principal.role} sees no track of it now")
    async with service.database.connection() as connection:
        drove = await tracks.vehicles_of_trip(connection, trip.number)
    return _SeenTrip(principal, trip, drove)


async def _check_trip(request: Request, seen: _SeenTrip) -> None:
    now = await _seen_trip(request)
    if now.trip.number != seen.trip.number or not now.vehicles >= seen.vehicles:
        # The vehicle was created again, or the one that drove was erased.
        raise not_found()


async def of_vehicle(request: Request) -> Response:
    principal, stored = await _seen_vehicle(request)
    from_ = whole_number(request, "from", 0) or 0
    to = whole_number(request, "to", FOREVER, most=FOREVER) or 0
    check_order(from_, to, ("from", "to"))
    # A dispatcher may not see positions and trips for the fleet before, even if the device's clock was fast.
    joined_at = 0 if principal.role is Role.SERVICE else stored.joined_at
    database, suspect = service_of(request).exports, flag(request, "suspect")
    pieces = tracks.of_vehicle(database, stored.number, max(from_, joined_at), to, suspect=suspect, joined_at=joined_at)
    return await _stream(
        request, principal, Kind.VEHICLE, stored.vehicle.vehicle_id, pieces, lambda: _check_vehicle(request, stored)
    )


async def _seen_vehicle(request: Request) -> tuple[Principal, vehicles.Stored]:
    """Raises `Refusal` unless the principal may see the vehicle's positions now."""
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    async with service_of(request).database.connection() as connection:
        stored = await vehicles.get(connection, name_in_path(request, "vehicle_id"))
    if stored is None or not may_manage_fleet(principal, stored.vehicle.fleet_id):
        raise not_found()
    return principal, stored


async def _check_vehicle(request: Request, stored: vehicles.Stored) -> None:
    _, now = await _seen_vehicle(request)
    if (now.number, now.vehicle.fleet_id, now.joined_at) != (stored.number, stored.vehicle.fleet_id, stored.joined_at):
        raise not_found()


async def _stream(
    request: Request, principal: Principal, kind: Kind, name: str, pieces: Batches, check: Callable[[], Awaitable[None]]
) -> Response:
    """Stream the track. `name` is the trip's or the vehicle's, for formats that have one. `check` raises once the track may not
    be seen.
    """
    format_ = request.query_params.get("format", "geojson")
    if format_ not in _WRITERS:
        raise Refusal(
            ErrorCode.BAD_FIELD, f"`format` must be one of {', '.join(_WRITERS)}; got {format_!r:.40}", field="format"
        )
    write, media_type, rows_at_once = _WRITERS[format_]
    service = service_of(request)
    if request.method != "HEAD":
        service.budgets.downloads.spend(principal.jti, principal.role)
    chunks = exported(request, principal, kind, name, write(_by_turns(service, pieces, rows_at_once), name))
    return Download(service.downloads, principal, chunks, media_type, check)


async def _by_turns(service: Service, pieces: Batches, rows_at_once: int) -> Batches:
    """The same rows in smaller batches, each in its turn among all downloads.

    Raises `Refusal` if the vehicle of a row was erased since it was read.
    """
    with service.hub.erased() as erased:
        async for rows in pieces:
            for begin in range(0, len(rows), rows_at_once):
                await service.downloads.turn()
                if erased and any(row.vehicle_id in erased for row in rows):
                    raise not_found()
                yield rows[begin : begin + rows_at_once]


async def as_csv(batches: Batches, _name: str) -> AsyncGenerator[bytes, None]:
    """Numbers are plain decimals. A text that a spreadsheet would compute gets an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    async for rows in batches:
        for begin in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[begin : begin + _CHUNK_ROWS]
            # A whole batch is written by the csv module. Single rows are rewritten only if a cell needs it.
            begun = text.tell()
            writer.writerows(chunk)
            if _EXPONENT.search(text.getvalue()) or not all(_is_good(name) for name in _texts(chunk) if name):
                text.seek(begun)
                text.truncate()
                writer.writerows(map(_cells, chunk))
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


_EXPONENT = re.compile(r",-?[\d.]+e[-+]\d+(?=[,\n])", re.ASCII)
"""A number that Python writes with an exponent."""
_FORMULA = re.compile(r"(?!-?\d+(\.\d+)?\Z)[=+\-@\t\r\n＝＋－＠]", re.ASCII)  # noqa: RUF001 full width, which Excel takes too
"""The start of a text that a spreadsheet computes (OWASP, "CSV Injection"). A plain number is not matched."""


def _is_good(text: str) -> bool:
    return not _FORMULA.match(text) and "\r" not in text


def _texts(rows: Sequence[TrackRow]) -> set[str | None]:
    """The distinct texts of these rows that clients choose."""
    return {row.vehicle_id for row in rows} | {row.session for row in rows} | {row.trip_id for row in rows}


def _cells(row: TrackRow) -> list[object]:
    """A row with plain decimal numbers, and an apostrophe before each text that a spreadsheet would compute."""
    return [decimal(cell) if isinstance(cell, float) else _text(cell) if isinstance(cell, str) else cell for cell in row]


def _text(text: str) -> str:
    # Many readers end a row at a carriage return. The csv module quotes it only from Python 3.13 on.
    return ("'" if _FORMULA.match(text) else "") + text.replace("\r", " ")


async def _each(batches: Batches) -> Rows:
    async for rows in batches:
        for row in rows:
            yield row


def _gpx(batches: Batches, name: str) -> AsyncGenerator[bytes, None]:
    return gpx(_each(batches), name)


async def as_geojson(batches: Batches, _name: str) -> AsyncGenerator[bytes, None]:
    """A FeatureCollection with a Feature for each segment of a vehicle. The fix times are beside the line (RFC 7946)."""
    # The head is not a piece of its own. The first piece must come after the database has answered.
    before = b'{"type":"FeatureCollection","features":['
    feature: _Feature | None = None
    async for row in _each(batches):
        place = row.longitude, row.latitude
        if feature is None or feature.vehicle_id != row.vehicle_id:
            if feature is not None:
                for piece in feature.end():
                    yield piece
                before = b","
            feature = _Feature(row.vehicle_id, before)
        elif (crossing := antimeridian(feature.place, place)) is not None:
            longitude, latitude, share = crossing
            time = feature.times[-1] + round((row.fix_time - feature.times[-1]) * share)
            feature.add((longitude, latitude), time)
            if not feature.cut():
                for piece in feature.end():
                    yield piece
                feature = _Feature(row.vehicle_id, b",")
            feature.add((-longitude, latitude), time)
        feature.add(place, row.fix_time)
        if feature.waiting >= _CHUNK_ROWS:
            yield feature.piece()
    if feature is None:
        yield before
    else:
        for piece in feature.end():
            yield piece
    yield b"]}"


class _Feature:
    """A segment that is being written: a Point, a LineString, or a MultiLineString if the antimeridian cuts it.

    The type comes first in the text. So the first `_UNDECIDED` positions wait until it is known.
    """

    def __init__(self, vehicle_id: str, before: bytes) -> None:
        """`before` is written before the Feature."""
        self.vehicle_id = vehicle_id
        self._before = before
        self.times = array("q")
        """Fix times are written after the line, so they are kept: eight bytes for each position."""
        self.place = (0.0, 0.0)
        self.waiting = 0
        self._parts: list[list[PlaceAt]] = [[]]
        """parts that are not written yet; the first one continues what is written"""
        self._kind: str | None = None
        self._given = False
        """whether some of the present part is written already"""

    def add(self, place: PlaceAt, time: int) -> None:
        self.place = place
        self.times.append(time)
        self._parts[-1].append(place)
        self.waiting += self._kind is not None or len(self.times) > _UNDECIDED

    def cut(self) -> bool:
        """Begin another part; return False if the line is written as a LineString already. Another Feature must begin then."""
        if self._kind == "LineString":
            return False
        self._parts.append([])
        return True

    def piece(self) -> bytes:
        """The text that waits to be written."""
        head = b""
        if self._kind is None:
            self._kind = "MultiLineString" if len(self._parts) > 1 else "LineString" if len(self.times) > 1 else "Point"
            head = b'%b{"type":"Feature","geometry":{"type":"%b","coordinates":%b' % (
                self._before,
                self._kind.encode(),
                {"MultiLineString": b"[[", "LineString": b"[", "Point": b""}[self._kind],
            )
        written = []
        for number, part in enumerate(self._parts):
            places = b",".join(map(_encode, part))
            written.append(b"," + places if number == 0 and self._given and places else places)
        self._given = bool(self._parts[-1]) or (self._given and len(self._parts) == 1)
        self._parts = [[]]
        self.waiting = 0
        return head + b"],[".join(written)

    def end(self) -> Iterator[bytes]:
        """The text that waits to be written, and everything after the line."""
        yield self.piece()
        closing = {"MultiLineString": b"]]", "LineString": b"]", "Point": b""}[self._kind or "Point"]
        yield b'%b},"properties":{"vehicle_id":%b,"fix_times":[' % (closing, _encode(self.vehicle_id))
        for begin in range(0, len(self.times), _CHUNK_ROWS):
            yield (b"," if begin else b"") + b",".join(b"%d" % time for time in self.times[begin : begin + _CHUNK_ROWS])
        yield b"]}}"


_WRITERS: dict[str, tuple[Callable[[Batches, str], AsyncGenerator[bytes, None]], str, int]] = {
    "geojson": (as_geojson, "application/geo+json", 500),
    "csv": (as_csv, "text/csv; charset=utf-8", 250),
    "gpx": (_gpx, "application/gpx+xml", 100),
}
"""The writer, its media type, and the rows that it writes in about 2 ms, which is one step of the event loop."""

routes = [
    resource("/trips/{trip_id}/track", GET=of_trip),
    resource("/vehicles/{vehicle_id}/track", GET=of_vehicle),
]
