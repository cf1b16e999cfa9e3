"""Silences of vehicles. A silence begins with an event `signal_lost`, and ends with `signal_back`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tracking.store.pool import Connection


class Quiet(NamedTuple):
    """A vehicle that has been silent for too long, and its latest position.

    `trip_id` is the trip that is under way, and `position_trip_id` the trip of the position.
    """

    vehicle: int
    vehicle_id: str
    fleet_id: str
    signal_lost_after: float
    fix_time: int
    server_time: int
    point: bytes
    trip_id: str | None
    position_trip_id: str | None


async def begin(connection: Connection, since: Mapping[int, int]) -> set[int]:
    """Stores since when vehicles are silent. Returns those that were not silent before: theirs is the event `signal_lost`."""
    if not since:
        return set()
    # In one order, so that two hubs that write at once cannot deadlock.
    since = dict(sorted(since.items()))
    rows = await connection.fetch(
        """
        INSERT INTO silences (vehicle, since) SELECT * FROM unnest($1::integer[], $2::timestamptz[])
        ON CONFLICT (vehicle) DO NOTHING RETURNING vehicle
        """,
        list(since),
        list(since.values()),
    )
    return {row["vehicle"] for row in rows}


async def end(connection: Connection, vehicles: Sequence[int]) -> set[int]:
    """Ends silences. Returns those of the vehicles that were silent: theirs is the event `signal_back`."""
    if not vehicles:
        return set()
    rows = await connection.fetch(
        """
        DELETE FROM silences s USING (
            SELECT vehicle FROM silences WHERE vehicle = ANY($1::integer[]) ORDER BY vehicle FOR UPDATE
        ) AS ended WHERE s.vehicle = ended.vehicle RETURNING s.vehicle
        """,
        vehicles,
    )
    return {row["vehicle"] for row in rows}


async def silent(connection: Connection, vehicles: Sequence[int]) -> set[int]:
    """Those of the vehicles whose signal is lost."""
    rows = await connection.fetch("SELECT vehicle FROM silences WHERE vehicle = ANY($1::int[])", vehicles)
    return {row["vehicle"] for row in rows}


async def quiet(
    connection: Connection,
    now: int,
    *,
    longest: float,
    since: int,
    besides: Sequence[str],
    limit: int,
    asked: tuple[int, float] | None = None,
    homes: Sequence[str] = (),
    skipped: Sequence[int] = (),
) -> list[Quiet]:
    """Vehicles that were heard of at `since` or later, and have been silent for their fleet's `signal_lost_after` at `now`.

    Vehicles that are stored as silent are left out. So are fleets whose `signal_lost_after` exceeds `longest` (s), the fleets
    `besides`, vehicles whose home is one of the hubs `homes`, and those `skipped`. `asked` has `now` and `longest` of the
    query before. With it, vehicles that the query before could find are left out.
    """
    before, longest_before = asked if asked is not None else (0, 0.0)
    # This reads all latest positions, because an index by time would slow each of their updates. The times are compared first,
    # so that few vehicles are looked up in `silences`.
    rows = await connection.fetch(
        """
        WITH thresholds AS MATERIALIZED (
            SELECT fleet, signal_lost_after, $1::timestamptz - make_interval(secs => signal_lost_after) AS until,
                CASE
                    WHEN signal_lost_after > $7 THEN '-infinity'
                    ELSE $6::timestamptz - make_interval(secs => signal_lost_after)
                END AS past
            FROM fleets WHERE signal_lost_after <= $2 AND fleet_id <> ALL($4::text[])
        ), aged AS MATERIALIZED (
            SELECT l.vehicle, f.signal_lost_after, l.fix_time, l.server_time, l.point, l.trip
            FROM latest_positions l JOIN thresholds f USING (fleet)
            WHERE l.server_time >= $3::timestamptz AND l.server_time <= f.until AND l.server_time > f.past
        ), found AS MATERIALIZED (
            SELECT * FROM aged a WHERE NOT EXISTS (SELECT FROM silences s WHERE s.vehicle = a.vehicle)
                AND NOT EXISTS (SELECT FROM homes h WHERE h.vehicle = a.vehicle AND h.node = ANY($8::text[]))
                AND a.vehicle <> ALL($9::integer[]) LIMIT $5
        )
        SELECT v.vehicle, v.vehicle_id, v.fleet_id, l.signal_lost_after, l.fix_time, l.server_time, l.point,
            u.trip_id, t.trip_id AS position_trip_id
        FROM found l JOIN vehicles v USING (vehicle) LEFT JOIN trips t ON t.trip = l.trip
        LEFT JOIN trip_spans s ON s.vehicle = l.vehicle AND s.ended_at IS NULL LEFT JOIN trips u ON u.trip = s.trip
        WHERE NOT v.fleet_id = ANY($4::text[])
        """,
        now,
        longest,
        since,
        besides,
        limit,
        before,
        longest_before,
        homes,
        skipped,
    )
    return [Quiet(*row) for row in rows]
