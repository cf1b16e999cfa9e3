"""Positions: the batched write, the latest of each vehicle, and tracks."""

import asyncio
import functools
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tracking.geo import unpack_point
from tracking.model import Position
from tracking.store.pool import Connection, to_microseconds

DAY_MS = 86_400_000
_COLUMNS = (
    "vehicle",
    "trip",
    "session",
    "seq",
    "fix_time",
    "server_time",
    "accuracy",
    "altitude",
    "speed",
    "bearing",
    "battery",
    "point",
    "suspect",
)
SHORT = 300
"""Fixes of a track that is read along with others."""
TRACK_CHUNK = 1_000
LINE_SECONDS = 7_200
"""Of a vehicle's line that comes in one piece: 170 KB, where a fix came every second."""
LINES_AT_ONCE = 4
PACKED_AT_ONCE = 1_500
"""Rows packed before others have their turn: about 4 ms."""


class Latest(NamedTuple):
    latitude: float
    longitude: float
    fix_time: int
    server_time: int
    speed: float | None


class TrackRow(NamedTuple):
    """One stored position, as tracks are exported. What the line of a finished trip has not kept is None; and so is the name of
    a session that is kept no longer.
    """

    vehicle_id: str
    session: str | None
    seq: int | None
    fix_time: int
    server_time: int | None
    latitude: float
    longitude: float
    accuracy: float | None
    altitude: float | None
    speed: float | None
    bearing: float | None
    trip_id: str | None
    suspect: str | None
    """why it was doubted, joined by `;`"""


TRACK_COLUMNS = """
    v.vehicle_id, s.name, p.seq, (date_part('epoch', p.fix_time) * 1000)::bigint,
    (date_part('epoch', p.server_time) * 1000)::bigint, ST_Y(p.point), ST_X(p.point), p.accuracy, p.altitude, p.speed,
    p.bearing, t.trip_id, array_to_string(p.suspect, ';')
"""
"""Those of `TrackRow`, of positions p, their vehicle v, session s and trip t: as numbers that asyncpg reads by itself. Our own
codecs are Python, and took a third of the time of a day's track."""


async def ensure_partition(connection: Connection, day: int) -> None:
    """Makes the partition of a UTC day, counted from 1970-01-01."""
    date = datetime.fromtimestamp(day * DAY_MS / 1000, UTC).date()
    await connection.execute("SELECT ensure_positions_partition($1)", date)


async def insert(connection: Connection, positions: Sequence[Position]) -> None:
    """Stores them by one `COPY`, in PostgreSQL's binary format."""
    await connection.copy_to_table("positions", columns=_COLUMNS, source=_copied(positions), format="binary")


async def _copied(positions: Sequence[Position]) -> AsyncIterator[bytes]:
    # An iterator, because asyncpg reads a file in another thread.
    before = _COPY_HEAD
    for end in range(PACKED_AT_ONCE, len(positions), PACKED_AT_ONCE):
        yield b"".join((before, *map(_packed, positions[end - PACKED_AT_ONCE : end])))
        before = b""
        await asyncio.sleep(0)
    rest = (len(positions) - 1) // PACKED_AT_ONCE * PACKED_AT_ONCE
    yield b"".join((before, *map(_packed, positions[rest:]), _COPY_TAIL))


_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TAIL = b"\xff\xff"
_NULL = -1
_TEXT_OID = 25


# The point is big-endian EWKB as the row around it; PostGIS gives it the column's SRID.
_POINT_FORMAT = "iBIdd"
_POINT_HEAD = 21, 0, 1
_TIME_OFFSET = to_microseconds(0)
_pack_whole = struct.Struct(f">hiiiiiqiqiqiqididididid{_POINT_FORMAT}i").pack


@functools.lru_cache(maxsize=64)
def _row_format(trip: bool, accuracy: bool, altitude: bool, speed: bool, bearing: bool, battery: bool) -> Callable[..., bytes]:
    """Packs a row in which these columns are not NULL; each value goes with its length before it."""
    reals = "".join("id" if known else "i" for known in (accuracy, altitude, speed, bearing, battery))
    return struct.Struct(f">hii{'ii' if trip else 'i'}iqiqiqiq{reals}{_POINT_FORMAT}i").pack


