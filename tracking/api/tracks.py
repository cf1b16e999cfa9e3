"""Tracks of a trip and of a vehicle as GeoJSON, CSV and GPX, streamed row by row: a month does not fill memory."""

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
"""Positions of a segment after which its line is given out as one line: one that is cut later goes on as another Feature."""

_encode = msgspec.json.encode
Rows = AsyncIterator[TrackRow]
Batches = AsyncIterator[Sequence[TrackRow]]


async def of_trip(request: Request) -> Response:
    seen = await _seen_trip(request)
    database, suspect = service_of(request).exports, flag(request, "suspect")
    pieces = tracks.of_trip(database, seen.trip.number, suspect=suspect)
    return await _stream(request, seen.principal, Kind.TRIP, seen.trip.trip_id, pieces, lambda: _check_trip(request, seen))


class _SeenTrip(NamedTuple):
    """A trip, who asks for it, and the numbers of the vehicles that drove it."""

    principal: Principal
    trip: Trip
    vehicles: frozenset[int]


async def _seen_trip(request: Request) -> _SeenTrip:
    """Raises `Refusal` unless whoever asks may see the trip's track now."""
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
        # It was made anew, or what drove it was erased.
        raise not_found()


async def of_vehicle(request: Request) -> Response:
    principal, stored = await _seen_vehicle(request)
    from_ = whole_number(request, "from", 0) or 0
    to = whole_number(request, "to", FOREVER, most=FOREVER) or 0
    check_order(from_, to, ("from", "to"))
    # Where it drove for another fleet, and on which trips, is not this one's to see, though a device's clock was fast there.
    joined_at = 0 if principal.role is Role.SERVICE else stored.joined_at
    database, suspect = service_of(request).exports, flag(request, "suspect")
    pieces = tracks.of_vehicle(database, stored.number, max(from_, joined_at), to, suspect=suspect, joined_at=joined_at)
    return await _stream(
        request, principal, Kind.VEHICLE, stored.vehicle.vehicle_id, pieces, lambda: _check_vehicle(request, stored)
    )


async def _seen_vehicle(request: Request) -> tuple[Principal, vehicles.Stored]:
    """Raises `Refusal` unless whoever asks may see the vehicle's positions now."""
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
    """`name` is the trip's or the vehicle's, for formats that have a place for it; `check` raises once it may not be seen."""
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
    """The same rows, so many at a time, each of them in its turn among all downloads.

    Raises `Refusal` where they are of a vehicle that was erased since they were read.
    """
    with service.hub.erased() as erased:
        async for rows in pieces:
            for begin in range(0, len(rows), rows_at_once):
                await service.downloads.turn()
                if erased and any(row.vehicle_id in erased for row in rows):
                    raise not_found()
                yield rows[begin : begin + rows_at_once]


async def as_csv(batches: Batches, _name: str) -> AsyncGenerator[bytes, None]:
    """Numbers are plain decimals; a text that a spreadsheet would compute has an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    async for rows in batches:
        for begin in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[begin : begin + _CHUNK_ROWS]
            # A row is what its line is, so that no Python runs for each, unless a cell of them must be written otherwise.
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
"""The beginning of a text that a spreadsheet computes (OWASP, "CSV Injection"); a plain number is none."""


def _is_good(text: str) -> bool:
    return not _FORMULA.match(text) and "\r" not in text


def _texts(rows: Sequence[TrackRow]) -> set[str | None]:
    """The texts of these rows that others choose, each once."""
    return {row.vehicle_id for row in rows} | {row.session for row in rows} | {row.trip_id for row in rows}


def _cells(row: TrackRow) -> list[object]:
    """A row with plain decimal numbers, and with an apostrophe before what a spreadsheet would compute."""
    return [decimal(cell) if isinstance(cell, float) else _text(cell) if isinstance(cell, str) else cell for cell in row]


def _text(text: str) -> str:
    # A carriage return ends a row for many readers, and the csv module does not quote it before Python 3.13.
    return ("'" if _FORMULA.match(text) else "") + text.replace("\r", " ")


async def _each(batches: Batches) -> Rows:
    async for rows in batches:
        for row in rows:
            yield row


def _gpx(batches: Batches, name: str) -> AsyncGenerator[bytes, None]:
    return gpx(_each(batches), name)


async def as_geojson(batches: Batches, _name: str) -> AsyncGenerator[bytes, None]:
    """A FeatureCollection: a Feature for each segment that a vehicle drove, its fix times beside its line (RFC 7946)."""
    # Not given out by itself: the first piece must not come before the database has answered.
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
    """A segment on its way out as GeoJSON: a Point, a LineString, or a MultiLineString where it is cut at the antimeridian.

    Which of them it is stands at its beginning, so the first `_UNDECIDED` positions wait until they are all there.
    """

    def __init__(self, vehicle_id: str, before: bytes) -> None:
        """`before` goes out before it."""
        self.vehicle_id = vehicle_id
        self._before = before
        self.times = array("q")
        """They follow the line, so they are kept: eight bytes a position."""
        self.place = (0.0, 0.0)
        self.waiting = 0
        self._parts: list[list[PlaceAt]] = [[]]
        """what was not given out yet; the first of them goes on with what was"""
        self._kind: str | None = None
        self._given = False
        """whether of the part that the next position goes on with anything was given out"""

    def add(self, place: PlaceAt, time: int) -> None:
        self.place = place
        self.times.append(time)
        self._parts[-1].append(place)
        self.waiting += self._kind is not None or len(self.times) > _UNDECIDED

    def cut(self) -> bool:
        """Begins another part. False where it is given out as one line already: then another Feature must begin."""
        if self._kind == "LineString":
            return False
        self._parts.append([])
        return True

    def piece(self) -> bytes:
        """What waits."""
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
        """What waits, and all that follows the line."""
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
"""The writer, its media type, and how many rows it writes in some 2 ms: in one step of the event loop."""

routes = [
    resource("/trips/{trip_id}/track", GET=of_trip),
    resource("/vehicles/{vehicle_id}/track", GET=of_vehicle),
]
