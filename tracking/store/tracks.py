"""Tracks for downloads: a piece at a time, each by a short query of its own.

Between two pieces no connection and no snapshot is held, however slow the reader is. A piece continues where the one before
ended, by the key (fix_time, session, seq). So each fix comes once, and in order. Fixes that are stored meanwhile come too, if
they are newer than what was read. Fixes newer than the newest one at the beginning do not come, so that every track ends.

A piece reads at most `MAX_DAYS` UTC days of one vehicle. So no query is long, whatever the filter leaves out.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from tracking.store import position_days, trip_summaries
from tracking.store.days import DAY_MS
from tracking.store.pool import Connection, Database
from tracking.store.positions import TRACK_COLUMNS, TrackRow

PIECE = 1_000
"""Rows of a piece. They are processed in one step of the event loop."""
MAX_DAYS = 8
_FOREVER = 253_402_300_799_999
"""The end of a part that is still under way: the year 9999."""

Pieces = AsyncIterator[list[TrackRow]]


class _Part(NamedTuple):
    """What one vehicle drove, both instants included."""

    vehicle: int
    vehicle_id: str
    since: int
    until: int


class _Key(NamedTuple):
    """The last position that was read."""

    fix_time: int
    session: int = -1
    seq: int = -1


def of_vehicle(database: Database, vehicle: int, from_: int, to: int, *, suspect: bool, joined_at: int = 0) -> Pieces:
    """Positions of a vehicle in [from_, to), by fix time, that came at `joined_at` or later by the hub's clock."""
    return _of_part(database, _Part(vehicle, "", from_, to - 1), suspect=suspect, joined_at=joined_at)


async def of_trip(database: Database, trip: int, *, suspect: bool) -> Pieces:
    """Positions of a trip, segment by segment, each by fix time. A segment is what one vehicle drove before the next took over.

    For days whose positions were removed, or are removed meanwhile, the trip's line supplies what it has kept.
    """
    async with database.connection() as connection:
        parts = await _segments(connection, trip)
        kept_from = await position_days.horizon(connection)
    if kept_from is not None and any(part.since < kept_from for part in parts):
        async for rows in trip_summaries.kept_track(database, trip, kept_from):
            yield rows
    for part in parts:
        here = part if kept_from is None else part._replace(since=max(part.since, kept_from))
        async for rows in _of_part(database, here, suspect=suspect, trip=trip):
            yield rows


async def vehicles_of_trip(connection: Connection, trip: int) -> frozenset[int]:
    """The numbers of the vehicles that drove the trip, without those that were erased."""
    rows = await connection.fetch("SELECT DISTINCT vehicle FROM trip_spans JOIN vehicles USING (vehicle) WHERE trip = $1", trip)
    return frozenset(row["vehicle"] for row in rows)


async def _segments(connection: Connection, trip: int) -> list[_Part]:
    rows = await connection.fetch(
        """
        SELECT vehicle, v.vehicle_id, g.since, nullif(g.until, 'infinity') AS until
        FROM trip_segments($1) g JOIN vehicles v USING (vehicle) ORDER BY g.segment
        """,
        trip,
    )
    return [
        _Part(row["vehicle"], row["vehicle_id"], row["since"], _FOREVER if row["until"] is None else row["until"])
        for row in rows
    ]