def _packed(p: Position) -> bytes:
    """A row of `_COLUMNS`. By hand, because it is made for every fix: a third of what general encoding of a record takes."""
    trip, accuracy, altitude, speed, bearing, battery = p.trip, p.accuracy, p.altitude, p.speed, p.bearing, p.battery
    suspect = p.suspect
    fix_time = p.fix_time * 1000 + _TIME_OFFSET
    server_time = p.server_time * 1000 + _TIME_OFFSET
    if not (
        suspect or trip is None or accuracy is None or altitude is None or speed is None or bearing is None or battery is None
    ):
        # What most phones send, in one go.
        return _pack_whole(
            *(13, 4, p.vehicle, 4, trip, 8, p.session, 8, p.seq, 8, fix_time, 8, server_time),
            *(8, accuracy, 8, altitude, 8, speed, 8, bearing, 8, battery),
            *(21, 0, 1, p.longitude, p.latitude, _NULL),
        )
    reals = accuracy, altitude, speed, bearing, battery
    values: list[Any] = [len(_COLUMNS), 4, p.vehicle]
    values += (_NULL,) if trip is None else (4, trip)
    values += (8, p.session, 8, p.seq, 8, fix_time, 8, server_time)
    for real in reals:
        values += (_NULL,) if real is None else (8, real)
    pack = _row_format(trip is not None, *(real is not None for real in reals))
    row = pack(*values, *_POINT_HEAD, p.longitude, p.latitude, _NULL)
    return row[:-4] + _packed_texts(suspect) if suspect else row


def _packed_texts(texts: Sequence[str]) -> bytes:
    """A `text []` of one dimension, with its length before it."""
    elements = b"".join(struct.pack(">i", len(text)) + text.encode("ascii") for text in texts)
    array = struct.pack(">iiiii", 1, 0, _TEXT_OID, len(texts), 1) + elements
    return struct.pack(">i", len(array)) + array


