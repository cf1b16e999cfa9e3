"""Geofences. Shapes are PostGIS geometry in the table and GeoJSON everywhere else."""

from typing import Any

import shapely
from shapely.geometry import mapping

from tracking.geojson import shape_of
from tracking.model import Geofence
from tracking.store.pool import Connection

_COLUMNS = "fleet_id, geofence_id, shape, properties"


def _geofence(row: Any) -> Geofence:
    return Geofence(row["fleet_id"], row["geofence_id"], mapping(shapely.from_wkb(row["shape"])), row["properties"])


async def put(connection: Connection, geofence: Geofence) -> bool:
    """Stores the geofence; True where it is new."""
    shape = shapely.set_srid(shape_of(geofence.geometry), 4326)
    created: bool = await connection.fetchval(
        f"""
        INSERT INTO geofences ({_COLUMNS}) VALUES ($1, $2, $3, $4)
        ON CONFLICT (fleet_id, geofence_id) DO UPDATE SET shape = EXCLUDED.shape, properties = EXCLUDED.properties
        RETURNING xmax = 0
        """,
        geofence.fleet_id,
        geofence.geofence_id,
        shapely.to_wkb(shape, include_srid=True),
        geofence.properties,
    )
    return created


async def get(connection: Connection, fleet_id: str, geofence_id: str) -> Geofence | None:
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM geofences WHERE fleet_id = $1 AND geofence_id = $2", fleet_id, geofence_id
    )
    return _geofence(row) if row else None


async def of_fleet(connection: Connection, fleet_id: str) -> list[Geofence]:
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM geofences WHERE fleet_id = $1 ORDER BY geofence_id", fleet_id)
    return [_geofence(row) for row in rows]


async def all_of_them(connection: Connection) -> list[Geofence]:
    return [_geofence(row) for row in await connection.fetch(f"SELECT {_COLUMNS} FROM geofences")]


async def delete(connection: Connection, fleet_id: str, geofence_id: str) -> bool:
    """Removes it with all stays in it; False where there was none."""
    done = await connection.execute("DELETE FROM geofences WHERE fleet_id = $1 AND geofence_id = $2", fleet_id, geofence_id)
    return str(done) != "DELETE 0"
