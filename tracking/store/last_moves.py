"""The last moves of vehicles and the events that were told of them, for a hub that becomes a vehicle's home unexpectedly."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from tracking.model import EventKind, Position
from tracking.store.latest_positions import as_position
from tracking.store.pool import Connection

ROWS_AT_ONCE = 5_000
"""Positions in one answer, of all vehicles together: if 200 are asked for at once, 25 of each."""
SLICE = 500
"""Rows that are read in one step of the event loop: some 2 ms."""
MOST = 600
"""Positions of one vehicle: ten minutes of one that reports every second."""
EVENTS, LEAST_EVENTS = 200, 10
"""Events of one vehicle that are searched, if there are few vehicles and if there are many."""
UNSTORED_SECONDS = 300.0
"""How long ago an event may have been told of a fix that is not stored yet, of a vehicle that has no stored fix."""


class ToldEvent(NamedTuple):
    kind: EventKind
    geofence_id: str | None
    fix_time: int


class LastMoves(NamedTuple):
    """`positions` have moved the marker, the oldest first. `events` were told of them, in the order of their ids.

    Some may have been told of later fixes, which are not stored.
    """

    positions: list[Position]
    events: list[ToldEvent]


async def of_vehicles(connection: Connection, vehicles: Sequence[int]) -> dict[int, LastMoves]:
    """By the vehicles' numbers, of the last day. The more vehicles, the fewer moves of each."""
    rows = await connection.fetch(
        """
        SELECT p.vehicle, v.vehicle_id, p.trip, t.trip_id, p.session, p.seq, p.fix_time, p.server_time, p.accuracy, p.speed,
            p.bearing, p.battery, p.point
        FROM vehicles v
        CROSS JOIN LATERAL (
            SELECT * FROM positions q
            WHERE q.vehicle = v.vehicle AND q.suspect IS NULL AND q.fix_time > now() - interval '1 day'
            ORDER BY q.fix_time DESC LIMIT $2
        ) p
        LEFT JOIN trips t ON t.trip = p.trip
        WHERE v.vehicle = ANY($1::int[]) ORDER BY p.server_time, p.session, p.seq
        """,
        vehicles,
        max(2, min(MOST, ROWS_AT_ONCE // max(1, len(vehicles)))),
    )
    found = {vehicle: LastMoves([], []) for vehicle in vehicles}
    for number, row in enumerate(rows, 1):
        if number % SLICE == 0:
            await asyncio.sleep(0)
        moves = found[row["vehicle"]]
        # One that came late did not move the marker.
        if not moves.positions or row["fix_time"] >= moves.positions[-1].fix_time:
            moves.positions.append(as_position(row))
    told = await connection.fetch(
        """
        SELECT e.vehicle, e.kind, e.geofence_id, e.fix_time
        FROM unnest($1::int[], $2::timestamptz[]) AS w (vehicle, since)
        CROSS JOIN LATERAL (SELECT * FROM events n WHERE n.vehicle = w.vehicle ORDER BY n.event DESC LIMIT $3) e
        WHERE e.fix_time >= w.since AND (w.since > to_timestamp(0) OR e.server_time > now() - make_interval(secs => $4))
        ORDER BY e.event
        """,
        list(found),
        [moves.positions[0].fix_time if moves.positions else 0 for moves in found.values()],
        max(LEAST_EVENTS, min(EVENTS, ROWS_AT_ONCE // max(1, len(vehicles)))),
        UNSTORED_SECONDS,
    )
    for number, (vehicle, kind, geofence_id, fix_time) in enumerate(told, 1):
        if number % SLICE == 0:
            await asyncio.sleep(0)
        found[vehicle].events.append(ToldEvent(EventKind(kind), geofence_id, fix_time))
    return found
