"""Erasures of vehicles: the removal of a vehicle, and the removal of what it left in the tables.

`begin` runs in the transaction that removes the vehicle. From then on nothing of the vehicle is shown, because queries join the
vehicle's number with `vehicles`. The rest may take hours. `OfVehicle` is its batches, for `jobs.Jobs.run`. Progress is
seen from the tables alone, so that another hub can continue after a restart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from tracking.store import changes, trip_summaries
from tracking.store.changes import Change, ChangeKind
from tracking.store.jobs import Batch
from tracking.store.pool import Connection

TRIPS_OF_ROWS = 50
"""A trip with its line and its spans counts as so many rows of a batch."""
NUMBERS_OF_ROWS = 20
"""So many numbers of trips are searched for one row of a batch."""


class Erasure(NamedTuple):
    """The erasure of a vehicle.

    `vehicle` is the number that it had. `removed` counts rows. `days_left` counts the days that still hold positions of it.
    """

    vehicle: int
    vehicle_id: str
    fleet_id: str
    asked_at: int
    removed: int
    days_left: int | None


_COLUMNS = "vehicle, vehicle_id, fleet_id, asked_at, removed, days_left"


async def begin(connection: Connection, vehicle: int, now: int | None = None) -> int | None:
    """Removes a vehicle whose row is locked. Its id is free then, and nothing of it is found any more.

    Returns the number of the transaction in the change log.
    """
    # Sessions are removed first. The recorder locks them before it writes, and drops a fix without a session.
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
    """Erasures that are under way, oldest first."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM erasures ORDER BY asked_at, vehicle LIMIT $1", limit)
    return [Erasure(*row) for row in rows]


async def is_under_way(connection: Connection, vehicle: int) -> bool:
    """Whether something is left of a removed vehicle, by the number that it had."""
    found: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM erasures WHERE vehicle = $1)", vehicle)
    return found


async def of_id(connection: Connection, vehicle_id: str) -> list[Erasure]:
    """Erasures of vehicles that had this id, oldest first. A vehicle may have been made anew and removed again."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM erasures WHERE vehicle_id = $1 ORDER BY asked_at, vehicle", vehicle_id
    )
    return [Erasure(*row) for row in rows]


async def count(connection: Connection) -> int:
    """How many erasures of vehicles and trips are under way. Trips that only wait for their spans to grow old do not count."""
    found: int = await connection.fetchval(
        "SELECT (SELECT count(*) FROM erasures) + (SELECT count(*) FROM trip_erasures WHERE trip_id IS NOT NULL)"
    )
    return found


async def tables_of(connection: Connection, vehicle: int) -> list[str]:
    """The tables of days that hold positions of a vehicle. Tables that were detached and not dropped yet are included."""
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
    # One query for all tables. Hundreds of days would be hundreds of round trips. The names come from our own code.
    looks = " UNION ALL ".join(
        f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name} WHERE vehicle = {int(vehicle)})" for (name,) in rows
    )
    try:
        return [name for (name,) in await connection.fetch(looks)]
    except asyncpg.UndefinedTableError:
        # A table was dropped meanwhile.
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
            # A batch begins where the last one ended. The index still has what was deleted, and would be scanned each time.
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
            return None  # the table was dropped, and the positions with it
        assert row is not None
        self._from = row["last"]
        if row["last"] is None:
            # Start once more from the beginning. Somebody else may have changed positions meanwhile.
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
    """Batches of the change log's rows that name a vehicle. The rows stay, without their content."""

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
    """Batches of the trips that a vehicle drove. Its spans are removed, and its parts of the trips' lines."""

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
        await trip_summaries.erase_vehicle(connection, self._vehicle, driven, self._now)
        status = await connection.execute(
            "DELETE FROM trip_spans WHERE vehicle = $1 AND trip = ANY($2::int[])", self._vehicle, driven
        )
        # At least one is counted. Otherwise the job would never end.
        return await _note(connection, self._vehicle, max(1, _count_in(status)))


class Named:
    """Batches of the trips that name a vehicle, whether it drove them or not. No index covers trips that are over."""

    def __init__(self, vehicle: int) -> None:
        self._vehicle = vehicle
        self._to = 0
        self._last: int | None = None

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        if self._last is None:
            # No later trip can name the vehicle.
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
    """Batches of all that is left of a vehicle, then the end of its erasure. `tables` are what `tables_of` returned."""

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
            # This is a batch of its own, so that it is committed even if the next batch has to wait for locks.
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
