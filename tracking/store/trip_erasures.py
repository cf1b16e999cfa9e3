"""Erasures of trips: the removal of a trip, and the removal of its name from what stays in the tables.

`begin` runs in the transaction that removes the trip. The classes are batches for `jobs.Jobs.run`. Progress is seen from the
tables alone, so that another hub can continue after a restart.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tracking.model import Trip
from tracking.store import changes
from tracking.store.days import DAY_MS
from tracking.store.pool import Connection

SPANS_KEPT_MS = 8 * DAY_MS
"""How long the spans of a removed trip are kept. They bound what the next passenger sees. A fix may be a week late."""


class TripErasure(NamedTuple):
    """The erasure of a trip. `trip_id` is None as soon as no event has it any more."""

    trip: int
    trip_id: str | None


async def begin(connection: Connection, trip: Trip, now: int) -> None:
    """Removes a trip whose row is locked, with its messages, shares, summary and line."""
    await connection.execute("DELETE FROM trips WHERE trip = $1", trip.number)
    # This includes trips that nobody drove, because the change log has their places.
    await connection.execute(
        "INSERT INTO trip_erasures (trip, trip_id, asked_at) VALUES ($1, $2, $3)", trip.number, trip.trip_id, now
    )


async def under_way(connection: Connection, now: int, limit: int) -> list[TripErasure]:
    """Erasures that have something to do now, oldest first."""
    rows = await connection.fetch(
        """
        SELECT e.trip, e.trip_id FROM trip_erasures e
        WHERE e.trip_id IS NOT NULL OR NOT EXISTS (
            SELECT FROM trip_spans s WHERE s.trip = e.trip AND s.ended_at >= $1::timestamptz
        )
        ORDER BY e.asked_at, e.trip LIMIT $2
        """,
        now - SPANS_KEPT_MS,
        limit,
    )
    return [TripErasure(*row) for row in rows]


async def vehicles_of(connection: Connection, trip: int) -> list[int]:
    rows = await connection.fetch("SELECT DISTINCT vehicle FROM trip_spans WHERE trip = $1 ORDER BY vehicle", trip)
    return [row["vehicle"] for row in rows]


class Changes:
    """Batches of the change log's rows about the trip. The rows stay, without their content."""

    def __init__(self, trip_id: str) -> None:
        self._trip_id = trip_id

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        return await changes.blank_trip(connection, self._trip_id, rows) or None


class Positions:
    """Batches of a vehicle's positions that have the trip's number."""

    def __init__(self, trip: int, vehicle: int) -> None:
        self._trip = trip
        self._vehicle = vehicle
        self._from: int | None = None

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        since, self._from = self._from, None
        # The spans bound which days are opened and which positions are read. A device's clock may be a minute ahead.
        row = await connection.fetchrow(
            """
            WITH batch AS MATERIALIZED (
                SELECT fix_time, session, seq FROM positions
                WHERE vehicle = $1 AND trip = $2
                    AND fix_time >= coalesce(
                        $4::timestamptz, (SELECT min(started_at) - interval '30 s' FROM trip_spans WHERE trip = $2)
                    )
                    AND fix_time <= (SELECT max(ended_at) + interval '60 s' FROM trip_spans WHERE trip = $2)
                ORDER BY fix_time LIMIT $3
            ),
            changed AS (
                UPDATE positions p SET trip = NULL FROM batch b
                WHERE p.vehicle = $1 AND p.fix_time = b.fix_time AND p.session = b.session AND p.seq = b.seq
                    AND p.fix_time >= (SELECT min(fix_time) FROM batch) AND p.fix_time <= (SELECT max(fix_time) FROM batch)
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM changed) AS changed, (SELECT max(fix_time) FROM batch) AS last
            """,
            self._vehicle,
            self._trip,
            rows,
            since,
        )
        assert row is not None
        self._from = row["last"]
        if row["last"] is None:
            return None if since is None else 0
        changed: int = row["changed"]
        return changed


class Events:
    """Batches of a vehicle's events. Those of the trip lose its id."""

    def __init__(self, trip_id: str, vehicle: int) -> None:
        self._trip_id = trip_id
        self._vehicle = vehicle
        self._after = 0

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        row = await connection.fetchrow(
            """
            WITH batch AS MATERIALIZED (
                SELECT event, trip_id FROM events WHERE vehicle = $1 AND event > $2 ORDER BY event LIMIT $3
            ),
            changed AS (
                UPDATE events SET trip_id = NULL
                WHERE event = ANY(ARRAY(SELECT event FROM batch WHERE trip_id = $4)) RETURNING 1
            )
            SELECT (SELECT max(event) FROM batch) AS last, (SELECT count(*) FROM changed) AS changed
            """,
            self._vehicle,
            self._after,
            rows,
            self._trip_id,
        )
        assert row is not None
        if row["last"] is None:
            return None
        self._after = row["last"]
        changed: int = row["changed"]
        return changed


async def end_names(connection: Connection, trip: int, vehicles: Sequence[int]) -> None:
    """Removes the trip from the latest positions, and forgets its id. Batches have removed it from all other rows."""
    await connection.execute(
        "UPDATE latest_positions SET trip = NULL WHERE trip = $1 AND vehicle = ANY($2::int[])", trip, vehicles
    )
    await connection.execute("UPDATE trip_erasures SET trip_id = NULL WHERE trip = $1", trip)


async def end(connection: Connection, trip: int, now: int) -> None:
    """Removes the spans, and ends the erasure, if the spans are so old that they bound nothing any more."""
    spans = await connection.fetchval(
        "SELECT count(*) FROM trip_spans WHERE trip = $1 AND ended_at >= $2::timestamptz", trip, now - SPANS_KEPT_MS
    )
    if not spans:
        await connection.execute("DELETE FROM trip_spans WHERE trip = $1", trip)
        await connection.execute("DELETE FROM trip_erasures WHERE trip = $1", trip)
