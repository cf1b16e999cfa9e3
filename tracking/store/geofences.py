"""Geofences. Shapes are PostGIS geometry in the table and GeoJSON everywhere else."""

from typing import TypeAlias

import asyncpg
import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from tracking.geojson import shape_of
from tracking.model import Geofence
from tracking.store.pool import Connection

_COLUMNS = "fleet_id, geofence_id, shape, properties"
_AT_ONCE = 100
"""Rows in one answer. With the largest geofences these are 32 MB."""


Row: TypeAlias = asyncpg.Record


def geofence_of(row: Row) -> Geofence:
    """The geofence of a stored row. For thousands of rows, to be called in a thread."""
    return Geofence(row["fleet_id"], row["geofence_id"], mapping(shapely.from_wkb(row["shape"])), row["properties"])


def stored_shape(shape: BaseGeometry) -> bytes:
    """A shape as it is stored."""
    stored: bytes = shapely.to_wkb(shapely.set_srid(shape, 4326), include_srid=True)
    return stored


async def put(connection: Connection, geofence: Geofence, shape: bytes | None = None) -> bool:
    """Stores the geofence. Returns whether it is new. `shape` is its `stored_shape`, if that is made already."""
    created: bool = await connection.fetchval(
        f"""
        INSERT INTO geofences ({_COLUMNS}) VALUES ($1, $2, $3, $4)
        ON CONFLICT (fleet_id, geofence_id) DO UPDATE SET shape = EXCLUDED.shape, properties = EXCLUDED.properties
        RETURNING xmax = 0
        """,
        geofence.fleet_id,
        geofence.geofence_id,
        stored_shape(shape_of(geofence.geometry)) if shape is None else shape,
        geofence.properties,
    )
    return created


async def row_of(connection: Connection, fleet_id: str, geofence_id: str) -> Row | None:
    return await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM geofences WHERE fleet_id = $1 AND geofence_id = $2", fleet_id, geofence_id
    )


async def rows_of_fleet(connection: Connection, fleet_id: str) -> list[Row]:
    return await connection.fetch(f"SELECT {_COLUMNS} FROM geofences WHERE fleet_id = $1 ORDER BY geofence_id", fleet_id)


async def rows_through_cursor(connection: Connection, fleet_id: str) -> list[Row]:
    """The same, unordered, some at a time, because they may be large. Needs an open transaction."""
    query = f"SELECT {_COLUMNS} FROM geofences WHERE fleet_id = $1"
    return [row async for row in connection.cursor(query, fleet_id, prefetch=_AT_ONCE)]


async def count_others(connection: Connection, fleet_id: str, geofence_id: str) -> tuple[int, int]:
    """How many geofences the fleet has besides that one, and how many vertices they have together."""
    row = await connection.fetchrow(
        """
        SELECT count(*), coalesce(sum(ST_NPoints(shape)), 0)::bigint FROM geofences
        WHERE fleet_id = $1 AND geofence_id <> $2
        """,
        fleet_id,
        geofence_id,
    )
    assert row is not None
    return row[0], row[1]


async def delete(connection: Connection, fleet_id: str, geofence_id: str) -> bool:
    """Removes it with all stays in it. False if there was none."""
    done = await connection.execute("DELETE FROM geofences WHERE fleet_id = $1 AND geofence_id = $2", fleet_id, geofence_id)
    return str(done) != "DELETE 0"
