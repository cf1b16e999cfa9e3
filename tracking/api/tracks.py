"""Tracks of a trip and of a vehicle as GeoJSON, CSV and GPX, streamed row by row: a month does not fill memory."""

import asyncio
import csv
import io
from array import array
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tracking.api.http import flag, name_in_path, not_found, principal_of, require, resource, service_of, whole_number
from tracking.api.trips import known_trip
from tracking.auth import Role, Sight, may_manage_fleet, may_see
from tracking.errors import ErrorCode, Refusal
from tracking.gpx import gpx
from tracking.ingest.sources import FOREVER, GRACE_MS
from tracking.model import Trip
from tracking.service import Service
from tracking.store import history, positions, vehicles
from tracking.store.pool import Connection
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

_encode = msgspec.json.encode
Rows = AsyncIterator[TrackRow]
Batches = AsyncIterator[Sequence[TrackRow]]


async def of_trip(request: Request) -> Response:
    principal = await principal_of(request)
    service = service_of(request)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    if not may_see(principal.role, Sight.POSITION, trip.status):
        raise Refusal(ErrorCode.FORBIDDEN, f"the trip is {trip.status}: a {principal.role} sees no track of it now")
    suspect = flag(request, "suspect")
    return await _stream(
        request,
        service,
        trip.trip_id,
        lambda connection: _of_trip(connection, trip, suspect),
    )


async def _of_trip(connection: Connection, trip: Trip, suspect: bool) -> Batches:
    """What the trip's line has kept of days whose positions are gone, then the positions."""
    kept_from = await history.horizon(connection)
    if kept_from is not None and trip.started_at is not None and trip.started_at - GRACE_MS < kept_from:
        async for rows in history.kept_track(connection, trip.number, kept_from):
            yield rows
    async for rows in positions.batches_of_trip(connection, trip.number, suspect=suspect, from_=kept_from):
        yield rows


async def of_vehicle(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    async with service.database.connection() as connection:
        stored = await vehicles.get(connection, name_in_path(request, "vehicle_id"))
    if stored is None or not may_manage_fleet(principal, stored.vehicle.fleet_id):
        raise not_found()
    from_ = whole_number(request, "from", 0) or 0
    to = whole_number(request, "to", FOREVER, most=FOREVER) or 0
    suspect = flag(request, "suspect")
    return await _stream(
        request,
        service,
        stored.vehicle.vehicle_id,
        lambda connection: positions.track_of_vehicle(connection, stored.number, from_, to, suspect=suspect),
    )


async def _stream(request: Request, service: Service, name: str, query: Callable[[Connection], Batches]) -> Response:
    """`name` is the trip's or the vehicle's, for formats that have a place for it."""
    format_ = request.query_params.get("format", "geojson")
    if format_ not in _WRITERS:
        raise Refusal(
            ErrorCode.BAD_FIELD, f"`format` must be one of {', '.join(_WRITERS)}; got {format_!r:.40}", field="format"
        )
    write, media_type = _WRITERS[format_]

    async def body() -> AsyncIterator[bytes]:
        async with service.exports.reading() as connection:
            async for chunk in write(query(connection), name):
                yield chunk

    chunks = body()
    # Asked for here, so that a database that is away is still a 503 and not a broken body.
    first = await anext(chunks)

    async def all_of_it() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk
            # Rows come from the database thousands at a time, and a reader who reads fast is never waited for: between two
            # pieces everything else has its turn.
            await asyncio.sleep(0)

    return StreamingResponse(all_of_it(), media_type=media_type)


async def _csv(batches: Batches, _name: str) -> AsyncIterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    async for rows in batches:
        # A row is what its line is, so that no Python runs for each.
        for begin in range(0, len(rows), _CHUNK_ROWS):
            writer.writerows(rows[begin : begin + _CHUNK_ROWS])
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


async def _each(batches: Batches) -> Rows:
    async for rows in batches:
        for row in rows:
            yield row


def _gpx(batches: Batches, name: str) -> AsyncIterator[bytes]:
    return gpx(_each(batches), name)


async def _geojson(batches: Batches, _name: str) -> AsyncIterator[bytes]:
    """A FeatureCollection of one Feature, its LineString's fix times beside it, in the same order (RFC 7946).

    Fewer than two positions are no line: one is a Point, none leaves the collection empty.
    """
    rows = _each(batches)
    first = await anext(rows, None)
    if first is None:
        yield b'{"type":"FeatureCollection","features":[]}'
        return
    second = await anext(rows, None)
    kind = "Point" if second is None else "LineString"
    yield b'{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"%s","coordinates":' % kind.encode()
    # Times follow the line, so they are kept: eight bytes a position.
    times = array("q", [first.fix_time])
    if second is None:
        yield _encode((first.longitude, first.latitude))
    else:
        chunk = [b"[", _encode((first.longitude, first.latitude)), b",", _encode((second.longitude, second.latitude))]
        times.append(second.fix_time)
        async for row in rows:
            chunk.append(b",")
            chunk.append(_encode((row.longitude, row.latitude)))
            times.append(row.fix_time)
            if len(chunk) >= 2 * _CHUNK_ROWS:
                yield b"".join(chunk)
                chunk.clear()
        yield b"".join(chunk) + b"]"
    yield b'},"properties":{"vehicle_id":%s,"fix_times":[' % _encode(first.vehicle_id)
    for begin in range(0, len(times), _CHUNK_ROWS):
        yield (b"," if begin else b"") + b",".join(b"%d" % time for time in times[begin : begin + _CHUNK_ROWS])
    yield b"]}}]}"


_WRITERS: dict[str, tuple[Callable[[Batches, str], AsyncIterator[bytes]], str]] = {
    "geojson": (_geojson, "application/geo+json"),
    "csv": (_csv, "text/csv; charset=utf-8"),
    "gpx": (_gpx, "application/gpx+xml"),
}

routes = [
    resource("/trips/{trip_id}/track", GET=of_trip),
    resource("/vehicles/{vehicle_id}/track", GET=of_vehicle),
]
