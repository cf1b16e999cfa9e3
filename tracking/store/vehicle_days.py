"""Summaries of vehicles' UTC days. They are kept after the raw positions were removed.

PostgreSQL computes the sums (`sum_up` in `sql/0007_history.sql`, which defines stops and distance). Computed here, they would
block the event loop, and with it the live map.
"""

from datetime import date
from typing import NamedTuple

from tracking.store.days import bounds, date_of
from tracking.store.pool import Connection

_SUMMING_UP = 0x6461_7973
"""The class of the advisory locks of vehicles whose days are summed up: "days"."""


class VehicleDay(NamedTuple):
    """A UTC day of a vehicle, summed up from its plausible fixes. Metres, seconds, m/s."""

    day: date
    distance: float
    driving_time: float
    stops: int
    top_speed: float | None
    positions: int
    first_fix_time: int
    last_fix_time: int


_DAY_COLUMNS = "distance, driving_time, stops, top_speed, positions, first_fix_time, last_fix_time"


async def sum_up_day(connection: Connection, vehicle: int, day: int, now: int) -> None:
    """Makes the summary of a vehicle's UTC day anew. Needs an open transaction."""
    # An erasure locks the vehicle first. A vehicle that was removed has no days.
    if await connection.fetchval("SELECT vehicle FROM vehicles WHERE vehicle = $1 FOR KEY SHARE", vehicle) is None:
        return
    # Another hub may sum it up too. The one that reads later must write later.
    await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", _SUMMING_UP, vehicle)
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
        *bounds(day),
    )


async def day_now(connection: Connection, vehicle: int, day: int, since: int = 0) -> VehicleDay | None:
    """The vehicle's UTC day, from the instant `since` on, summed up now; None if it has no positions."""
    begin, end = bounds(day)
    row = await connection.fetchrow(
        f"SELECT {_DAY_COLUMNS} FROM sum_up_span($1, $2, $3) WHERE positions > 0", vehicle, max(begin, since), end
    )
    return VehicleDay(date_of(day), *row) if row else None


async def stored(connection: Connection, vehicle: int, first: int, last: int) -> list[VehicleDay]:
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
    """Vehicles past `after` that have positions of a UTC day; with `unsummed` only those without a summary of it."""
    # EXISTS may become a join that reads the whole day. This reads the key once for each vehicle.
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
    rows = await connection.fetch(query, *bounds(day), after, limit, *((date_of(day),) if unsummed else ()))
    return [row["vehicle"] for row in rows]


async def came_later(connection: Connection, vehicle: int, day: int) -> tuple[bool, list[int]]:
    """Whether plausible positions came after the vehicle's UTC day was summed up; trips that got some after their summary."""
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
        *bounds(day),
        date_of(day),
    )
    return any(row["day_is_old"] for row in rows), [row["trip"] for row in rows if row["trip_is_old"]]
