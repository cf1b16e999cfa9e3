"""Positions: the batched write, the latest of each vehicle, and tracks."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tracking.geo import pack_point, unpack_point
from tracking.model import Position
from tracking.store.pool import Connection

DAY_MS = 86_400_000
_COLUMNS = (
    "vehicle",
    "trip",
    "session",
    "seq",
    "fix_time",
    "server_time",
    "accuracy",
    "altitude",
    "speed",
    "bearing",
    "battery",
    "point",
    "suspect",
)
_TRACK_CHUNK = 5_000


class Latest(NamedTuple):
    latitude: float
    longitude: float
    fix_time: int
    speed: float | None


class TrackRow(NamedTuple):
    """One stored position, as tracks are exported."""

    vehicle_id: str
    session: str
    seq: int
    fix_time: int
    server_time: int
    latitude: float
    longitude: float
    accuracy: float | None
    altitude: float | None
    speed: float | None
    bearing: float | None
    trip_id: str | None
    suspect: Sequence[str]


async def ensure_partition(connection: Connection, day: int) -> None:
    """Makes the partition of a UTC day, counted from 1970-01-01."""
    date = datetime.fromtimestamp(day * DAY_MS / 1000, UTC).date()
    await connection.execute("SELECT ensure_positions_partition($1)", date)


async def insert(connection: Connection, positions: Sequence[Position]) -> None:
    await connection.copy_records_to_table(
        "positions",
        columns=_COLUMNS,
        records=(
            (
                p.vehicle,
                p.trip,
                p.session,
                p.seq,
                p.fix_time,
                p.server_time,
                p.accuracy,
                p.altitude,
                p.speed,
                p.bearing,
                p.battery,
                pack_point(p.longitude, p.latitude),
                p.suspect or None,
            )
            for p in positions
        ),
    )


async def move_latest(connection: Connection, positions: Sequence[Position]) -> None:
    """Sets each vehicle's latest position; at most one position a vehicle. An older one changes nothing."""
    # In the order of the key, so that two hubs writing at once cannot lock each other out.
    ordered = sorted(positions, key=lambda p: p.vehicle)
    await connection.execute(
        """
        INSERT INTO latest_positions AS old
            (vehicle, trip, fix_time, server_time, accuracy, speed, bearing, battery, point)
        SELECT vehicle, trip, fix_time, server_time, accuracy, speed, bearing, battery,
            ST_SetSRID(ST_MakePoint(longitude, latitude), 4326)
        FROM unnest(
            $1::int[], $2::int[], $3::timestamptz[], $4::timestamptz[], $5::float8[], $6::float8[], $7::float8[],
            $8::float8[], $9::float8[], $10::float8[]
        ) AS new (vehicle, trip, fix_time, server_time, accuracy, speed, bearing, battery, longitude, latitude)
        ON CONFLICT (vehicle) DO UPDATE SET
            trip = EXCLUDED.trip, fix_time = EXCLUDED.fix_time, server_time = EXCLUDED.server_time,
            accuracy = EXCLUDED.accuracy, speed = EXCLUDED.speed, bearing = EXCLUDED.bearing, battery = EXCLUDED.battery,
            point = EXCLUDED.point
        WHERE EXCLUDED.fix_time >= old.fix_time
        """,
        [p.vehicle for p in ordered],
        [p.trip for p in ordered],
        [p.fix_time for p in ordered],
        [p.server_time for p in ordered],
        [p.accuracy for p in ordered],
        [p.speed for p in ordered],
        [p.bearing for p in ordered],
        [p.battery for p in ordered],
        [p.longitude for p in ordered],
        [p.latitude for p in ordered],
    )


async def latest(connection: Connection, vehicle: int) -> Latest | None:
    row = await connection.fetchrow("SELECT point, fix_time, speed FROM latest_positions WHERE vehicle = $1", vehicle)
    if row is None:
        return None
    longitude, latitude = unpack_point(row["point"])
    return Latest(latitude, longitude, row["fix_time"], row["speed"])


def track_of_vehicle(connection: Connection, vehicle: int, from_: int, to: int, *, suspect: bool) -> AsyncIterator[TrackRow]:
    """Positions of a vehicle in [from_, to), by fix time. Needs an open transaction: rows come through a cursor."""
    return _track(
        connection,
        "p.vehicle = $1 AND p.fix_time >= $2::timestamptz AND p.fix_time < $3::timestamptz",
        suspect,
        vehicle,
        from_,
        to,
    )


def track_of_trip(
    connection: Connection, trip: int, *, suspect: bool, from_: int | None = None, to: int | None = None
) -> AsyncIterator[TrackRow]:
    """Positions of a trip by fix time, whichever vehicles drove it; from_ and to, both included, narrow it.

    Needs an open transaction.
    """
    # The spans lead into the key's index; half a minute before the start is the grace that a fix is given. What a device with
    # a fast clock dates after the end is not the trip's to show.
    condition = """
        p.trip = $1
        AND p.vehicle IN (SELECT s.vehicle FROM trip_spans s WHERE s.trip = $1)
        AND p.fix_time >= (SELECT min(s.started_at) - interval '30 s' FROM trip_spans s WHERE s.trip = $1)
        AND p.fix_time <= (SELECT max(coalesce(s.ended_at, 'infinity')) FROM trip_spans s WHERE s.trip = $1)
        AND ($2::timestamptz IS NULL OR p.fix_time >= $2::timestamptz)
        AND ($3::timestamptz IS NULL OR p.fix_time <= $3::timestamptz)
    """
    return _track(connection, condition, suspect, trip, from_, to)


async def _track(connection: Connection, condition: str, suspect: bool, *arguments: Any) -> AsyncIterator[TrackRow]:
    query = f"""
        SELECT v.vehicle_id, s.name AS session, p.seq, p.fix_time, p.server_time, p.point, p.accuracy, p.altitude, p.speed,
            p.bearing, t.trip_id, p.suspect
        FROM positions p JOIN vehicles v USING (vehicle) JOIN sessions s USING (session) LEFT JOIN trips t ON t.trip = p.trip
        WHERE {condition} {"" if suspect else "AND p.suspect IS NULL"}
        ORDER BY p.fix_time, p.session, p.seq
    """
    async for row in connection.cursor(query, *arguments, prefetch=_TRACK_CHUNK):
        longitude, latitude = unpack_point(row["point"])
        yield TrackRow(
            row["vehicle_id"],
            row["session"],
            row["seq"],
            row["fix_time"],
            row["server_time"],
            latitude,
            longitude,
            row["accuracy"],
            row["altitude"],
            row["speed"],
            row["bearing"],
            row["trip_id"],
            row["suspect"] or (),
        )
