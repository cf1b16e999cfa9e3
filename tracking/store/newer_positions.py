"""Positions and latest positions that are newer than those that a hub has shown, for vehicles whose home is another hub."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from tracking.model import Position
from tracking.store.latest_positions import as_position
from tracking.store.pool import Connection

MOST = 30
"""Positions of one trip in one reading. The rest come with the next reading."""
ROWS_AT_ONCE = 300
"""Rows that are decoded in one step of the event loop."""


class Shown(NamedTuple):
    """A watched trip, by the store's numbers of its vehicle and itself, and the last fix time that its watchers were shown.

    0: they were shown none since the feed began. Then the newest position is read alone.
    """

    vehicle: int
    trip: int
    fix_time: int


async def of_trips(connection: Connection, shown: Sequence[Shown], now: int) -> AsyncIterator[list[Position]]:
    """Plausible positions of trips after those shown, some at a time, those of one trip in the order of their fix times.

    Positions of a fix time that is a minute ahead of `now` are left out. Needs an open transaction.
    """
    # The key has the vehicle and then the fix time. Without the bounds every day's partition would be opened for every trip.
    cursor = await connection.cursor(
        """
        SELECT w.vehicle, v.vehicle_id, w.trip, t.trip_id, p.session, p.seq, p.fix_time, p.server_time, p.accuracy, p.speed,
            p.bearing, NULL::float8 AS battery, p.point
        FROM unnest($1::int[], $2::int[], $3::timestamptz[]) AS w (vehicle, trip, shown)
        JOIN vehicles v ON v.vehicle = w.vehicle JOIN trips t ON t.trip = w.trip
        CROSS JOIN LATERAL (
            SELECT * FROM (
                SELECT session, seq, fix_time, server_time, accuracy, speed, bearing, point FROM positions
                WHERE w.shown > 'epoch' AND vehicle = w.vehicle AND fix_time > w.shown
                    AND fix_time > $4::timestamptz - interval '1 day' AND fix_time <= $4::timestamptz + interval '1 min'
                    AND trip = w.trip AND suspect IS NULL
                ORDER BY fix_time, session, seq LIMIT $5
            ) AS next
            UNION ALL
            SELECT * FROM (
                SELECT session, seq, fix_time, server_time, accuracy, speed, bearing, point FROM positions
                WHERE w.shown = 'epoch' AND vehicle = w.vehicle
                    AND fix_time > $4::timestamptz - interval '1 day' AND fix_time <= $4::timestamptz + interval '1 min'
                    AND trip = w.trip AND suspect IS NULL
                ORDER BY fix_time DESC, session DESC, seq DESC LIMIT 1
            ) AS last
        ) AS p
        """,
        [one.vehicle for one in shown],
        [one.trip for one in shown],
        [one.fix_time for one in shown],
        now,
        MOST,
    )
    while rows := await cursor.fetch(ROWS_AT_ONCE):
        yield [as_position(row) for row in rows]


async def of_fleets(connection: Connection, fleet_ids: Sequence[str], since: int) -> AsyncIterator[list[Position]]:
    """The latest positions of vehicles of fleets that were heard of at `since` or later, some at a time.

    Needs an open transaction.
    """
    cursor = await connection.cursor(
        """
        SELECT l.vehicle, v.vehicle_id, l.trip, t.trip_id, 0 AS session, 0 AS seq, l.fix_time, l.server_time, l.accuracy,
            l.speed, l.bearing, l.battery, l.point
        FROM latest_positions l JOIN vehicles v USING (vehicle) LEFT JOIN trips t ON t.trip = l.trip
        WHERE v.fleet_id = ANY($1::text[]) AND l.server_time >= $2::timestamptz
        """,
        fleet_ids,
        since,
    )
    while rows := await cursor.fetch(ROWS_AT_ONCE):
        yield [as_position(row) for row in rows]
