"""Fleets."""

from tracking.model import Fleet
from tracking.store.pool import Connection


async def put(connection: Connection, fleet: Fleet) -> bool:
    """Stores the fleet; True where it is new."""
    created: bool = await connection.fetchval(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ($1, $2)
        ON CONFLICT (fleet_id) DO UPDATE SET name = EXCLUDED.name
        RETURNING xmax = 0
        """,
        fleet.fleet_id,
        fleet.name,
    )
    return created


async def get(connection: Connection, fleet_id: str) -> Fleet | None:
    row = await connection.fetchrow("SELECT fleet_id, name FROM fleets WHERE fleet_id = $1", fleet_id)
    return Fleet(row["fleet_id"], row["name"]) if row else None
