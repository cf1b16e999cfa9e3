"""Vehicles, and the numbers that the wide tables know them by."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from tracking.model import Vehicle
from tracking.store import history
from tracking.store.pool import Connection

_COLUMNS = "vehicle, vehicle_id, fleet_id, name, kind, plate, tokens_from"


class Stored(NamedTuple):
    """`tokens_from` is the instant at which it was made, where another vehicle had its id before: older tokens are of that."""

    number: int
    vehicle: Vehicle
    tokens_from: int | None = None


def _stored(row: Any) -> Stored:
    vehicle = Vehicle(row["vehicle_id"], row["fleet_id"], row["name"], row["kind"], row["plate"])
    return Stored(row["vehicle"], vehicle, row["tokens_from"])


async def put(connection: Connection, vehicle: Vehicle, now: int | None = None) -> tuple[Stored, bool]:
    """Stores the vehicle; True where it is new. `now` is the instant by the hub's clock; None: by the database's."""
    row = await connection.fetchrow(
        f"""
        INSERT INTO vehicles (vehicle_id, fleet_id, name, kind, plate, tokens_from)
        SELECT $1, $2, $3, $4, $5, CASE WHEN EXISTS (SELECT FROM erased_vehicles WHERE digest = id_digest($1))
            THEN coalesce($6, clock_timestamp()) END
        ON CONFLICT (vehicle_id) DO UPDATE
        SET fleet_id = EXCLUDED.fleet_id, name = EXCLUDED.name, kind = EXCLUDED.kind, plate = EXCLUDED.plate
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
        # It may have come from another fleet: there nobody is to find it any more.
        await connection.execute(
            """
            UPDATE latest_positions l SET fleet = f.fleet FROM fleets f
            WHERE l.vehicle = $1 AND f.fleet_id = $2 AND l.fleet <> f.fleet
            """,
            row["vehicle"],
            vehicle.fleet_id,
        )
        # And should it go back there, it is in none of the fences until it is seen in them.
        await connection.execute(
            "DELETE FROM geofence_stays WHERE vehicle = $1 AND fleet_id <> $2", row["vehicle"], vehicle.fleet_id
        )
    return _stored(row), row["created"]


async def get(connection: Connection, vehicle_id: str) -> Stored | None:
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM vehicles WHERE vehicle_id = $1", vehicle_id)
    return _stored(row) if row else None


async def get_all(connection: Connection, vehicle_ids: Sequence[str]) -> dict[str, Stored]:
    """Those of the vehicles that there are, by id."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM vehicles WHERE vehicle_id = ANY($1::text[])", vehicle_ids)
    return {row["vehicle_id"]: _stored(row) for row in rows}


async def lock(connection: Connection, vehicle_id: str, fleet_id: str | None = None) -> Stored | None:
    """The same, its row locked until the transaction ends; with a `fleet_id`, none of another fleet's, and no lock on it."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM vehicles WHERE vehicle_id = $1 AND ($2::text IS NULL OR fleet_id = $2) FOR UPDATE",
        vehicle_id,
        fleet_id,
    )
    return _stored(row) if row else None


async def all_of_them(connection: Connection) -> AsyncIterator[Vehicle]:
    """Needs an open transaction: they come through a cursor."""
    async for row in connection.cursor(f"SELECT {_COLUMNS} FROM vehicles", prefetch=5_000):
        yield _stored(row).vehicle


async def delete(connection: Connection, number: int) -> None:
    """Removes the vehicle with all that was stored of its whereabouts."""
    # The sessions go first: the recorder locks them before it writes, and a fix without a session is dropped.
    await connection.execute("DELETE FROM sessions WHERE vehicle = $1", number)
    await connection.execute("DELETE FROM positions WHERE vehicle = $1", number)
    await connection.execute("DELETE FROM latest_positions WHERE vehicle = $1", number)
    await history.erase(connection, number)
    # Its id is free from here on: a trigger notes that in `erased_vehicles`.
    await connection.execute("DELETE FROM vehicles WHERE vehicle = $1", number)


async def forget_erased(connection: Connection, before: int) -> None:
    """Forgets which ids were of vehicles that were erased before that instant."""
    await connection.execute("DELETE FROM erased_vehicles WHERE erased_at < $1", before)
