"""Vehicles, and the numbers that other tables have for them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from tracking.model import Vehicle
from tracking.store.pool import Connection

_COLUMNS = "vehicle, vehicle_id, fleet_id, name, kind, plate, tokens_from, joined_at"


class Stored(NamedTuple):
    """A vehicle with its number.

    `tokens_from` is the instant at which it was made, if another vehicle had its id before. Older tokens belong to that one.
    `joined_at` is when it joined its fleet, which may not see where the vehicle was before. 0: it was always in this fleet.
    """

    number: int
    vehicle: Vehicle
    tokens_from: int | None = None
    joined_at: int = 0


def _stored(row: Any) -> Stored:
    vehicle = Vehicle(row["vehicle_id"], row["fleet_id"], row["name"], row["kind"], row["plate"])
    return Stored(row["vehicle"], vehicle, row["tokens_from"], row["joined_at"] or 0)


async def put(connection: Connection, vehicle: Vehicle, now: int | None = None) -> tuple[Stored, bool]:
    """Stores the vehicle. Returns whether it is new. Its former name is kept for its trips that are over.

    `now` is the instant by the hub's clock; None: the database's clock is used.
    """
    # A name is kept for the time in which a trip is driven: at most one for each trip, and one for each fleet.
    await connection.execute(
        """
        INSERT INTO vehicle_descriptions (vehicle, until, fleet_id, name, kind, plate)
        SELECT v.vehicle, coalesce($6::timestamptz, now()), v.fleet_id, v.name, v.kind, v.plate FROM vehicles v
        WHERE v.vehicle_id = $1 AND (v.fleet_id, v.name, v.kind, v.plate) <> ($2, $3, $4, $5) AND (
            v.fleet_id <> $2
            OR (
                SELECT s.ended_at FROM trip_spans s WHERE s.vehicle = v.vehicle AND s.ended_at IS NOT NULL
                ORDER BY s.started_at DESC LIMIT 1
            ) > coalesce((SELECT max(d.until) FROM vehicle_descriptions d WHERE d.vehicle = v.vehicle), '-infinity')
        )
        ON CONFLICT DO NOTHING
        """,
        vehicle.vehicle_id,
        vehicle.fleet_id,
        vehicle.name,
        vehicle.kind,
        vehicle.plate,
        now,
    )
    row = await connection.fetchrow(
        f"""
        INSERT INTO vehicles AS old (vehicle_id, fleet_id, name, kind, plate, tokens_from)
        SELECT $1, $2, $3, $4, $5, CASE WHEN EXISTS (SELECT FROM erased_vehicles WHERE digest = id_digest($1))
            THEN coalesce($6::timestamptz, clock_timestamp()) END
        ON CONFLICT (vehicle_id) DO UPDATE
        SET fleet_id = EXCLUDED.fleet_id, name = EXCLUDED.name, kind = EXCLUDED.kind, plate = EXCLUDED.plate,
            joined_at = CASE
                WHEN old.fleet_id = EXCLUDED.fleet_id THEN old.joined_at ELSE coalesce($6::timestamptz, now())
            END
        RETURNING {_COLUMNS}, xmax = 0 AS created
        """,
        vehicle.vehicle_id,
        vehicle.fleet_id,
        vehicle.name,
        vehicle.kind,
        vehicle.plate,
        now,
    )
    assert row is not None
    if not row["created"]:
        # It may come from another fleet. That fleet may not find it any more, and this one may not see where it was before.
        await connection.execute(
            """
            DELETE FROM latest_positions l USING fleets f WHERE l.vehicle = $1 AND f.fleet_id = $2 AND l.fleet <> f.fleet
            """,
            row["vehicle"],
            vehicle.fleet_id,
        )
        # If it goes back to that fleet, it is in no geofence until it is seen in one.
        await connection.execute(
            "DELETE FROM geofence_stays WHERE vehicle = $1 AND fleet_id <> $2", row["vehicle"], vehicle.fleet_id
        )
    return _stored(row), row["created"]


async def get(connection: Connection, vehicle_id: str) -> Stored | None:
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM vehicles WHERE vehicle_id = $1", vehicle_id)
    return _stored(row) if row else None


async def get_all(connection: Connection, vehicle_ids: Sequence[str]) -> dict[str, Stored]:
    """Those of the vehicles that exist, by id."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM vehicles WHERE vehicle_id = ANY($1::text[])", vehicle_ids)
    return {row["vehicle_id"]: _stored(row) for row in rows}


async def by_number(connection: Connection, numbers: Sequence[int]) -> dict[int, Stored]:
    """Those of the vehicles that exist, by the store's numbers."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM vehicles WHERE vehicle = ANY($1::int[])", numbers)
    return {row["vehicle"]: _stored(row) for row in rows}


async def lock(connection: Connection, vehicle_id: str, fleet_id: str | None = None) -> Stored | None:
    """The same, with its row locked until the transaction ends. With a `fleet_id`, a vehicle of another fleet is None."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM vehicles WHERE vehicle_id = $1 AND ($2::text IS NULL OR fleet_id = $2) FOR UPDATE",
        vehicle_id,
        fleet_id,
    )
    return _stored(row) if row else None


async def lock_those_of_trip(connection: Connection, trip: int) -> list[Stored]:
    """The trip's vehicle and all that drove it, with their rows locked until the transaction ends."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM vehicles
        WHERE vehicle IN (SELECT vehicle FROM trip_spans WHERE trip = $1 UNION SELECT vehicle FROM trips WHERE trip = $1)
        ORDER BY vehicle FOR UPDATE
        """,
        trip,
    )
    return [_stored(row) for row in rows]


async def in_parts(connection: Connection, fleet_id: str, part: int) -> AsyncIterator[list[Stored]]:
    """All vehicles of the fleet, so many at a time, by a cursor. Needs an open transaction."""
    cursor = await connection.cursor(f"SELECT {_COLUMNS} FROM vehicles WHERE fleet_id = $1", fleet_id)
    while rows := await cursor.fetch(part):
        yield [_stored(row) for row in rows]
