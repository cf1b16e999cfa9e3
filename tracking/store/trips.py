"""Trips, and the spans of time in which a vehicle was under way on one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from tracking.model import Place, Trip, TripStatus, Vehicle
from tracking.store import changes
from tracking.store.pool import Connection, Database

_DIGITS = 7
_WHOLE_ROUTE = f"ST_AsGeoJSON(t.route, {_DIGITS})::jsonb AS route"
_SELECT = f"""
    SELECT t.trip, t.trip_id, t.fleet_id, t.status, t.version, t.pickup, t.dropoff, t.stops, t.created_at, t.started_at,
        t.ended_at, {_WHOLE_ROUTE},
        v.vehicle AS vehicle_number, v.vehicle_id, v.fleet_id AS vehicle_fleet_id, v.tokens_from,
        -- The present name of the vehicle; once the trip is over, its name then. Names in another fleet are not shown.
        coalesce(d.name, CASE WHEN v.fleet_id = t.fleet_id THEN v.name ELSE '' END) AS name,
        coalesce(d.kind, CASE WHEN v.fleet_id = t.fleet_id THEN v.kind ELSE '' END) AS kind,
        coalesce(d.plate, CASE WHEN v.fleet_id = t.fleet_id THEN v.plate ELSE '' END) AS plate
    FROM trips t LEFT JOIN vehicles v USING (vehicle) LEFT JOIN LATERAL (
        SELECT h.name, h.kind, h.plate FROM vehicle_descriptions h
        WHERE t.status IN ('complete', 'canceled')
            AND h.vehicle = t.vehicle AND h.until >= t.ended_at AND h.fleet_id = t.fleet_id
        ORDER BY h.until LIMIT 1
    ) d ON true
"""
_UNDER_WAY = "('enroute_to_pickup', 'arrived_at_pickup', 'enroute_to_dropoff', 'arrived_at_stop')"
_SELECT_TO_LOCK = _SELECT.replace(_WHOLE_ROUTE, f"{_WHOLE_ROUTE}, t.vehicle IS DISTINCT FROM v.vehicle AS vehicle_is_another")
_SELECT_TO_LOCK_BOTH = f"""
    WITH locked AS MATERIALIZED (SELECT * FROM trips WHERE trip_id = $1 FOR UPDATE),
    driven AS MATERIALIZED (SELECT v.* FROM locked JOIN vehicles v USING (vehicle) FOR UPDATE OF v)
    {_SELECT_TO_LOCK.replace("trips t LEFT JOIN vehicles v", "locked t LEFT JOIN driven v")}
