"""Fleets."""

from typing import Any

from msgspec import UNSET

from tracking.model import Fleet
from tracking.store.pool import Connection

_COLUMNS = "fleet_id, name, speed_limit, idle_after, off_route_distance, signal_lost_after, dwell_after"


def _fleet(row: Any) -> Fleet:
    fleet_id, name, speed_limit, *thresholds = row
    return Fleet(fleet_id, name, UNSET if speed_limit is None else speed_limit, *thresholds)


async def put(connection: Connection, fleet: Fleet) -> bool:
    """Stores the fleet; True where it is new."""
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


async def all_of_them(connection: Connection) -> list[Fleet]:
    return [_fleet(row) for row in await connection.fetch(f"SELECT {_COLUMNS} FROM fleets")]
