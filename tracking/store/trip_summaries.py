"""Summaries and lines of trips. They are kept after the raw positions were removed.

PostgreSQL computes the sums (`sum_up` in `sql/0007_history.sql`, which defines stops and distance). Computed here, they would
block the event loop, and with it the live map.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import NamedTuple

from tracking.geo import VERTEX_BYTES, WKB_LINE_HEAD, unpack_vertices_m
from tracking.store.days import bounds
from tracking.store.pool import Connection, Database
from tracking.store.positions import TrackRow

ROWS_AT_ONCE = 1_000
"""Rows of a kept line that are made before other work has its turn."""
VERTICES_AT_ONCE = 20_000
"""Vertices of a line that are held at once: half a megabyte."""


_COMPACTING = 0x7472_6970
"""The class of the advisory locks of trips that are compacted: "trip"."""


class TripSummary(NamedTuple):
    """Metres and m/s.

    `track` is GeoJSON, ready to be sent, or None if there were fewer than two fixes. It is a LineString, or a MultiLineString
    with one part for each segment that a vehicle drove. It is cut at the antimeridian.
    """

    distance: float
    stops: int
    top_speed: float | None
    track: bytes | None


async def compact_trip(connection: Connection, trip: int, now: int) -> None:
    """Makes the summary and line of a trip anew. Notes that it is compacted, if it is over. Needs an open transaction."""
    await _take_turns(connection, [trip])
    # An erasure locks the vehicle first. Positions must not be read before the erasure and written after it.
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
                -- A vehicle is in one place at a time: one fix for each instant.
                SELECT DISTINCT ON (segment, fix_time) segment, vehicle, fix_time,
                    ST_MakePointM(ST_X(point), ST_Y(point), round(extract(epoch FROM fix_time) * 1000)) AS vertex
                FROM trip_fixes($1) ORDER BY segment, fix_time, session, seq
            ),
            segments AS (
                SELECT segment, max(vehicle) AS vehicle, max(number) AS fixes, ST_MakeLine(vertex ORDER BY fix_time) AS line
                -- A line has at least two vertices. They may be equal.
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


async def _take_turns(connection: Connection, trips: Sequence[int]) -> None:
    """Waits until no other hub compacts one of the trips, and lets none begin until the transaction ends.

    Otherwise a hub that has read the positions before a late fix could write the older summary after the newer one, or note
    the trip as compacted after another hub has asked for it to be compacted anew.
    """
    await connection.execute(
        "SELECT pg_advisory_xact_lock($1, trip) FROM (SELECT unnest($2::int[]) AS trip ORDER BY 1) AS t", _COMPACTING, trips
    )


async def trips_to_compact(connection: Connection, ended_before: int, but: Sequence[int], limit: int) -> list[int]:
    """Trips that ended before the instant and wait for their summaries, oldest first, without those in `but`."""
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
    """Trips that were under way on a UTC day and are not compacted. Some may still be under way."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT s.trip FROM trip_spans s JOIN trips t USING (trip)
        WHERE NOT t.compacted AND s.started_at - interval '30 s' < $2::timestamptz
            AND coalesce(s.ended_at, 'infinity') >= $1::timestamptz
        ORDER BY s.trip
        """,
        *bounds(day),
    )
    return [row["trip"] for row in rows]


async def uncompact(connection: Connection, trips: Sequence[int]) -> None:
    """Has those of the trips compacted anew that are compacted. Needs an open transaction."""
    await _take_turns(connection, trips)
    await connection.execute("UPDATE trips SET compacted = false WHERE trip = ANY($1::int[]) AND compacted", trips)


async def of_trip(connection: Connection, trip: int) -> TripSummary | None:
    # PostgreSQL makes the JSON. A line has as many vertices as the trip had fixes, and a million tuples would block the event
    # loop. A double has 15 decimals, except close to zero.
    row = await connection.fetchrow(
        """
        SELECT distance, stops, top_speed,
            convert_to(
                ST_AsGeoJSON(
                    -- Most lines are far from the antimeridian, and need no cut.
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
    """How many vertices the trip's line has; 0 if there is no line."""
    found: int | None = await connection.fetchval("SELECT ST_NPoints(line) FROM trip_summaries WHERE trip = $1", trip)
    return found or 0


async def kept_track(database: Database, trip: int, before: int) -> AsyncIterator[list[TrackRow]]:
    """The fixes before an instant that the trip's line has kept, some at a time. Other work runs in between.

    No connection is held between two pieces. At most `VERTICES_AT_ONCE` vertices are in memory.
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
            continue  # this vehicle is being erased
        last = -1.0
        for begin in range(0, size, VERTICES_AT_ONCE):
            async with database.connection() as connection:
                vertices = await _vertices(connection, trip, row["vehicles"], part, begin)
            left = unpack_vertices_m(vertices)
            while some := list(islice(left, ROWS_AT_ONCE)):
                times = [vertex[2] for vertex in some]
                rows = [
                    TrackRow(
                        vehicle_id, None, None, int(time), None, latitude, longitude, None, None, None, None, trip_id, None
                    )
                    for (longitude, latitude, time), former in zip(some, [last, *times], strict=False)
                    # The line of a single fix has the same vertex twice. A line that was made anew may repeat some vertices.
                    if former < time > last and time < before
                ]
                last = times[-1]
                if rows:
                    yield rows
                await asyncio.sleep(0)
            if not vertices or last >= before:
                break


async def _vertices(connection: Connection, trip: int, vehicles: list[int] | None, part: int, begin: int) -> bytes:
    """`VERTICES_AT_ONCE` vertices of a part of a trip's line, from `begin` on, in little-endian WKB.

    Nothing if the line belongs to other vehicles now, because one of them was erased.
    """
    found: bytes | None = await connection.fetchval(
        f"""
        SELECT substring(ST_AsBinary(ST_GeometryN(line, $2), 'NDR') FROM {WKB_LINE_HEAD + 1} + {VERTEX_BYTES} * $3 FOR $4)
        FROM trip_summaries WHERE trip = $1 AND vehicles IS NOT DISTINCT FROM $5::int[]
        """,
        trip,
        part,
        begin,
        VERTEX_BYTES * VERTICES_AT_ONCE,
        vehicles,
    )
    return found or b""


async def erase_vehicle(connection: Connection, vehicle: int, driven: Sequence[int], now: int) -> None:
    """Removes a vehicle that was erased from the lines of trips that it drove. Its spans must still be there.

    A line goes whole if no other vehicle has a part of it, or if its positions are still there. In the second case it is
    compacted anew from what the others drove.
    """
    shared = await _driven_by_others(connection, vehicle, driven)
    await _remove_lines(connection, vehicle, driven, shared)
    await _remove_parts(connection, vehicle, shared)
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
    # `trips_to_compact` leaves out trips before the horizon. Only their lines are left, so they are compacted here.
    old = await connection.fetch(
        """
        SELECT trip FROM trips JOIN trip_summaries USING (trip)
        WHERE trip = ANY($1::int[]) AND status IN ('complete', 'canceled') AND ended_at < positions_horizon()
        """,
        shared,
    )
    for row in old:
        await compact_trip(connection, row["trip"], now)


async def _driven_by_others(connection: Connection, vehicle: int, driven: Sequence[int]) -> list[int]:
    """Those of the trips that another vehicle drove as well, without vehicles that were erased."""
    rows = await connection.fetch(
        """
        SELECT trip FROM trips WHERE trip = ANY($2::int[]) AND EXISTS (
            SELECT FROM trip_spans s JOIN vehicles USING (vehicle) WHERE s.trip = trips.trip AND s.vehicle <> $1
        )
        """,
        vehicle,
        driven,
    )
    return [row["trip"] for row in rows]


async def _remove_lines(connection: Connection, vehicle: int, driven: Sequence[int], shared: Sequence[int]) -> None:
    """Removes summaries and lines that are the vehicle's alone, and those that can be made anew from positions."""
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


async def _remove_parts(connection: Connection, vehicle: int, shared: Sequence[int]) -> None:
    """Removes the vehicle's parts of the lines that are left. Their positions are gone, so nothing can make them anew."""
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