"""

LISTED_POINTS = 600
"""Points of a route in a list: some 16 KB, as in a frame."""


class Listed(NamedTuple):
    """A trip to be shown: the trip without its route, and the route as GeoJSON. In a list, a long route is simplified."""

    trip: Trip
    route: str | None


class Span(NamedTuple):
    """A vehicle was under way on a trip from `started_at` to `ended_at` (None: still). No `trip_id`: the trip was removed."""

    trip: int
    trip_id: str | None
    started_at: int
    ended_at: int | None


def _trip(row: Any) -> Trip:
    return Trip(
        number=row["trip"],
        trip_id=row["trip_id"],
        fleet_id=row["fleet_id"],
        vehicle=None
        if row["vehicle_id"] is None
        else Vehicle(row["vehicle_id"], row["vehicle_fleet_id"], row["name"], row["kind"], row["plate"]),
        status=TripStatus(row["status"]),
        version=row["version"],
        pickup=msgspec.convert(row["pickup"], Place),
        dropoff=msgspec.convert(row["dropoff"], Place),
        stops=msgspec.convert(row["stops"], tuple[Place, ...]),
        route=row["route"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        tokens_from=row["tokens_from"],
        vehicle_number=row["vehicle_number"],
    )


async def insert(
    connection: Connection,
    *,
    trip_id: str,
    fleet_id: str,
    vehicle: int | None,
    pickup: Place,
    dropoff: Place,
    stops: Sequence[Place],
    route: dict[str, Any] | None,
    now: int,
) -> Trip:
    await connection.execute(
        """
        INSERT INTO trips (trip_id, fleet_id, vehicle, pickup, dropoff, stops, route, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, ST_SetSRID(ST_GeomFromGeoJSON($7::jsonb), 4326), $8)
        """,
        trip_id,
        fleet_id,
        vehicle,
        pickup,
        dropoff,
        list(stops),
        route,
        now,
    )
    trip = await get(connection, trip_id)
    assert trip is not None
    return trip


async def get(connection: Connection, trip_id: str) -> Trip | None:
    if "\0" in trip_id:  # PostgreSQL cannot store it, so there is no such trip
        return None
    row = await connection.fetchrow(f"{_SELECT} WHERE t.trip_id = $1", trip_id)
    return _trip(row) if row else None


async def get_shown(connection: Connection, trip_id: str) -> Listed | None:
    """The same, to be shown. A long route stays text, and is not decoded and encoded again."""
    if "\0" in trip_id:
        return None
    route = f"NULL::jsonb AS route, ST_AsGeoJSON(t.route, {_DIGITS}) AS listed_route"
    row = await connection.fetchrow(f"{_SELECT.replace(_WHOLE_ROUTE, route)} WHERE t.trip_id = $1", trip_id)
    return Listed(_trip(row), row["listed_route"]) if row else None


async def as_of_now(database: Database, trip_ids: list[str]) -> dict[str, tuple[Trip, int]]:
    """Trips by their ids, each with the number of a change that they include. Raises `StoreUnavailable`."""
    async with database.connection() as connection:
        # It is read first, so that what is read after it includes that change.
        newest = await changes.head(connection)
        found = await get_all(connection, trip_ids)
    as_of = newest.number if newest is not None else 0
    return {trip_id: (trip, as_of) for trip_id, trip in found.items()}


async def get_all(connection: Connection, trip_ids: Sequence[str]) -> dict[str, Trip]:
    """Those of the trips that exist, by id."""
    rows = await connection.fetch(f"{_SELECT} WHERE t.trip_id = ANY($1::text[])", [i for i in trip_ids if "\0" not in i])
    return {row["trip_id"]: _trip(row) for row in rows}


async def lock(connection: Connection, trip_id: str) -> Trip | None:
    """The trip, its row locked until the transaction ends."""
    if "\0" in trip_id:
        return None
    row = await connection.fetchrow(f"{_SELECT_TO_LOCK} WHERE t.trip_id = $1 FOR UPDATE OF t", trip_id)
    if row is not None and row["vehicle_is_another"]:
        # The trip got another vehicle during the wait for its lock. PostgreSQL joins the new row with the old vehicle.
        return await get(connection, trip_id)
    return _trip(row) if row else None


async def lock_with_vehicle(connection: Connection, trip_id: str) -> Trip | None:
    """The same, and then the row of the trip's vehicle, by one query."""
    if "\0" in trip_id:
        return None
    row = await connection.fetchrow(_SELECT_TO_LOCK_BOTH, trip_id)
    if row is not None and row["vehicle_is_another"]:
        # During the wait for its lock, the trip got a vehicle that was made after this query began.
        await connection.fetchval(
            "SELECT v.vehicle FROM trips JOIN vehicles v USING (vehicle) WHERE trip_id = $1 FOR UPDATE OF v", trip_id
        )
        return await get(connection, trip_id)
    return _trip(row) if row else None


async def of_fleet(
    connection: Connection, fleet_id: str, status: TripStatus | None, limit: int, before: int | None = None
) -> list[Listed]:
    """Trips, newest first, at most `limit`, created before the instant `before`."""
    # Routes stay text. To decode a thousand is a second of Python. The tolerance doubles from half a metre until a route fits.
    route = f"""
        CASE WHEN ST_NPoints(t.route) <= {LISTED_POINTS} THEN ST_AsGeoJSON(t.route, {_DIGITS}) ELSE (
            SELECT ST_AsGeoJSON(simple.line, 6) FROM generate_series(0, 20) n
            CROSS JOIN LATERAL (SELECT ST_Simplify(t.route, 0.0000045 * 2 ^ n, true)) AS simple (line)
            WHERE ST_NPoints(simple.line) <= {LISTED_POINTS} ORDER BY n LIMIT 1
        ) END
    """
    rows = await connection.fetch(
        f"""
        {_SELECT.replace(_WHOLE_ROUTE, f"NULL::jsonb AS route, {route} AS listed_route")}
        WHERE t.fleet_id = $1 AND ($2::text IS NULL OR t.status = $2)
            AND ($4::timestamptz IS NULL OR t.created_at < $4::timestamptz)
        ORDER BY t.created_at DESC, t.trip DESC LIMIT $3
        """,
        fleet_id,
        status,
        limit,
        before,
    )
    return [Listed(_trip(row), row["listed_route"]) for row in rows]


