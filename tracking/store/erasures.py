"""What is left of a vehicle or a trip that was removed, and the batches by which it goes.

`begin` and `begin_trip` belong into the transaction that removes it: from then on nobody is shown anything of it, as what is
read by a vehicle's number is joined with `vehicles`. The rest may take hours. Each batch is for `jobs.Jobs.run`; what it
has done is seen from the tables alone, so that a hub which was killed goes on where it was.
"""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from tracking.model import Trip
from tracking.store import changes, history
from tracking.store.changes import Change, ChangeKind
from tracking.store.jobs import Batch
from tracking.store.pool import Connection

TRIPS_OF_ROWS = 50
"""A trip with its line and its spans counts as so many rows of a batch."""
NUMBERS_OF_ROWS = 20
"""So many numbers of trips are looked through for one row of a batch."""
SPANS_KEPT_MS = 8 * 86_400_000
"""How long a removed trip's spans bound what the next passenger sees: a day longer than a fix may be late."""


class Erasure(NamedTuple):
    """Of a vehicle. `vehicle` is the number that it had, `removed` rows, `days_left` those that hold positions of it still."""

    vehicle: int
    vehicle_id: str
    fleet_id: str
    asked_at: int
    removed: int
    days_left: int | None


class TripErasure(NamedTuple):
    """Of a trip. `trip_id` is None when no event has it any more."""

    trip: int
    trip_id: str | None


_COLUMNS = "vehicle, vehicle_id, fleet_id, asked_at, removed, days_left"


# --- vehicles -----------------------------------------------------------------------------------------------------------


async def begin(connection: Connection, vehicle: int, now: int | None = None) -> int | None:
    """Removes a vehicle whose row is locked: its id is free, and nothing of it is found any more.

    The change log tells it: the number of the transaction there.
    """
    # The sessions go first: the recorder locks them before it writes, and a fix without a session is dropped.
    await connection.execute("DELETE FROM sessions WHERE vehicle = $1", vehicle)
    await connection.execute("DELETE FROM latest_positions WHERE vehicle = $1", vehicle)
    await connection.execute(
        """
        INSERT INTO erasures (vehicle, vehicle_id, fleet_id, asked_at)
        SELECT vehicle, vehicle_id, fleet_id, coalesce($2::timestamptz, now()) FROM vehicles WHERE vehicle = $1
        """,
        vehicle,
        now,
    )
    row = await connection.fetchrow("DELETE FROM vehicles WHERE vehicle = $1 RETURNING vehicle_id, fleet_id", vehicle)
    if row is None:
        return None
    vehicle_id, fleet_id = row
    public = {"vehicle_id": vehicle_id}
    return await changes.append(connection, [Change(ChangeKind.VEHICLE_DELETED, vehicle_id, fleet_id, vehicle, public)])


async def under_way(connection: Connection, limit: int) -> list[Erasure]:
    """The oldest first."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM erasures ORDER BY asked_at, vehicle LIMIT $1", limit)
    return [Erasure(*row) for row in rows]


async def of_id(connection: Connection, vehicle_id: str) -> list[Erasure]:
    """Those of a vehicle that had this id, oldest first: it may have been made anew and removed again."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM erasures WHERE vehicle_id = $1 ORDER BY asked_at, vehicle", vehicle_id
    )
    return [Erasure(*row) for row in rows]


async def count(connection: Connection) -> int:
    """How many are under way, of vehicles and of trips; not those that wait for their spans to grow old alone."""
    found: int = await connection.fetchval(
        "SELECT (SELECT count(*) FROM erasures) + (SELECT count(*) FROM trip_erasures WHERE trip_id IS NOT NULL)"
    )
    return found


async def tables_of(connection: Connection, vehicle: int) -> list[str]:
    """The tables of days that hold positions of a vehicle, also those that were detached and not dropped yet."""
    rows = await connection.fetch(
        """
        SELECT c.relname FROM pg_class c
        WHERE c.relkind = 'r' AND c.relname ~ '^positions_[0-9]{8}$'
            AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'positions'::regclass)
        ORDER BY c.relname
        """
    )
    if not rows:
        return []
    # One question for all of them: hundreds of days are hundreds of round trips otherwise. The names are ours.
    looks = " UNION ALL ".join(
        f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name} WHERE vehicle = {int(vehicle)})" for (name,) in rows
    )
    try:
        return [name for (name,) in await connection.fetch(looks)]
    except asyncpg.UndefinedTableError:
        # One of them was dropped meanwhile.
        return await tables_of(connection, vehicle)


