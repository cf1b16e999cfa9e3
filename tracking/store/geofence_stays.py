"""Stays of vehicles in geofences. A stay begins with an event `enter`, and ends with `exit`."""

from collections.abc import Sequence
from typing import NamedTuple

from tracking.store.pool import Connection


class StayRow(NamedTuple):
    vehicle: int
    fleet_id: str
    geofence_id: str
    since: int
    dwelt: bool


Key = tuple[int, str, str]
"""The number of a vehicle, the id of its fleet, and the id of a geofence of that fleet."""

_KEYS = "unnest($1::integer[], $2::text[], $3::text[]) AS k (vehicle, fleet_id, geofence_id)"
_SAME = "s.vehicle = k.vehicle AND s.fleet_id = k.fleet_id AND s.geofence_id = k.geofence_id"


async def of_vehicles(connection: Connection, vehicles: Sequence[int]) -> list[StayRow]:
    """Which of the vehicles are inside which geofences of their fleets."""
    rows = await connection.fetch(
        """
        SELECT vehicle, fleet_id, geofence_id, since, dwelt FROM geofence_stays JOIN vehicles USING (vehicle, fleet_id)
        WHERE vehicle = ANY($1::int[])
        """,
        vehicles,
    )
    return [StayRow(*row) for row in rows]


async def begin(connection: Connection, stays: Sequence[StayRow]) -> None:
    """Stores stays, except in geofences that were removed."""
    if not stays:
        return
    # The geofences are locked. So if one is being removed, the stay is removed with it.
    await connection.execute(
        """
        INSERT INTO geofence_stays (vehicle, fleet_id, geofence_id, since, dwelt)
        SELECT k.vehicle, k.fleet_id, k.geofence_id, k.since, k.dwelt
        FROM unnest($1::integer[], $2::text[], $3::text[], $4::timestamptz[], $5::boolean[])
            AS k (vehicle, fleet_id, geofence_id, since, dwelt)
        JOIN (
            SELECT fleet_id, geofence_id FROM geofences WHERE geofence_id = ANY($3::text[]) FOR KEY SHARE
        ) AS g ON g.fleet_id = k.fleet_id AND g.geofence_id = k.geofence_id
        ON CONFLICT (vehicle, fleet_id, geofence_id) DO UPDATE SET since = EXCLUDED.since, dwelt = EXCLUDED.dwelt
        """,
        *map(list, zip(*stays, strict=True)),
    )


async def note_dwelt(connection: Connection, keys: Sequence[Key]) -> None:
    """Notes of stays that an event `dwell` was told."""
    if keys:
        await connection.execute(
            f"UPDATE geofence_stays s SET dwelt = true FROM {_KEYS} WHERE {_SAME}", *map(list, zip(*keys, strict=True))
        )


async def end(connection: Connection, keys: Sequence[Key]) -> None:
    if keys:
        await connection.execute(
            f"DELETE FROM geofence_stays s USING {_KEYS} WHERE {_SAME}", *map(list, zip(*keys, strict=True))
        )