async def current_of_vehicles(connection: Connection, vehicles: Sequence[int]) -> dict[str, Trip]:
    """The trips that the drivers of the vehicles see, by the vehicles' ids: the one under way, or the oldest open one."""
    rows = await connection.fetch(
        f"""
        {_SELECT}
        WHERE t.trip IN (
            SELECT DISTINCT ON (vehicle) trip FROM trips
            WHERE vehicle = ANY($1::int[]) AND status NOT IN ('complete', 'canceled')
            ORDER BY vehicle, status IN {_UNDER_WAY} DESC, created_at, trip
        )
        """,
        vehicles,
    )
    return {row["vehicle_id"]: _trip(row) for row in rows}


async def states_of_vehicles(
    connection: Connection, vehicles: Sequence[int], since: int, most: int, *, trip_ids: Sequence[str] = ()
) -> tuple[dict[str, Trip], dict[int, Trip], dict[int, list[Span]]]:
    """By one query: trips by id; by the vehicles' numbers, the trips that their drivers see, and the vehicles' spans.

    For each vehicle these are the `most` newest spans that end at `since` or later, oldest first.
    """
    rows = await connection.fetch(
        f"""
        SELECT wanted.asked, wanted.of_trips, wanted.trip_ids, wanted.starts, wanted.ends, t.* FROM (
            SELECT
                trip, NULL::int AS asked,
                NULL::int[] AS of_trips, NULL::text[] AS trip_ids, NULL::timestamptz[] AS starts, NULL::timestamptz[] AS ends
            FROM trips WHERE trip_id = ANY($1::text[])
            UNION ALL
            SELECT current.trip, asked.vehicle, spans.* FROM unnest($2::int[]) AS asked (vehicle) LEFT JOIN LATERAL (
                SELECT trip FROM trips
                WHERE trips.vehicle = asked.vehicle AND status NOT IN ('complete', 'canceled')
                ORDER BY status IN {_UNDER_WAY} DESC, created_at, trip LIMIT 1
            ) current ON true CROSS JOIN LATERAL (
                SELECT array_agg(trip), array_agg(trip_id), array_agg(newest.started_at), array_agg(newest.ended_at) FROM (
                    SELECT trip, started_at, ended_at FROM trip_spans
                    WHERE trip_spans.vehicle = asked.vehicle AND (ended_at IS NULL OR ended_at >= $3::timestamptz)
                    ORDER BY started_at DESC LIMIT $4
                ) newest LEFT JOIN trips USING (trip)
            ) spans
        ) wanted LEFT JOIN LATERAL ({_SELECT} WHERE t.trip = wanted.trip) t ON true
        """,
        trip_ids,
        vehicles,
        since,
        most,
    )
    found: dict[str, Trip] = {}
    current: dict[int, Trip] = {}
    spans: dict[int, list[Span]] = {}
    for row in rows:
        asked = row["asked"]
        trip = _trip(row) if row["trip_id"] is not None else None
        if asked is None:
            assert trip is not None
            found[trip.trip_id] = trip
            continue
        if trip is not None:
            current[asked] = trip
        if row["of_trips"] is not None:
            columns = (row[name] for name in ("of_trips", "trip_ids", "starts", "ends"))
            spans[asked] = sorted(map(Span._make, zip(*columns, strict=True)), key=_start)
    return found, current, spans


def _start(span: Span) -> int:
    return span.started_at


