"""What outlives the raw positions: summaries of trips and days, the lines of trips; and the days whose positions may go.

The sums are PostgreSQL's (`sum_up` in `sql/0007_history.sql`, which defines stops and distance): computed here they would keep
the event loop from the live map.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from tracking.geo import VERTEX_BYTES, WKB_LINE_HEAD, unpack_vertices_m
from tracking.store.pool import Connection, Database
from tracking.store.positions import DAY_MS, TRACK_CHUNK, TrackRow

DETACH_SECONDS = 5.0
"""It waits for who reads positions; meanwhile no partition can be made."""
KEPT_AT_ONCE = 20_000
"""Vertices of a line that are held at once: half a megabyte."""
_NAME = "positions_%Y%m%d"


class TripSummary(NamedTuple):
    """Metres and m/s. `track`: GeoJSON, ready to be sent; None where there were fewer than two fixes. A LineString, or a
    MultiLineString of one part for each segment that a vehicle drove, cut at the antimeridian.
    """

    distance: float
    stops: int
    top_speed: float | None
    track: bytes | None


class VehicleDay(NamedTuple):
    """A UTC day of a vehicle, of its plausible fixes; metres, seconds, m/s."""

    day: date
    distance: float
    driving_time: float
    stops: int
    top_speed: float | None
    positions: int
    first_fix_time: int
    last_fix_time: int


_DAY_COLUMNS = "distance, driving_time, stops, top_speed, positions, first_fix_time, last_fix_time"


def date_of(day: int) -> date:
    """A UTC day counted from 1970-01-01."""
    return date(1970, 1, 1) + timedelta(days=day)


def day_of(day: date) -> int:
    return (day - date(1970, 1, 1)).days


# --- trips --------------------------------------------------------------------------------------------------------------


async def compact_trip(connection: Connection, trip: int, now: int) -> None:
    """Makes the trip's summary and line anew; of a trip that is over, notes that it is compacted. Needs an open transaction."""
    # Whoever erases a vehicle locks it first: its whereabouts must not be read before that and written after.
    locked = await connection.fetch(
        """
        SELECT vehicle FROM vehicles WHERE vehicle IN (SELECT vehicle FROM trip_spans WHERE trip = $1)
        ORDER BY vehicle FOR KEY SHARE
        """,
        trip,
    )
    if locked:
        await connection.execute(
            """
            WITH fixes AS (
                -- A vehicle is in one place at a time.
                SELECT DISTINCT ON (segment, fix_time) segment, vehicle, fix_time,
                    ST_MakePointM(ST_X(point), ST_Y(point), round(extract(epoch FROM fix_time) * 1000)) AS vertex
                FROM trip_fixes($1) ORDER BY segment, fix_time, session, seq
            ),
            segments AS (
                SELECT segment, max(vehicle) AS vehicle, max(number) AS fixes, ST_MakeLine(vertex ORDER BY fix_time) AS line
                -- Two vertices make a line, be they the same.
                FROM (SELECT *, count(*) OVER (PARTITION BY segment) AS number FROM fixes) f,
                    generate_series(1, CASE WHEN number = 1 THEN 2 ELSE 1 END)
                GROUP BY segment
            ),
            whole AS (
                SELECT ST_SetSRID(ST_Collect(line ORDER BY segment), 4326) AS lines,
                    array_agg(vehicle ORDER BY segment) AS vehicles
                FROM segments HAVING sum(fixes) > 1
            )
            INSERT INTO trip_summaries (trip, built_at, distance, stops, top_speed, line, vehicles)
            SELECT $1, $2, s.distance, s.stops, s.top_speed,
                CASE WHEN ST_NumGeometries(lines) = 1 THEN ST_GeometryN(lines, 1) ELSE lines END, vehicles
            FROM sum_up_trip($1) s JOIN trips t ON t.trip = $1 LEFT JOIN whole ON true
            ON CONFLICT (trip) DO UPDATE SET
                built_at = EXCLUDED.built_at, distance = EXCLUDED.distance, stops = EXCLUDED.stops,
                top_speed = EXCLUDED.top_speed, line = EXCLUDED.line, vehicles = EXCLUDED.vehicles
            """,
            trip,
            now,
        )
    await connection.execute(
        "UPDATE trips SET compacted = true WHERE trip = $1 AND status IN ('complete', 'canceled') AND NOT compacted", trip
    )


