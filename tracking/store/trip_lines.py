"""The line of a trip, read from its positions for those who watch it. Doubted positions are left out.

`tracks` reads downloads, which have other columns, other limits, and positions that were removed.
"""

from collections.abc import AsyncIterator, Sequence

from tracking.store.pool import Connection, Database
from tracking.store.positions import TRACK_COLUMNS, TrackRow

SHORT = 300
"""A trip of at most so many fixes is read as rows, together with other trips."""
LINE_SECONDS = 7_200
"""A piece of a vehicle's line covers so much time. With a fix each second, a piece has 170 KB."""
LINES_AT_ONCE = 4
"""Pieces that the cursor fetches at once."""

_SEGMENTS = "JOIN trip_segments({}) g ON p.vehicle = g.vehicle AND p.fix_time BETWEEN g.since AND g.until"


async def short_tracks(connection: Connection, trips: Sequence[int]) -> dict[int, list[TrackRow]]:
    """Positions of several trips, by one query. Trips that are longer than `SHORT` are left out.

    They come segment by segment, and by fix time. A segment is what one vehicle drove before the next one took over.
    """
    # The bounds are known before the positions are read, so that PostgreSQL opens no other day's partition.
    condition = "p.trip = wanted.trip AND p.fix_time >= span.first AND p.fix_time <= span.last"
    track = _track_query(condition, join=_SEGMENTS.format("wanted.trip"), order="g.segment, ")
    rows = await connection.fetch(
        f"""
        SELECT wanted.trip, track.* FROM unnest($1::int[]) AS wanted (trip)
        CROSS JOIN LATERAL (
            SELECT min(g.since) AS first, max(g.until) AS last FROM trip_segments(wanted.trip) g
        ) AS span
        CROSS JOIN LATERAL ({track} LIMIT {SHORT + 1}) AS track
        """,
        trips,
    )
    found: dict[int, list[TrackRow]] = {trip: [] for trip in trips}
    for trip, *row in rows:
        found[trip].append(TrackRow(*row))
    return {trip: track for trip, track in found.items() if len(track) <= SHORT}


async def read_short(database: Database, trips: Sequence[int]) -> dict[int, list[TrackRow]]:
    """`short_tracks` through a pool. Raises `StoreUnavailable`."""
    async with database.connection() as connection:
        return await short_tracks(connection, trips)


async def line_of_trip(
    connection: Connection, trip: int, *, from_: int | None = None, to: int | None = None
) -> AsyncIterator[tuple[str, bytes]]:
    """The trip's line between two fix times, both included, in pieces of some hours of one vehicle: `(vehicle_id, EWKB)`.

    Each piece is a LineStringM. M is the fix time. PostgreSQL makes the lines, because a hundred thousand fixes as rows are a
    second of Python. Needs an open transaction.
    """
    # The first and the last instant of the segments bound the scan of the key's index, and the days that are opened. With the
    # segments alone, PostgreSQL may read all positions of the vehicle.
    query = f"""
        SELECT v.vehicle_id, ST_MakeLine(
            ST_MakePointM(ST_X(p.point), ST_Y(p.point), (date_part('epoch', p.fix_time) * 1000)::bigint) ORDER BY p.fix_time
        )
        FROM positions p {_SEGMENTS.format("$1")} JOIN vehicles v ON v.vehicle = p.vehicle
        WHERE p.trip = $1 AND p.suspect IS NULL
            AND p.fix_time >= (SELECT min(g.since) FROM trip_segments($1) g)
            AND p.fix_time <= (SELECT max(g.until) FROM trip_segments($1) g)
            AND ($2::timestamptz IS NULL OR p.fix_time >= $2::timestamptz)
            AND ($3::timestamptz IS NULL OR p.fix_time <= $3::timestamptz)
        GROUP BY g.segment, v.vehicle_id, floor(date_part('epoch', p.fix_time) / {LINE_SECONDS})
    """
    async for vehicle_id, line in connection.cursor(query, trip, from_, to, prefetch=LINES_AT_ONCE):
        yield vehicle_id, line


async def last_of_trip(connection: Connection, trip: int) -> list[TrackRow]:
    """The last position of each segment of the trip, in their order."""
    condition = "p.trip = $1 AND p.vehicle = g.vehicle AND p.fix_time BETWEEN g.since AND g.until"
    one = _track_query(condition, descending=True)
    rows = await connection.fetch(
        f"SELECT last.* FROM trip_segments($1) g CROSS JOIN LATERAL ({one} LIMIT 1) AS last ORDER BY g.segment", trip
    )
    return [TrackRow(*row) for row in rows]


def _track_query(condition: str, *, join: str = "", order: str = "", descending: bool = False) -> str:
    way = "DESC" if descending else "ASC"
    return f"""
        SELECT {TRACK_COLUMNS}
        FROM positions p JOIN vehicles v USING (vehicle) LEFT JOIN sessions s USING (session)
            LEFT JOIN trips t ON t.trip = p.trip {join}
        WHERE {condition} AND p.suspect IS NULL
        ORDER BY {order}p.fix_time {way}, p.session {way}, p.seq {way}
    """