async def move_latest(connection: Connection, positions: Sequence[Position]) -> None:
    """Sets each vehicle's latest position; at most one position a vehicle, in the order of `vehicle`. An older one changes
    nothing, and neither does one of a vehicle that is gone, or from before it was in its fleet.
    """
    # In the order of the key, so that two hubs writing at once cannot lock each other out.
    await connection.execute(
        """
        INSERT INTO latest_positions AS old
            (vehicle, fleet, trip, fix_time, server_time, accuracy, speed, bearing, battery, point)
        SELECT vehicle, fleet, trip, fix_time, server_time, accuracy, speed, bearing, battery,
            ST_SetSRID(ST_MakePoint(longitude, latitude), 4326)
        FROM unnest(
            $1::int[], $2::int[], $3::timestamptz[], $4::timestamptz[], $5::float8[], $6::float8[], $7::float8[],
            $8::float8[], $9::float8[], $10::float8[]
        ) AS new (vehicle, trip, fix_time, server_time, accuracy, speed, bearing, battery, longitude, latitude)
        JOIN (
            SELECT vehicle, fleet_id, joined_at FROM vehicles WHERE vehicle = ANY($1::int[]) ORDER BY vehicle FOR KEY SHARE
        ) AS known USING (vehicle) JOIN fleets USING (fleet_id)
        -- Where it was before is not its fleet's to see.
        WHERE least(new.fix_time, new.server_time) >= coalesce(known.joined_at, '-infinity')
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
    )


async def newest(connection: Connection, vehicle: int) -> Latest | None:
    """The vehicle's newest plausible position; `latest_positions` may be some seconds behind it."""
    return (await newest_of_vehicles(connection, [vehicle])).get(vehicle)


async def newest_of_vehicles(connection: Connection, vehicles: Sequence[int]) -> dict[int, Latest]:
    """The same for several vehicles, by their numbers; those are left out that were never heard of."""
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


class Accepted(NamedTuple):
    """A stored position, as far as it matters for whose trip it is. `latest`: as `latest_positions` has it, with no session."""

    vehicle: int
    session: int
    seq: int
    fix_time: int
    server_time: int
    trip: int | None
    suspect: bool
    latest: bool


async def accepted_since(connection: Connection, wanted: Sequence[tuple[int, int, int, int]], most: int) -> list[Accepted]:
    """Of each `(vehicle, first, last, since)` what has a fix time from `first` to `last` and was accepted at `since` or later:
    the newest positions, at most `most` of them, and the latest position where it is one.
    """
    if not wanted:
        return []
    rows = await connection.fetch(
        """
        WITH wanted AS (
            SELECT * FROM unnest($1::int[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[])
                AS wanted (vehicle, first, last, since)
        )
        SELECT w.vehicle, p.session, p.seq, p.fix_time, p.server_time, p.trip, p.suspect IS NOT NULL, false
        FROM wanted w CROSS JOIN LATERAL (
            SELECT * FROM positions p
            WHERE p.vehicle = w.vehicle AND p.fix_time >= w.first AND p.fix_time <= w.last AND p.server_time >= w.since
                -- So that no other day's partition is opened.
                AND p.fix_time >= $5::timestamptz AND p.fix_time <= $6::timestamptz
            ORDER BY p.fix_time DESC LIMIT $7
        ) p
        UNION ALL
        SELECT l.vehicle, 0, 0, l.fix_time, l.server_time, l.trip, false, true
        FROM wanted w JOIN latest_positions l USING (vehicle)
        WHERE l.fix_time >= w.first AND l.fix_time <= w.last AND l.server_time >= w.since
        """,
        *map(list, zip(*wanted, strict=True)),
        min(first for _, first, _, _ in wanted),
        max(last for _, _, last, _ in wanted),
        most,
    )
    return [Accepted(*row) for row in rows]


async def file_anew(
    connection: Connection, vehicle: int, moved: Sequence[tuple[Accepted, int | None]]
) -> list[tuple[Accepted, int | None]] | None:
    """Gives positions of a vehicle other trips, or none; those that were changed. Needs a transaction.

    None where the vehicle was removed. A trip that was removed gets none, and what somebody else changed since stays.
    """
    known = await connection.fetch(
        # In the order in which others lock them: trips, then vehicles.
        "SELECT trip FROM trips WHERE trip = ANY($1::int[]) ORDER BY trip FOR KEY SHARE",
        [trip for _, trip in moved if trip is not None],
    )
    if await connection.fetchval("SELECT vehicle FROM vehicles WHERE vehicle = $1 FOR KEY SHARE", vehicle) is None:
        return None
    trips = {None, *(trip for (trip,) in known)}
    moved = [(position, trip) for position, trip in moved if trip in trips]
    rows = [(position, trip) for position, trip in moved if not position.latest]
    changed: list[tuple[Accepted, int | None]] = []
    if rows:
        times = [position.fix_time for position, _ in rows]
        found = await connection.fetch(
            """
            UPDATE positions p SET trip = new.trip
            FROM unnest($2::bigint[], $3::bigint[], $4::timestamptz[], $5::int[], $6::int[])
                AS new (session, seq, fix_time, before, trip)
            WHERE p.vehicle = $1 AND p.fix_time = new.fix_time AND p.session = new.session AND p.seq = new.seq
                AND p.trip IS NOT DISTINCT FROM new.before
                AND p.fix_time >= $7::timestamptz AND p.fix_time <= $8::timestamptz
            RETURNING p.session, p.seq
            """,
            vehicle,
            [position.session for position, _ in rows],
            [position.seq for position, _ in rows],
            times,
            [position.trip for position, _ in rows],
            [trip for _, trip in rows],
            min(times),
            max(times),
        )
        numbers = {(row["session"], row["seq"]) for row in found}
        changed = [(position, trip) for position, trip in rows if (position.session, position.seq) in numbers]
    for position, trip in moved:
        if position.latest:
            await connection.execute(
                """
                UPDATE latest_positions SET trip = $4
                WHERE vehicle = $1 AND fix_time = $2::timestamptz AND trip IS NOT DISTINCT FROM $3
                """,
                vehicle,
                position.fix_time,
                position.trip,
                trip,
            )
    return changed


async def latest_of_vehicles(connection: Connection, vehicles: Sequence[int], since: int) -> dict[int, Position]:
    """The vehicles' positions as `latest_positions` has them, of those heard of since that instant."""
    rows = await connection.fetch(
        """
        SELECT l.vehicle, v.vehicle_id, l.trip, t.trip_id, l.fix_time, l.server_time, l.accuracy, l.speed, l.bearing, l.battery,
            l.point
        FROM latest_positions l JOIN vehicles v USING (vehicle) LEFT JOIN trips t ON t.trip = l.trip
        WHERE l.vehicle = ANY($1::int[]) AND l.server_time >= $2::timestamptz
        """,
        vehicles,
        since,
    )
    found = {}
    for row in rows:
        longitude, latitude = unpack_point(row["point"])
        found[row["vehicle"]] = Position(
            vehicle=row["vehicle"],
            vehicle_id=row["vehicle_id"],
            session=0,
            seq=0,
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
    return found


# Their first and last instant lead into the key's index, and to the days in question: by the segments alone PostgreSQL may
# read all that the vehicle ever did.
_OF_TRIP = """
    p.trip = $1
    AND p.fix_time >= (SELECT min(g.since) FROM trip_segments($1) g)
    AND p.fix_time <= (SELECT max(g.until) FROM trip_segments($1) g)
    AND ($2::timestamptz IS NULL OR p.fix_time >= $2::timestamptz)
    AND ($3::timestamptz IS NULL OR p.fix_time <= $3::timestamptz)
"""
_SEGMENTS = "JOIN trip_segments({}) g ON p.vehicle = g.vehicle AND p.fix_time BETWEEN g.since AND g.until"


async def track_of_trip(
    connection: Connection, trip: int, *, suspect: bool, from_: int | None = None, to: int | None = None
) -> AsyncIterator[TrackRow]:
    """The same as `batches_of_trip`, one by one."""
    async for rows in batches_of_trip(connection, trip, suspect=suspect, from_=from_, to=to):
        for row in rows:
            yield row


async def short_tracks(connection: Connection, trips: Sequence[int]) -> dict[int, list[TrackRow]]:
    """The same of several trips without what was doubted, by one question; those are left out that are longer than `SHORT`."""
    # The bounds are there before the positions are looked for, so that no other day's partition is opened.
    condition = "p.trip = wanted.trip AND p.fix_time >= span.first AND p.fix_time <= span.last"
    track = _track_query(condition, suspect=False, join=_SEGMENTS.format("wanted.trip"), order="g.segment, ")
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


async def line_of_trip(
    connection: Connection, trip: int, *, from_: int | None = None, to: int | None = None
) -> AsyncIterator[tuple[str, bytes]]:
    """The trip's line without what was doubted: of each vehicle some hours at a time, as `(vehicle_id, EWKB)`.

    Each is a LineStringM with fix times as M. PostgreSQL puts it together: as rows, a hundred thousand fixes are a second of
    Python. Needs an open transaction.
    """
    query = f"""
        SELECT v.vehicle_id, ST_MakeLine(
            ST_MakePointM(ST_X(p.point), ST_Y(p.point), (date_part('epoch', p.fix_time) * 1000)::bigint) ORDER BY p.fix_time
        )
        FROM positions p {_SEGMENTS.format("$1")} JOIN vehicles v ON v.vehicle = p.vehicle
        WHERE {_OF_TRIP} AND p.suspect IS NULL
        GROUP BY g.segment, v.vehicle_id, floor(date_part('epoch', p.fix_time) / {LINE_SECONDS})
    """
    async for vehicle_id, line in connection.cursor(query, trip, from_, to, prefetch=LINES_AT_ONCE):
        yield vehicle_id, line


async def last_of_trip(connection: Connection, trip: int) -> list[TrackRow]:
    """Of each segment of the trip its last plausible position, in their order."""
    condition = "p.trip = $1 AND p.vehicle = g.vehicle AND p.fix_time BETWEEN g.since AND g.until"
    one = _track_query(condition, suspect=False, descending=True)
    rows = await connection.fetch(
        f"SELECT last.* FROM trip_segments($1) g CROSS JOIN LATERAL ({one} LIMIT 1) AS last ORDER BY g.segment", trip
    )
    return [TrackRow(*row) for row in rows]


def batches_of_trip(
    connection: Connection, trip: int, *, suspect: bool, from_: int | None = None, to: int | None = None
) -> AsyncIterator[list[TrackRow]]:
    """Positions of a trip, segment by segment (what one vehicle drove of it, then what the next one did), each by fix time;
    from_ and to, both included, narrow it.

    Needs an open transaction.
    """
    return _track(connection, _OF_TRIP, suspect, trip, from_, to, join=_SEGMENTS.format("$1"), order="g.segment, ")


async def _track(
    connection: Connection, condition: str, suspect: bool, *arguments: Any, join: str = "", order: str = ""
) -> AsyncIterator[list[TrackRow]]:
    cursor = await connection.cursor(_track_query(condition, suspect, join=join, order=order), *arguments)
    while rows := await cursor.fetch(TRACK_CHUNK):
        yield [TrackRow(*row) for row in rows]


def _track_query(condition: str, suspect: bool, *, join: str = "", order: str = "", descending: bool = False) -> str:
    way = "DESC" if descending else "ASC"
    return f"""
        SELECT {TRACK_COLUMNS}
        FROM positions p JOIN vehicles v USING (vehicle) LEFT JOIN sessions s USING (session)
            LEFT JOIN trips t ON t.trip = p.trip {join}
        WHERE {condition} {"" if suspect else "AND p.suspect IS NULL"}
        ORDER BY {order}p.fix_time {way}, p.session {way}, p.seq {way}
    """