async def trips_to_compact(connection: Connection, ended_before: int, but: Sequence[int], limit: int) -> list[int]:
    """Trips that ended before the instant and wait for their summaries, the oldest first, leaving out those in `but`."""
    rows = await connection.fetch(
        """
        SELECT trip FROM trips
        WHERE NOT compacted AND started_at IS NOT NULL AND status IN ('complete', 'canceled')
            AND ended_at <= $1::timestamptz AND ended_at >= positions_horizon() AND trip <> ALL($2::int[])
        ORDER BY ended_at LIMIT $3
        """,
        ended_before,
        but,
        limit,
    )
    return [row["trip"] for row in rows]


async def trips_of_day(connection: Connection, day: int) -> list[int]:
    """Trips that were under way on a UTC day and are not compacted, be they over or not."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT s.trip FROM trip_spans s JOIN trips t USING (trip)
        WHERE NOT t.compacted AND s.started_at - interval '30 s' < $2::timestamptz
            AND coalesce(s.ended_at, 'infinity') >= $1::timestamptz
        ORDER BY s.trip
        """,
        *_bounds(day),
    )
    return [row["trip"] for row in rows]


async def uncompact(connection: Connection, trips: Sequence[int]) -> None:
    """Has these trips compacted anew, those that are."""
    await connection.execute("UPDATE trips SET compacted = false WHERE trip = ANY($1::int[]) AND compacted", trips)


async def trip_summary(connection: Connection, trip: int) -> TripSummary | None:
    # As JSON, because a line has as many vertices as the trip had fixes: a million tuples made here would stop everything else.
    # 15 decimals are what a double has, but for next to zero.
    row = await connection.fetchrow(
        """
        SELECT distance, stops, top_speed,
            convert_to(
                ST_AsGeoJSON(
                    -- Most lines are nowhere near the antimeridian, and need not be taken apart.
                    CASE WHEN ST_XMin(line) < -90 AND ST_XMax(line) > 90 THEN cut_at_antimeridian(line)
                    ELSE ST_Force2D(line) END,
                    15, 0
                ),
                'UTF8'
            )
        FROM trip_summaries WHERE trip = $1 AND NOT drove_erased(trip)
        """,
        trip,
    )
    return TripSummary(*row) if row is not None else None


async def points_of_line(connection: Connection, trip: int) -> int:
    """How many places the trip's line has; 0 where there is none."""
    found: int | None = await connection.fetchval("SELECT ST_NPoints(line) FROM trip_summaries WHERE trip = $1", trip)
    return found or 0


async def horizon(connection: Connection) -> int | None:
    """Positions are kept from this instant on; None: all of them."""
    found: int | None = await connection.fetchval("SELECT nullif(positions_horizon(), '-infinity')")
    return found