async def open_of_vehicle(connection: Connection, vehicle: int) -> list[Trip]:
    """Every trip of the vehicle that is not over."""
    rows = await connection.fetch(f"{_SELECT} WHERE t.vehicle = $1 AND t.status NOT IN ('complete', 'canceled')", vehicle)
    return [_trip(row) for row in rows]


async def open_of_vehicles(connection: Connection, vehicles: Sequence[int]) -> dict[int, list[Trip]]:
    """The same for several vehicles, by their numbers."""
    rows = await connection.fetch(
        f"{_SELECT} WHERE t.vehicle = ANY($1::int[]) AND t.status NOT IN ('complete', 'canceled')", vehicles
    )
    found: dict[int, list[Trip]] = {}
    for row in rows:
        found.setdefault(row["vehicle_number"], []).append(_trip(row))
    return found


async def count_open_of_vehicle(connection: Connection, vehicle: int) -> int:
    """How many trips of the vehicle are not over. The number is stable while the vehicle's row is locked."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM trips WHERE vehicle = $1 AND status NOT IN ('complete', 'canceled')", vehicle
    )
    return count


async def unassign(connection: Connection, vehicle: int) -> list[Trip]:
    """Takes the trips that are not over from the vehicle. Returns the changed trips."""
    rows = await connection.fetch(
        """
        UPDATE trips SET vehicle = NULL, version = version + 1
        WHERE vehicle = $1 AND status NOT IN ('complete', 'canceled') RETURNING trip_id
        """,
        vehicle,
    )
    found = [await get(connection, row["trip_id"]) for row in rows]
    return [trip for trip in found if trip is not None]


async def update(connection: Connection, trip: Trip, *, vehicle: int | None) -> None:
    """Stores the trip's status, version, vehicle, route and times as they are in `trip`."""
    await connection.execute(
        """
        UPDATE trips SET status = $2, version = $3, vehicle = $4, started_at = $5, ended_at = $6,
            route = ST_SetSRID(ST_GeomFromGeoJSON($7::jsonb), 4326)
        WHERE trip = $1
        """,
        trip.number,
        trip.status,
        trip.version,
        vehicle,
        trip.started_at,
        trip.ended_at,
        trip.route,
    )


async def open_span(connection: Connection, trip: int, vehicle: int, now: int) -> int:
    """Begins a span, and returns its instant: now by the database's clock (`span_instant`), but not before the last span ended.

    `now` is by the hub's clock. Raises asyncpg's `UniqueViolationError` if the vehicle is under way on another trip.
    """
    started_at: int = await connection.fetchval(
        """
        INSERT INTO trip_spans (trip, vehicle, started_at)
        SELECT $1, $2, greatest(
            span_instant($3::timestamptz),
            (SELECT max(ended_at) FROM trip_spans WHERE vehicle = $2),
            (SELECT max(ended_at) + interval '1 ms' FROM trip_spans WHERE trip = $1)
        )
        RETURNING started_at
        """,
        trip,
        vehicle,
        now,
    )
    return started_at


async def close_span(connection: Connection, trip: int, now: int) -> int | None:
    """Ends the trip's open span, and returns its instant, by the same clock. None if it has no open span."""
    ended_at: int | None = await connection.fetchval(
        """
        UPDATE trip_spans SET ended_at = greatest(span_instant($2::timestamptz), started_at)
        WHERE trip = $1 AND ended_at IS NULL
        RETURNING ended_at
        """,
        trip,
        now,
    )
    return ended_at


async def spans_of_vehicle(connection: Connection, vehicle: int, since: int, until: int) -> list[Span]:
    """The vehicle's spans that end at `since` or later and begin at `until` or earlier, oldest first."""
    rows = await connection.fetch(
        """
        SELECT s.trip, t.trip_id, s.started_at, s.ended_at FROM trip_spans s LEFT JOIN trips t USING (trip)
        WHERE s.vehicle = $1 AND (s.ended_at IS NULL OR s.ended_at >= $2::timestamptz) AND s.started_at <= $3::timestamptz
        ORDER BY s.started_at
        """,
        vehicle,
        since,
        until,
    )
    return [Span(*row) for row in rows]
