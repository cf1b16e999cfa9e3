"""Positions: how many are written at once, how some get another trip, and their rows in tracks."""

import asyncio
import functools
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from tracking.model import Position
from tracking.store import homes
from tracking.store.days import date_of
from tracking.store.pool import Connection, to_microseconds

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
PACKED_AT_ONCE = 1_500
"""Rows that are packed before other work has its turn: about 4 ms."""


class TrackRow(NamedTuple):
    """A row of a track: one stored position.

    What the line of a finished trip does not keep is None. So is the name of a session that was removed.
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
    """Why it was doubted, joined by `;`."""


TRACK_COLUMNS = """
    v.vehicle_id, s.name, p.seq, (date_part('epoch', p.fix_time) * 1000)::bigint,
    (date_part('epoch', p.server_time) * 1000)::bigint, ST_Y(p.point), ST_X(p.point), p.accuracy, p.altitude, p.speed,
    p.bearing, t.trip_id, array_to_string(p.suspect, ';')
"""
"""The columns of `TrackRow`, from positions p, vehicles v, sessions s and trips t.

Instants are numbers that asyncpg decodes itself. The codecs of `pool` are Python. They took a third of the time of a track.
"""


async def ensure_partition(connection: Connection, day: int) -> None:
    """Makes the partition of a UTC day, if it is missing."""
    await connection.execute("SELECT ensure_positions_partition($1)", date_of(day))


async def insert(connection: Connection, positions: Sequence[Position]) -> None:
    """Stores the positions by one `COPY`, in PostgreSQL's binary format."""
    await connection.copy_to_table("positions", columns=_COLUMNS, source=_copied(positions), format="binary")


async def _copied(positions: Sequence[Position]) -> AsyncIterator[bytes]:
    # This is an iterator, because asyncpg would read a file in another thread.
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


# The point is EWKB, big-endian as the rest of the row. PostGIS gives it the SRID of the column.
_POINT_FORMAT = "iBIdd"
_POINT_HEAD = 21, 0, 1
_TIME_OFFSET = to_microseconds(0)
_pack_whole = struct.Struct(f">hiiiiiqiqiqiqididididid{_POINT_FORMAT}i").pack


@functools.lru_cache(maxsize=64)
def _row_format(trip: bool, accuracy: bool, altitude: bool, speed: bool, bearing: bool, battery: bool) -> Callable[..., bytes]:
    """Packs a row in which these columns are not NULL. Each value has its length before it."""
    reals = "".join("id" if known else "i" for known in (accuracy, altitude, speed, bearing, battery))
    return struct.Struct(f">hii{'ii' if trip else 'i'}iqiqiqiq{reals}{_POINT_FORMAT}i").pack


def _packed(p: Position) -> bytes:
    """A row of `_COLUMNS`. It is made for every fix. This takes a third of the time of asyncpg's encoding of a record."""
    trip, accuracy, altitude, speed, bearing, battery = p.trip, p.accuracy, p.altitude, p.speed, p.bearing, p.battery
    suspect = p.suspect
    fix_time = p.fix_time * 1000 + _TIME_OFFSET
    server_time = p.server_time * 1000 + _TIME_OFFSET
    if not (
        suspect or trip is None or accuracy is None or altitude is None or speed is None or bearing is None or battery is None
    ):
        # Most phones send all of these. One call packs them.
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


class Accepted(NamedTuple):
    """What decides to which trip a stored position belongs. `latest`: it is a row of `latest_positions`, without a session."""

    vehicle: int
    session: int
    seq: int
    fix_time: int
    server_time: int
    trip: int | None
    suspect: bool
    latest: bool


async def accepted_since(connection: Connection, wanted: Sequence[tuple[int, int, int, int]], most: int) -> list[Accepted]:
    """For each `(vehicle, first, last, since)`: fixes of a time from `first` to `last`, accepted at `since` or later.

    Returns the newest ones, at most `most` for each, and the row of `latest_positions` if it is one of them.
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
                -- With these bounds PostgreSQL opens no other day's partition.
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
    connection: Connection, vehicle: int, moved: Sequence[tuple[Accepted, int | None]], term: int | None = None
) -> list[tuple[Accepted, int | None]] | None:
    """Gives positions of a vehicle other trips, or none, and returns those that it changed. Needs an open transaction.

    Returns None if the vehicle was removed, or its home has another `term` than the one given. No position gets a trip that was
    removed. Positions that somebody else changed since they were read stay as they are.
    """
    known = await connection.fetch(
        # Other transactions lock in this order too: trips, then vehicles.
        "SELECT trip FROM trips WHERE trip = ANY($1::int[]) ORDER BY trip FOR KEY SHARE",
        [trip for _, trip in moved if trip is not None],
    )
    if await connection.fetchval("SELECT vehicle FROM vehicles WHERE vehicle = $1 FOR KEY SHARE", vehicle) is None:
        return None
    if term is not None and (await homes.terms_locked(connection, [vehicle])).get(vehicle, 0) != term:
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