async def kept_track(database: Database, trip: int, before: int) -> AsyncIterator[list[TrackRow]]:
    """What the trip's line has kept of fixes before an instant, some at a time; everything else has its turn in between.

    No connection is held between two of them, and of the line no more than `KEPT_AT_ONCE` vertices.
    """
    async with database.connection() as connection:
        row = await connection.fetchrow(
            """
            SELECT t.trip_id, s.vehicles,
                ARRAY(SELECT ST_NumPoints(d.geom) FROM ST_Dump(s.line) d ORDER BY d.path) AS sizes,
                ARRAY(
                    SELECT coalesce(v.vehicle_id, '')
                    FROM unnest(coalesce(s.vehicles, ARRAY[t.vehicle])) WITH ORDINALITY u (vehicle, number)
                        LEFT JOIN vehicles v USING (vehicle)
                    ORDER BY u.number
                ) AS vehicle_ids
            FROM trip_summaries s JOIN trips t USING (trip)
            WHERE s.trip = $1 AND s.line IS NOT NULL AND (s.vehicles IS NOT NULL OR NOT drove_erased(s.trip))
            """,
            trip,
        )
    if row is None:
        return
    trip_id = row["trip_id"]
    for part, (vehicle_id, size) in enumerate(zip(row["vehicle_ids"], row["sizes"], strict=True), 1):
        if not vehicle_id:
            continue  # of a vehicle that is being erased
        last = -1.0
        for begin in range(0, size, KEPT_AT_ONCE):
            async with database.connection() as connection:
                vertices = await _vertices(connection, trip, row["vehicles"], part, begin)
            left = unpack_vertices_m(vertices)
            while some := list(islice(left, TRACK_CHUNK)):
                times = [vertex[2] for vertex in some]
                rows = [
                    TrackRow(
                        vehicle_id, None, None, int(time), None, latitude, longitude, None, None, None, None, trip_id, None
                    )
                    for (longitude, latitude, time), former in zip(some, [last, *times], strict=False)
                    # A single fix is a line of twice the same vertex; and a line that was made anew may repeat some.
                    if former < time > last and time < before
                ]
                last = times[-1]
                if rows:
                    yield rows
                await asyncio.sleep(0)
            if not vertices or last >= before:
                break


async def _vertices(connection: Connection, trip: int, vehicles: list[int] | None, part: int, begin: int) -> bytes:
    """`KEPT_AT_ONCE` vertices of a part of a trip's line, from `begin` on, as they stand in little-endian WKB.

    None where the line is of other vehicles now: one of them was erased.
    """
    found: bytes | None = await connection.fetchval(
        f"""
        SELECT substring(ST_AsBinary(ST_GeometryN(line, $2), 'NDR') FROM {WKB_LINE_HEAD + 1} + {VERTEX_BYTES} * $3 FOR $4)
        FROM trip_summaries WHERE trip = $1 AND vehicles IS NOT DISTINCT FROM $5::int[]
        """,
        trip,
        part,
        begin,
        VERTEX_BYTES * KEPT_AT_ONCE,
        vehicles,
    )
    return found or b""


# --- days ---------------------------------------------------------------------------------------------------------------


async def sum_up_day(connection: Connection, vehicle: int, day: int, now: int) -> None:
    """Makes the summary of a vehicle's UTC day anew. Needs an open transaction."""
    # As for trips; and a vehicle that is gone has no days.
    if await connection.fetchval("SELECT vehicle FROM vehicles WHERE vehicle = $1 FOR KEY SHARE", vehicle) is None:
        return
    await connection.execute(
        f"""
        INSERT INTO vehicle_days (vehicle, day, built_at, {_DAY_COLUMNS})
        SELECT $1, $2, $3, {_DAY_COLUMNS} FROM sum_up_span($1, $4, $5) WHERE positions > 0
        ON CONFLICT (vehicle, day) DO UPDATE SET
            built_at = EXCLUDED.built_at, distance = EXCLUDED.distance, driving_time = EXCLUDED.driving_time,
            stops = EXCLUDED.stops, top_speed = EXCLUDED.top_speed, positions = EXCLUDED.positions,
            first_fix_time = EXCLUDED.first_fix_time, last_fix_time = EXCLUDED.last_fix_time
        """,
        vehicle,
        date_of(day),
        now,
        *_bounds(day),
    )


async def day_now(connection: Connection, vehicle: int, day: int, since: int = 0) -> VehicleDay | None:
    """The vehicle's UTC day, from the instant `since` on, as its positions are now; None for a day without any."""
    begin, end = _bounds(day)
    row = await connection.fetchrow(
        f"SELECT {_DAY_COLUMNS} FROM sum_up_span($1, $2, $3) WHERE positions > 0", vehicle, max(begin, since), end
    )
    return VehicleDay(date_of(day), *row) if row else None


async def days(connection: Connection, vehicle: int, first: int, last: int) -> list[VehicleDay]:
    """The stored summaries of a vehicle from the first day to the last, both included."""
    rows = await connection.fetch(
        f"SELECT day, {_DAY_COLUMNS} FROM vehicle_days WHERE vehicle = $1 AND day BETWEEN $2 AND $3 ORDER BY day",
        vehicle,
        date_of(first),
        date_of(last),
    )
    return [VehicleDay(*row) for row in rows]


