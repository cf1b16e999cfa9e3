"""Fleets."""

from typing import Any

from msgspec import UNSET

from tracking.model import Fleet
from tracking.store.pool import Connection

NEAR = 100
"""More than the transactions at one time. Farther from a cap than this, they need not wait for each other."""
_COLUMNS = "fleet_id, name, speed_limit, idle_after, off_route_distance, signal_lost_after, dwell_after"


def _fleet(row: Any) -> Fleet:
    fleet_id, name, speed_limit, *thresholds = row
    return Fleet(fleet_id, name, UNSET if speed_limit is None else speed_limit, *thresholds)


async def put(connection: Connection, fleet: Fleet) -> bool:
    """Stores the fleet. Returns whether it is new."""
    created: bool = await connection.fetchval(
        f"""
        INSERT INTO fleets ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (fleet_id) DO UPDATE SET
            name = EXCLUDED.name, speed_limit = EXCLUDED.speed_limit, idle_after = EXCLUDED.idle_after,
            off_route_distance = EXCLUDED.off_route_distance, signal_lost_after = EXCLUDED.signal_lost_after,
            dwell_after = EXCLUDED.dwell_after
        RETURNING xmax = 0
        """,
        fleet.fleet_id,
        fleet.name,
        None if fleet.speed_limit is UNSET else fleet.speed_limit,
        fleet.idle_after,
        fleet.off_route_distance,
        fleet.signal_lost_after,
        fleet.dwell_after,
    )
    return created


async def get(connection: Connection, fleet_id: str) -> Fleet | None:
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM fleets WHERE fleet_id = $1", fleet_id)
    return _fleet(row) if row else None


async def lock(connection: Connection, fleet_id: str) -> bool:
    """Locks the fleet's row until the transaction ends, to add something to it. False if there is no such fleet."""
    row = await connection.fetchrow("SELECT FROM fleets WHERE fleet_id = $1 FOR NO KEY UPDATE", fleet_id)
    return row is not None


async def count_with_one_more(connection: Connection) -> int:
    """The number of fleets with one more. Transactions that make a fleet wait here for each other."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('tracking.fleets'))")
    count: int = await connection.fetchval("SELECT count(*) + 1 FROM fleets")
    return count


async def vehicles_with_one_more(connection: Connection, fleet_id: str, most: int) -> int:
    """The fleet's number of vehicles with one more. To be asked before it is added. `most` is the fleet's limit."""
    return await _with_one_more(connection, fleet_id, "vehicles", most)


async def open_trips_with_one_more(connection: Connection, fleet_id: str, most: int) -> int:
    """The same for trips that are not over."""
    return await _with_one_more(connection, fleet_id, "open_trips", most)


async def _with_one_more(connection: Connection, fleet_id: str, column: str, most: int) -> int:
    query = f"SELECT coalesce(sum({column}), 0) + 1 FROM fleet_counts WHERE fleet_id = $1"
    count = await connection.fetchval(query, fleet_id)
    if count > most - NEAR:
        # Near the cap, transactions add one after the other. Each waits until the one before was committed or rolled back.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('tracking.fleet_counts'), hashtext($1))", fleet_id)
        count = await connection.fetchval(query, fleet_id)
    return int(count)