class Positions:
    """Batches of a vehicle's positions of one day, in the order of their key."""

    def __init__(self, table: str, vehicle: int) -> None:
        self._table = table
        self._vehicle = vehicle
        self._from: int | None = None

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        since, self._from = self._from, None
        try:
            # Where the last batch ended: what it deleted is in the index for a while, and would be gone through each time.
            row = await connection.fetchrow(
                f"""
                WITH batch AS MATERIALIZED (
                    SELECT ctid, fix_time FROM {self._table}
                    WHERE vehicle = $1 AND fix_time >= coalesce($2::timestamptz, '-infinity') ORDER BY fix_time LIMIT $3
                ),
                gone AS (DELETE FROM {self._table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM batch)) RETURNING 1)
                SELECT (SELECT count(*) FROM gone) AS gone, (SELECT max(fix_time) FROM batch) AS last
                """,
                self._vehicle,
                since,
                rows,
            )
        except asyncpg.UndefinedTableError:
            return None  # it was dropped, and the positions with it
        assert row is not None
        self._from = row["last"]
        if row["last"] is None:
            # From the beginning once more, for what somebody else changed meanwhile.
            return None if since is None else 0
        return await _note(connection, self._vehicle, row["gone"])


class Events:
    """Batches of a vehicle's events."""

    def __init__(self, vehicle: int) -> None:
        self._vehicle = vehicle

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        status = await connection.execute(
            """
            DELETE FROM events WHERE event = ANY(
                ARRAY(SELECT event FROM events WHERE vehicle = $1 ORDER BY event LIMIT $2)
            )
            """,
            self._vehicle,
            rows,
        )
        return await _note(connection, self._vehicle, _count_in(status)) or None


class Changes:
    """Batches of the change log's rows that name a vehicle: they stay, and say nothing more."""

    def __init__(self, vehicle: int) -> None:
        self._vehicle = vehicle
        self._after = 0

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        blanked = await changes.blank_vehicle(connection, self._vehicle, self._after, rows)
        if blanked.last is None:
            return None
        self._after = blanked.last
        return await _note(connection, self._vehicle, blanked.rows)