async def vehicles_of_day(
    connection: Connection, day: int, *, after: int = 0, limit: int | None = None, unsummed: bool = False
) -> list[int]:
    """Vehicles past `after` that have positions of a UTC day; with `unsummed` those without a summary of it."""
    # Not EXISTS, which may become a join that reads the whole day: this looks into the key once for each vehicle.
    query = f"""
        SELECT v.vehicle FROM vehicles v
        WHERE v.vehicle > $3
            AND (
                SELECT p.vehicle FROM positions p
                WHERE p.vehicle = v.vehicle AND p.fix_time >= $1::timestamptz AND p.fix_time < $2::timestamptz LIMIT 1
            ) IS NOT NULL
            {"AND NOT EXISTS (SELECT FROM vehicle_days d WHERE d.vehicle = v.vehicle AND d.day = $5)" if unsummed else ""}
        ORDER BY v.vehicle LIMIT $4
    """
    rows = await connection.fetch(query, *_bounds(day), after, limit, *((date_of(day),) if unsummed else ()))
    return [row["vehicle"] for row in rows]


async def came_later(connection: Connection, vehicle: int, day: int) -> tuple[bool, list[int]]:
    """Whether plausible positions of a vehicle's UTC day came after it was summed up, and of which trips after theirs."""
    rows = await connection.fetch(
        """
        SELECT p.trip,
            p.last > coalesce((SELECT d.built_at FROM vehicle_days d WHERE d.vehicle = $1 AND d.day = $4), '-infinity')
                AS day_is_old,
            coalesce(p.last > (SELECT s.built_at FROM trip_summaries s WHERE s.trip = p.trip), false) AS trip_is_old
        FROM (
            SELECT trip, max(server_time) AS last FROM positions
            WHERE vehicle = $1 AND fix_time >= $2::timestamptz AND fix_time < $3::timestamptz AND suspect IS NULL
            GROUP BY trip
        ) p
        """,
        vehicle,
        *_bounds(day),
        date_of(day),
    )
    return any(row["day_is_old"] for row in rows), [row["trip"] for row in rows if row["trip_is_old"]]


# --- partitions ---------------------------------------------------------------------------------------------------------


class PositionDay(NamedTuple):
    """A UTC day that has a partition of positions, and what became of it."""

    day: int
    attached: bool
    detaching: bool
    summed: bool
    settled: bool
    settled_to: int
    """all vehicles up to this one were looked through once more"""
    dropped: bool


async def position_days(connection: Connection) -> list[PositionDay]:
    """The days that have a partition, the oldest first; with those that were detached and, by accident, not yet dropped."""
    rows = await connection.fetch(
        """
        SELECT c.relname AS name, i.inhrelid IS NOT NULL AS attached, coalesce(i.inhdetachpending, false) AS detaching,
            d.summed_at IS NOT NULL AS summed, d.settled_at IS NOT NULL AS settled,
            coalesce(d.settled_to, 0) AS settled_to, d.dropped_at IS NOT NULL AS dropped
        FROM pg_class c
            LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'positions'::regclass
            LEFT JOIN position_days d ON 'positions_' || to_char(d.day, 'YYYYMMDD') = c.relname
        WHERE c.relkind = 'r' AND c.relname ~ '^positions_[0-9]{8}$'
            AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'positions'::regclass)
        ORDER BY c.relname
        """
    )
    return [PositionDay(day_of(datetime.strptime(name, _NAME).replace(tzinfo=UTC).date()), *rest) for name, *rest in rows]


async def note_day(connection: Connection, day: int, what: str, now: int) -> None:
    """Notes that a UTC day was `summed`, `settled` or `dropped`."""
    await connection.execute(
        f"""
        INSERT INTO position_days (day, {what}_at) VALUES ($1, $2)
        ON CONFLICT (day) DO UPDATE SET {what}_at = EXCLUDED.{what}_at
        """,
        date_of(day),
        now,
    )