async def _of_part(database: Database, part: _Part, *, suspect: bool, trip: int | None = None, joined_at: int = 0) -> Pieces:
    """Positions of a part. With `trip`, only those of the trip."""
    key = _Key(part.since)
    async with database.connection() as connection:
        bounds = await _bounds(connection, part)
        gone_to = await _gone_to(connection, trip)
    if trip is not None and gone_to > key.fix_time:
        async for kept in _kept_of_part(database, trip, gone_to, part, key):
            yield kept
        key = _Key(gone_to)
    if bounds is None:
        return
    first, last = bounds
    key, days = max(key, _Key(first)), 1
    query = _query(suspect=suspect, of_trip=trip is not None, joined=joined_at > 0)
    more = [value for value in (trip, joined_at or None) if value is not None]
    while key.fix_time <= last:
        # A query ends at the end of a UTC day. The planner then uses the partitions of these days only.
        end = min((key.fix_time // DAY_MS + days) * DAY_MS, last + 1)
        async with database.connection() as connection:
            rows = await connection.fetch(query, part.vehicle, *key, end, *more)
            # This is read after the rows. If a day was missing there, it is known to be gone now.
            gone_to = await _gone_to(connection, trip)
        if trip is not None and gone_to > key.fix_time:
            async for kept in _kept_of_part(database, trip, gone_to, part, key):
                yield kept
            key, days = _Key(gone_to), 1
            continue
        if rows:
            yield [TrackRow(*row[:-1]) for row in rows]
        if len(rows) == PIECE:
            _, _, seq, fix_time, *_, session = rows[-1]
            key, days = _Key(fix_time, session, seq), 1
        else:
            # If there are few rows, the next query covers more days.
            key, days = _Key(end), min(2 * days, MAX_DAYS)


async def _bounds(connection: Connection, part: _Part) -> tuple[int, int] | None:
    """The fix times of the vehicle's first and last position between these instants."""
    within = "FROM positions WHERE vehicle = $1 AND fix_time >= $2::timestamptz AND fix_time <= $3::timestamptz"
    row = await connection.fetchrow(
        f"""
        SELECT (SELECT fix_time {within} ORDER BY fix_time LIMIT 1) AS first,
            (SELECT fix_time {within} ORDER BY fix_time DESC LIMIT 1) AS last
        """,
        part.vehicle,
        part.since,
        part.until,
    )
    return None if row is None or row["first"] is None else (row["first"], row["last"])


async def _gone_to(connection: Connection, trip: int | None) -> int:
    """The instant before which a trip's positions are gone. 0 without a trip: no line has kept a vehicle's other positions."""
    return 0 if trip is None else await position_days.horizon(connection) or 0


def _query(*, suspect: bool, of_trip: bool, joined: bool = False) -> str:
    # The names are joined to the rows that were found. Otherwise the planner may read and sort all further rows for each piece.
    # OFFSET makes it look up the names by their keys. They are few, and it would read all trips.
    return f"""
        SELECT {TRACK_COLUMNS}, p.session
        FROM (
            SELECT * FROM positions
            WHERE vehicle = $1 AND (fix_time, session, seq) > ($2::timestamptz, $3::bigint, $4::bigint)
                AND fix_time >= $2::timestamptz AND fix_time < $5::timestamptz
                {"AND trip = $6" if of_trip else "AND server_time >= $6::timestamptz" if joined else ""}
                {"" if suspect else "AND suspect IS NULL"}
            ORDER BY fix_time, session, seq LIMIT {PIECE}
        ) p
            CROSS JOIN LATERAL (SELECT vehicle_id FROM vehicles WHERE vehicle = p.vehicle OFFSET 0) v
            LEFT JOIN LATERAL (SELECT name FROM sessions WHERE session = p.session OFFSET 0) s ON true
            LEFT JOIN LATERAL (SELECT trip_id FROM trips WHERE trip = p.trip OFFSET 0) t ON true
        ORDER BY p.fix_time, p.session, p.seq
    """


async def _kept_of_part(database: Database, trip: int, before: int, part: _Part, key: _Key) -> Pieces:
    """What the trip's line has kept of this part, past the key and before an instant."""
    async for kept in trip_summaries.kept_track(database, trip, before):
        found = [
            row
            for row in kept
            if row.vehicle_id == part.vehicle_id
            and part.since <= row.fix_time <= part.until
            # The line has one fix for each instant.
            and (row.fix_time > key.fix_time or (row.fix_time == key.fix_time and key.session < 0))
        ]
        if found:
            yield found