class Trips:
    """Batches of the trips that a vehicle drove: its spans, and its parts of their lines."""

    def __init__(self, vehicle: int, now: int) -> None:
        self._vehicle = vehicle
        self._now = now

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        driven = [
            row["trip"]
            for row in await connection.fetch(
                "SELECT DISTINCT trip FROM trip_spans WHERE vehicle = $1 ORDER BY trip LIMIT $2",
                self._vehicle,
                max(1, rows // TRIPS_OF_ROWS),
            )
        ]
        if not driven:
            return None
        await history.erase(connection, self._vehicle, driven, self._now)
        status = await connection.execute(
            "DELETE FROM trip_spans WHERE vehicle = $1 AND trip = ANY($2::int[])", self._vehicle, driven
        )
        # It is at least one, or this would go on for ever.
        return await _note(connection, self._vehicle, max(1, _count_in(status)))


class Named:
    """Batches of the trips that name a vehicle, whether it drove them or not: there is no index of those that are over."""

    def __init__(self, vehicle: int) -> None:
        self._vehicle = vehicle
        self._to = 0
        self._last: int | None = None

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        if self._last is None:
            # No later one can name it.
            self._last = await connection.fetchval("SELECT coalesce(max(trip), 0) FROM trips")
        if self._to >= self._last:
            return None
        to = min(self._last, self._to + max(1, rows * NUMBERS_OF_ROWS))
        status = await connection.execute(
            "UPDATE trips SET vehicle = NULL WHERE trip > $1 AND trip <= $2 AND vehicle = $3", self._to, to, self._vehicle
        )
        self._to = to
        return await _note(connection, self._vehicle, _count_in(status))


class OfVehicle:
    """Batches of all that is left of a vehicle, and the end of its erasure. `tables` are its `tables_of`."""

    def __init__(self, vehicle: int, tables: Sequence[str], now: int) -> None:
        self._vehicle = vehicle
        self._parts: list[Batch] = [
            Changes(vehicle),
            *(Positions(table, vehicle) for table in tables),
            Events(vehicle),
            Trips(vehicle, now),
            Named(vehicle),
        ]
        self._days = len(tables)
        self._begun = False

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        if not self._begun:
            # By itself, so that it is told though the first batch has to wait.
            await self._note_days(connection)
            self._begun = True
            return 0
        if not self._parts:
            await connection.execute("DELETE FROM erasures WHERE vehicle = $1", self._vehicle)
            return None
        count = await self._parts[0](connection, rows)
        if count is None and isinstance(self._parts.pop(0), Positions):
            self._days -= 1
            await self._note_days(connection)
        return count or 0

    async def _note_days(self, connection: Connection) -> None:
        await connection.execute("UPDATE erasures SET days_left = $2 WHERE vehicle = $1", self._vehicle, self._days)


async def _note(connection: Connection, vehicle: int, count: int) -> int:
    if count:
        await connection.execute("UPDATE erasures SET removed = removed + $2 WHERE vehicle = $1", vehicle, count)
    return count


def _count_in(status: str) -> int:
    return int(status.rpartition(" ")[2])


# --- trips --------------------------------------------------------------------------------------------------------------


async def begin_trip(connection: Connection, trip: Trip, now: int) -> None:
    """Removes a trip whose row is locked, with its messages, shares, summary and line."""
    await connection.execute("DELETE FROM trips WHERE trip = $1", trip.number)
    # Also of one that nobody drove: the change log has its places.
    await connection.execute(
        "INSERT INTO trip_erasures (trip, trip_id, asked_at) VALUES ($1, $2, $3)", trip.number, trip.trip_id, now
    )


async def trips_under_way(connection: Connection, now: int, limit: int) -> list[TripErasure]:
    """Those with something to be done now, the oldest first."""
    rows = await connection.fetch(
        """
        SELECT e.trip, e.trip_id FROM trip_erasures e
        WHERE e.trip_id IS NOT NULL OR NOT EXISTS (
            SELECT FROM trip_spans s WHERE s.trip = e.trip AND s.ended_at >= $1::timestamptz
        )
        ORDER BY e.asked_at, e.trip LIMIT $2
        """,
        now - SPANS_KEPT_MS,
        limit,
    )
    return [TripErasure(*row) for row in rows]


async def vehicles_of_trip(connection: Connection, trip: int) -> list[int]:
    rows = await connection.fetch("SELECT DISTINCT vehicle FROM trip_spans WHERE trip = $1 ORDER BY vehicle", trip)
    return [row["vehicle"] for row in rows]


class ChangesOfTrip:
    """Batches of the change log's rows about the trip: they stay, and say nothing more."""

    def __init__(self, trip_id: str) -> None:
        self._trip_id = trip_id

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        return await changes.blank_trip(connection, self._trip_id, rows) or None


class PositionsOfTrip:
    """Batches of a vehicle's positions that have the trip's number."""

    def __init__(self, trip: int, vehicle: int) -> None:
        self._trip = trip
        self._vehicle = vehicle
        self._from: int | None = None

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        since, self._from = self._from, None
        # No wider than its spans, so that no more days are opened, and no more positions looked at, than must be. A clock may
        # be a minute ahead.
        row = await connection.fetchrow(
            """
            WITH batch AS MATERIALIZED (
                SELECT fix_time, session, seq FROM positions
                WHERE vehicle = $1 AND trip = $2
                    AND fix_time >= coalesce(
                        $4::timestamptz, (SELECT min(started_at) - interval '30 s' FROM trip_spans WHERE trip = $2)
                    )
                    AND fix_time <= (SELECT max(ended_at) + interval '60 s' FROM trip_spans WHERE trip = $2)
                ORDER BY fix_time LIMIT $3
            ),
            changed AS (
                UPDATE positions p SET trip = NULL FROM batch b
                WHERE p.vehicle = $1 AND p.fix_time = b.fix_time AND p.session = b.session AND p.seq = b.seq
                    AND p.fix_time >= (SELECT min(fix_time) FROM batch) AND p.fix_time <= (SELECT max(fix_time) FROM batch)
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM changed) AS changed, (SELECT max(fix_time) FROM batch) AS last
            """,
            self._vehicle,
            self._trip,
            rows,
            since,
        )
        assert row is not None
        self._from = row["last"]
        if row["last"] is None:
            return None if since is None else 0
        changed: int = row["changed"]
        return changed


class EventsOfTrip:
    """Batches of a vehicle's events, of which those of the trip lose its id."""

    def __init__(self, trip_id: str, vehicle: int) -> None:
        self._trip_id = trip_id
        self._vehicle = vehicle
        self._after = 0

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        row = await connection.fetchrow(
            """
            WITH batch AS MATERIALIZED (
                SELECT event, trip_id FROM events WHERE vehicle = $1 AND event > $2 ORDER BY event LIMIT $3
            ),
            changed AS (
                UPDATE events SET trip_id = NULL
                WHERE event = ANY(ARRAY(SELECT event FROM batch WHERE trip_id = $4)) RETURNING 1
            )
            SELECT (SELECT max(event) FROM batch) AS last, (SELECT count(*) FROM changed) AS changed
            """,
            self._vehicle,
            self._after,
            rows,
            self._trip_id,
        )
        assert row is not None
        if row["last"] is None:
            return None
        self._after = row["last"]
        changed: int = row["changed"]
        return changed


async def end_names(connection: Connection, trip: int, vehicles: Sequence[int]) -> None:
    """No event and no position has it any more, but for the newest ones of vehicles."""
    await connection.execute(
        "UPDATE latest_positions SET trip = NULL WHERE trip = $1 AND vehicle = ANY($2::int[])", trip, vehicles
    )
    await connection.execute("UPDATE trip_erasures SET trip_id = NULL WHERE trip = $1", trip)


async def end_trip(connection: Connection, trip: int, now: int) -> None:
    """Its spans go too when they are so old that they bound nothing any more."""
    spans = await connection.fetchval(
        "SELECT count(*) FROM trip_spans WHERE trip = $1 AND ended_at >= $2::timestamptz", trip, now - SPANS_KEPT_MS
    )
    if not spans:
        await connection.execute("DELETE FROM trip_spans WHERE trip = $1", trip)
        await connection.execute("DELETE FROM trip_erasures WHERE trip = $1", trip)
