"""The latest position of each vehicle. The hub writes `latest_positions` every few seconds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tracking.geo import unpack_point
from tracking.model import Position
from tracking.store.pool import Connection


class Latest(NamedTuple):
    latitude: float
    longitude: float
    fix_time: int
    server_time: int
    speed: float | None


async def move(connection: Connection, positions: Sequence[Position], terms: Sequence[int | None] = ()) -> None:
    """Sets the latest positions of vehicles: at most one for each, in the order of `vehicle`.

    An older position changes nothing. Neither does one of a vehicle that was removed, nor one from before the vehicle joined
    its fleet. `terms` are those of the vehicles' homes, if known. A position of a lost home changes nothing either.
    """
    # The rows are in the order of the key. So two hubs that write at once cannot deadlock.
    await connection.execute(
        """
        INSERT INTO latest_positions AS old
            (vehicle, fleet, trip, fix_time, server_time, accuracy, speed, bearing, battery, point)
        SELECT vehicle, fleet, trip, fix_time, server_time, accuracy, speed, bearing, battery,
            ST_SetSRID(ST_MakePoint(longitude, latitude), 4326)
        FROM unnest(
            $1::int[], $2::int[], $3::timestamptz[], $4::timestamptz[], $5::float8[], $6::float8[], $7::float8[],
            $8::float8[], $9::float8[], $10::float8[], $11::bigint[]
        ) AS new (vehicle, trip, fix_time, server_time, accuracy, speed, bearing, battery, longitude, latitude, term)
        JOIN (
            SELECT vehicle, fleet_id, joined_at FROM vehicles WHERE vehicle = ANY($1::int[]) ORDER BY vehicle FOR KEY SHARE
        ) AS known USING (vehicle) JOIN fleets USING (fleet_id) LEFT JOIN homes USING (vehicle)
        -- The fleet may not see where the vehicle was before it joined.
        WHERE least(new.fix_time, new.server_time) >= coalesce(known.joined_at, '-infinity')
            -- Nothing locks the home: a position that is later than the newest in the store is true, whoever brings it.
            AND (new.term IS NULL OR new.term = coalesce(homes.term, 0))
        ON CONFLICT (vehicle) DO UPDATE SET
            fleet = EXCLUDED.fleet, trip = EXCLUDED.trip, fix_time = EXCLUDED.fix_time, server_time = EXCLUDED.server_time,
            accuracy = EXCLUDED.accuracy, speed = EXCLUDED.speed, bearing = EXCLUDED.bearing, battery = EXCLUDED.battery,
            point = EXCLUDED.point
        WHERE EXCLUDED.fix_time >= old.fix_time
        """,
        [p.vehicle for p in positions],
        [p.trip for p in positions],
        [p.fix_time for p in positions],
        [p.server_time for p in positions],
        [p.accuracy for p in positions],
        [p.speed for p in positions],
        [p.bearing for p in positions],
        [p.battery for p in positions],
        [p.longitude for p in positions],
        [p.latitude for p in positions],
        list(terms) or [None] * len(positions),
    )


async def newest(connection: Connection, vehicles: Sequence[int]) -> dict[int, Latest]:
    """The newest plausible positions of vehicles, by their numbers. Vehicles without any are left out.

    `latest_positions` may be some seconds behind.
    """
    rows = await connection.fetch(
        """
        SELECT wanted.vehicle, known.point, known.fix_time, known.server_time, known.speed
        FROM unnest($1::int[]) AS wanted (vehicle)
        LEFT JOIN latest_positions latest USING (vehicle)
        CROSS JOIN LATERAL (
            SELECT latest.point, latest.fix_time, latest.server_time, latest.speed WHERE latest.fix_time IS NOT NULL
            UNION ALL
            (
                SELECT p.point, p.fix_time, p.server_time, p.speed FROM positions p
                WHERE p.vehicle = wanted.vehicle AND p.suspect IS NULL
                    AND p.fix_time > coalesce(latest.fix_time, now() - interval '1 day')
                ORDER BY p.fix_time DESC LIMIT 1
            )
            ORDER BY fix_time DESC LIMIT 1
        ) AS known
        """,
        vehicles,
    )
    found = {}
    for row in rows:
        longitude, latitude = unpack_point(row["point"])
        found[row["vehicle"]] = Latest(latitude, longitude, row["fix_time"], row["server_time"], row["speed"])
    return found


async def stored(connection: Connection, vehicles: Sequence[int], since: int) -> dict[int, Position]:
    """The rows of `latest_positions` of vehicles that were heard of since the instant."""
    rows = await connection.fetch(
        """
        SELECT l.vehicle, v.vehicle_id, l.trip, t.trip_id, 0 AS session, 0 AS seq, l.fix_time, l.server_time, l.accuracy,
            l.speed, l.bearing, l.battery, l.point
        FROM latest_positions l JOIN vehicles v USING (vehicle) LEFT JOIN trips t ON t.trip = l.trip
        WHERE l.vehicle = ANY($1::int[]) AND l.server_time >= $2::timestamptz
        """,
        vehicles,
        since,
    )
    return {row["vehicle"]: as_position(row) for row in rows}


async def unwritten(connection: Connection, nodes: Sequence[str], after: int, limit: int) -> tuple[list[Position], int | None]:
    """Newest positions that dead hubs have stored, and not written as latest positions, in the order of `vehicle`.

    It looks at the next `limit` vehicles past `after` that had these homes. Returns the last of them too; None: none is left.
    """
    vehicles = [
        row["vehicle"]
        for row in await connection.fetch(
            "SELECT vehicle FROM homes WHERE node = ANY($1::text[]) AND vehicle > $2 ORDER BY vehicle LIMIT $3",
            nodes,
            after,
            limit,
        )
    ]
    if not vehicles:
        return [], None
    rows = await connection.fetch(
        """
        SELECT v.vehicle, v.vehicle_id, t.trip, t.trip_id, p.session, p.seq, p.fix_time, p.server_time, p.accuracy, p.speed,
            p.bearing, p.battery, p.point
        FROM vehicles v LEFT JOIN latest_positions l USING (vehicle)
        CROSS JOIN LATERAL (
            SELECT * FROM positions q
            WHERE q.vehicle = v.vehicle AND q.suspect IS NULL AND q.fix_time > coalesce(l.fix_time, now() - interval '1 day')
            ORDER BY q.fix_time DESC LIMIT 1
        ) p
        LEFT JOIN trips t ON t.trip = p.trip
        WHERE v.vehicle = ANY($1::int[]) ORDER BY v.vehicle
        """,
        vehicles,
    )
    return [as_position(row) for row in rows], vehicles[-1]


def as_position(row: Any) -> Position:
    """A position that moves the marker. Its altitude is shown to nobody."""
    longitude, latitude = unpack_point(row["point"])
    return Position(
        vehicle=row["vehicle"],
        vehicle_id=row["vehicle_id"],
        session=row["session"],
        seq=row["seq"],
        fix_time=row["fix_time"],
        server_time=row["server_time"],
        latitude=latitude,
        longitude=longitude,
        accuracy=row["accuracy"],
        altitude=None,
        speed=row["speed"],
        bearing=row["bearing"],
        battery=row["battery"],
        trip=row["trip"],
        trip_id=row["trip_id"],
        suspect=(),
        live=True,
    )