async def note_settled_to(connection: Connection, day: int, vehicle: int) -> None:
    """Notes that all vehicles of a UTC day up to this one were looked through once more."""
    await connection.execute(
        """
        INSERT INTO position_days (day, settled_to) VALUES ($1, $2)
        ON CONFLICT (day) DO UPDATE SET settled_to = EXCLUDED.settled_to
        """,
        date_of(day),
        vehicle,
    )


async def drop_partition(connection: Connection, partition: PositionDay) -> None:
    """Removes a day's positions. Must not be in a transaction.

    Raises `TimeoutError` where somebody reads them for long: half of it is done then, and the next call does the rest.
    """
    name = date_of(partition.day).strftime(_NAME)
    # To drop it where it hangs would need a lock on all positions, which waits for every download, and the recorder behind it.
    if partition.detaching:
        await connection.execute(f"ALTER TABLE positions DETACH PARTITION {name} FINALIZE", timeout=DETACH_SECONDS)
    elif partition.attached:
        await connection.execute(f"ALTER TABLE positions DETACH PARTITION {name} CONCURRENTLY", timeout=DETACH_SECONDS)
    await connection.execute(f"DROP TABLE {name}")


async def erase(connection: Connection, vehicle: int, driven: Sequence[int], now: int) -> None:
    """Takes a vehicle that was removed out of the lines of trips that it drove, before its spans go.

    A line that no other vehicle has a part of, or whose positions are still there, goes whole: it is compacted anew from what
    the others drove.
    """
    shared = [
        row["trip"]
        for row in await connection.fetch(
            """
            SELECT trip FROM trips WHERE trip = ANY($2::int[]) AND EXISTS (
                SELECT FROM trip_spans s JOIN vehicles USING (vehicle) WHERE s.trip = trips.trip AND s.vehicle <> $1
            )
            """,
            vehicle,
            driven,
        )
    ]
    await connection.execute(
        """
        DELETE FROM trip_summaries s WHERE s.trip = ANY($2::int[]) AND (
            s.trip <> ALL($3::int[]) OR s.line IS NULL OR s.vehicles IS NULL OR array_remove(s.vehicles, $1) = '{}'
            OR to_timestamp(ST_M(ST_StartPoint(ST_GeometryN(s.line, 1))) / 1000) >= positions_horizon()
        )
        """,
        vehicle,
        driven,
        shared,
    )
    # What is left of the others has no positions any more that it could be made from.
    await connection.execute(
        """
        UPDATE trip_summaries s SET
            line = CASE WHEN ST_NumGeometries(o.lines) = 1 THEN ST_GeometryN(o.lines, 1) ELSE o.lines END,
            vehicles = o.vehicles,
            top_speed = NULL
        FROM (
            SELECT trip, ST_Collect(d.geom ORDER BY n) AS lines, array_agg(vehicles[n] ORDER BY n) AS vehicles
            FROM trip_summaries, ST_Dump(line) d, LATERAL (SELECT coalesce(d.path[1], 1)) AS at (n)
            WHERE trip = ANY($2::int[]) AND $1 = ANY(vehicles) AND vehicles[n] <> $1
            GROUP BY trip
        ) o WHERE o.trip = s.trip
        """,
        vehicle,
        shared,
    )
    # A trip that nobody else drove has nothing to be compacted.
    await connection.execute(
        """
        UPDATE trips SET compacted = trip <> ALL($3::int[]), vehicle = CASE WHEN vehicle = $1 THEN NULL ELSE vehicle END
        WHERE trip = ANY($2::int[])
        """,
        vehicle,
        driven,
        shared,
    )
    # Nobody else makes them anew: of so old ones there is nothing but their lines.
    old = await connection.fetch(
        """
        SELECT trip FROM trips JOIN trip_summaries USING (trip)
        WHERE trip = ANY($1::int[]) AND status IN ('complete', 'canceled') AND ended_at < positions_horizon()
        """,
        shared,
    )
    for row in old:
        await compact_trip(connection, row["trip"], now)


def _bounds(day: int) -> tuple[Any, Any]:
    return day * DAY_MS, (day + 1) * DAY_MS
