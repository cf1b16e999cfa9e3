"""Vehicles of a fleet with their latest positions: the nearest to a place, and all of them, a page at a time."""

from typing import Any, NamedTuple

import asyncpg

from tracking.geo import unpack_point
from tracking.model import Vehicle
from tracking.store.pool import Connection

MAX_WORDS = 10
"""Words of a search. Further words count as one word with the last."""


class LatestPosition(NamedTuple):
    """The latest place of a vehicle in `latest_positions`, some seconds behind the live map."""

    latitude: float
    longitude: float
    fix_time: int
    speed: float | None
    bearing: float | None
    battery: float | None


class Near(NamedTuple):
    """`distance` is in metres, on the sphere of `geo.distance`."""

    vehicle: Vehicle
    seen: LatestPosition
    distance: float


_VEHICLE = "v.vehicle_id, v.fleet_id, v.name, v.kind, v.plate"
_SEEN = "l.point, l.fix_time, l.speed, l.bearing, l.battery"
_HERE = "ST_SetSRID(ST_MakePoint($2, $3), 4326)::geography"


async def nearest(
    connection: Connection, fleet_id: str, latitude: float, longitude: float, limit: int, *, available_since: int | None = None
) -> list[Near]:
    """The fleet's vehicles nearest to a place, nearest first.

    With `available_since`, only vehicles that have no open trip and were heard of at that instant or later. Must not be in a
    transaction.
    """
    # For geography, `<->` is the distance on the sphere. The index returns rows in this order, one by one until there are
    # enough. So other conditions are checked for these few rows only. The LIMIT keeps the planner from reading all trips. With
    # CASE the planner expects that every second row fits. From the bare conditions it would expect almost none, because the
    # newest fixes are younger than its statistics. It would then read and sort the whole fleet.
    available = """
        AND CASE WHEN l.fix_time >= $5::timestamptz THEN (
            SELECT t.trip FROM trips t
            WHERE t.vehicle = l.vehicle AND t.status NOT IN ('complete', 'canceled') LIMIT 1
        ) IS NULL ELSE false END
    """
    query = f"""
        SELECT {_VEHICLE}, {_SEEN}, l.point::geography <-> {_HERE} AS distance
        FROM latest_positions l JOIN vehicles v USING (vehicle)
        WHERE l.fleet = (SELECT fleet FROM fleets WHERE fleet_id = $1) {"" if available_since is None else available}
        ORDER BY {{distance}} LIMIT $4
    """
    distance = f"l.point::geography <-> {_HERE}"
    arguments = (fleet_id, longitude, latitude, limit, *(() if available_since is None else (available_since,)))
    try:
        rows = await connection.fetch(query.format(distance=distance), *arguments)
    except asyncpg.InternalServerError:
        # "index returned tuples in wrong order": PostGIS rounds distances to 10 nm, but not the bound that its index returns.
        # This happens if a coordinate on the globe is close to zero, as at Greenwich. Then the index is not used.
        rows = await connection.fetch(query.format(distance=f"({distance}) + 0"), *arguments)
    return [Near(_vehicle(row), _seen(row), row["distance"]) for row in rows]


async def page(
    connection: Connection, fleet_id: str, limit: int, *, after: str = "", search: str = ""
) -> list[tuple[Vehicle, LatestPosition | None]]:
    """The fleet's vehicles by `vehicle_id`, past `after`, that have every word of `search` in their name, plate or id.

    A plate is also found without its spaces. Case and accents do not matter (`search_key` in `sql/0014_search_key.sql`). Needs
    an open transaction.
    """
    words = search.split()
    if len(words) > MAX_WORDS:
        words[MAX_WORDS - 1 :] = [" ".join(words[MAX_WORDS - 1 :])]
    # Each word is a condition of its own, because the index of trigrams supports LIKE, but not LIKE ALL.
    found = "".join(f" AND v.search_key LIKE search_pattern(${number}::text)" for number in range(4, 4 + len(words)))
    query = f"""
        SELECT {_VEHICLE}, {_SEEN} FROM vehicles v LEFT JOIN latest_positions l USING (vehicle)
        WHERE v.fleet_id = $1 AND v.vehicle_id > $2 {found}
        ORDER BY v.vehicle_id LIMIT $3
    """
    if words:
        # A rare word is found by its trigrams, and a frequent one in the order of ids. Each search is planned anew.
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
    rows = await connection.fetch(query, fleet_id, after, limit, *words)
    return [(_vehicle(row), _seen(row) if row["point"] is not None else None) for row in rows]


def _vehicle(row: Any) -> Vehicle:
    return Vehicle(row["vehicle_id"], row["fleet_id"], row["name"], row["kind"], row["plate"])


def _seen(row: Any) -> LatestPosition:
    longitude, latitude = unpack_point(row["point"])
    return LatestPosition(latitude, longitude, row["fix_time"], row["speed"], row["bearing"], row["battery"])
