"""What removed vehicles and trips left is removed from every table, on real PostGIS, in batches of a few rows."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.clocks import SetClock
from tests.support.drives import Van, a_trip, ended, line_of, north
from tests.support.positions import BEGIN, DAY
from tracking.erasure import Erasures
from tracking.history.summaries import Summaries
from tracking.model import Event, EventKind, Fleet, Vehicle
from tracking.store import (
    erasures,
    event_lists,
    events,
    fleets,
    homes,
    latest_positions,
    position_days,
    tracks,
    trip_erasures,
    trip_summaries,
    trips,
    vehicle_days,
    vehicles,
)
from tracking.store.days import DAY_MS, date_of
from tracking.store.jobs import Batch, Jobs, Ours, always
from tracking.store.pool import Connection, Database

ENDED = BEGIN + 600_000
KEEPS_NUMBERS = {"erasures"}
"""Tables that have the numbers of erased vehicles until the end of the erasure."""


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    async with database.connection() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
        await fleets.put(connection, Fleet("other", "Other"))
    yield database
    await database.close()


@pytest.fixture
async def connection(store: Database) -> AsyncIterator[Connection]:
    async with store.connection() as connection:
        yield connection


async def _settled() -> None: ...


async def _everywhere(store: Database, connection: Connection) -> Van:
    """A vehicle with rows in every table that knows vehicles."""
    van, other = await Van.new(connection), await Van.new(connection, "other")
    alone = await a_trip(connection, van.number, BEGIN, ENDED, "alone")
    made = await van.drove(north(0, 4_000, 10), trip=alone)
    await other.drove(north(0, 1_000, 10))
    shared = await a_trip(connection, van.number, BEGIN + 700_000, None, "shared")
    await van.drove(north(700, 1_000, 10), trip=shared)
    await trips.close_span(connection, shared, BEGIN + 900_000)
    await trips.open_span(connection, shared, other.number, BEGIN + 900_001)
    await other.drove(north(901, 1_000, 10), trip=shared)
    await ended(connection, shared, BEGIN + 1_200_000)
    # One trip was canceled before anybody drove it, and one waits.
    await connection.execute(
        """
        INSERT INTO trips (trip_id, fleet_id, vehicle, status, pickup, dropoff, created_at, ended_at)
        SELECT s, 'fleet', $1, s, pickup, dropoff, now(), CASE s WHEN 'canceled' THEN now() END
        FROM unnest(ARRAY['canceled', 'new']) s, trips t WHERE t.trip_id = 'alone'
        """,
        van.number,
    )
    await latest_positions.move(connection, [made[-1]])
    await Summaries(store, SetClock((DAY + 2) * DAY_MS), delay=600).work()
    kinds = (EventKind.SIGNAL_LOST, *[EventKind.IDLE] * 30)
    async with store.transaction() as writer:
        await homes.claim(writer, [(van.number, "session")], "node")
        found = [Event(number, kind, "van", BEGIN) for number, kind in enumerate(kinds, 1)]
        await events.insert(writer, ["fleet"] * len(found), [van.number] * len(found), found)
        await writer.execute(
            """
            INSERT INTO geofences (fleet_id, geofence_id, shape, properties)
            VALUES ('fleet', 'yard', ST_MakeEnvelope(9, 47, 10, 48, 4326), '{}');
            INSERT INTO geofence_stays (vehicle, fleet_id, geofence_id, since) SELECT vehicle, 'fleet', 'yard', now()
            FROM vehicles WHERE vehicle_id = 'van'
            """
        )
        # It had another name once.
        await vehicles.put(writer, Vehicle("van", "fleet", "Van 2"), BEGIN + 2_000_000)
    return van


async def _tables_with(connection: Connection, number: int) -> set[str]:
    """The tables that have the number of a vehicle in a column of that name. The change log counts only if it has more than the
    removal.
    """
    columns = await connection.fetch(
        """
        SELECT c.relname, a.attname, a.atttypid = 'integer[]'::regtype AS many
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0
            -- `fleet_counts.vehicles` is a count, which may equal the number by chance.
            AND (a.attname = 'vehicle' OR a.attname = 'vehicles' AND a.atttypid = 'integer[]'::regtype)
        """
    )
    return {
        table
        for table, column, many in columns
        if await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {table} WHERE $1 = {f'ANY({column})' if many else column} AND {_says_more(table)})",
            number,
        )
    }


async def _tables_for(connection: Connection) -> set[str]:
    """The tables, without partitions, with a column for the number of a vehicle or of several."""
    return {
        row["relname"]
        for row in await connection.fetch(
            """
            SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0
                AND (a.attname = 'vehicle' OR a.attname = 'vehicles' AND a.atttypid = 'integer[]'::regtype)
            """
        )
    }


def _says_more(table: str) -> str:
    if not table.startswith("changes_"):
        return "true"
    blank = "kind = 'erased' AND num_nonnulls(subject, fleet_id, public, internal) = 0"
    return f"NOT ({blank}) AND NOT (kind = 'vehicle.deleted' AND internal IS NULL)"


async def _erase(store: Database, jobs: Jobs, number: int) -> None:
    """Erases the vehicle as a hub does, until nothing is left of it."""
    keeper = Erasures(store, jobs, SetClock((DAY + 2) * DAY_MS), settled=_settled)
    running = asyncio.create_task(keeper.run())
    assert await keeper.wait(number, 30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_trust_40_no_table_has_anything_of_an_erased_vehicle(store: Database, connection: Connection) -> None:
    van = await _everywhere(store, connection)
    # A day that was detached, and not dropped because of a failure.
    await van.drove(north(0, 500, 10), begin=BEGIN - 3 * DAY_MS)
    await connection.execute(f"ALTER TABLE positions DETACH PARTITION positions_{date_of(DAY - 3):%Y%m%d}")
    had = await _tables_with(connection, van.number)
    assert had >= {
        *("vehicles", "sessions", "latest_positions", "events", "silences", "geofence_stays", "vehicle_descriptions"),
        *("homes", "vehicle_days", "trips", "trip_spans", "trip_summaries", "changes_default"),
        *(f"positions_{date_of(day):%Y%m%d}" for day in (DAY, DAY - 3)),
    }
    without = {table for table in await _tables_for(connection) if not any(f"{name}_".startswith(f"{table}_") for name in had)}
    assert without == {*KEEPS_NUMBERS, "pending_changes"}, "this test needs a row in each table: add it to `_everywhere`"
    async with store.transaction() as eraser:
        await vehicles.lock(eraser, "van")
        await trips.unassign(eraser, van.number)
        await erasures.begin(eraser, van.number, BEGIN)
    # From now on nobody is shown anything of it.
    assert await vehicles.get(connection, "van") is None
    assert (await trips.get(connection, "alone")).vehicle is None  # type: ignore[union-attr]
    numbers = {row["trip_id"]: row["trip"] for row in await connection.fetch("SELECT trip_id, trip FROM trips")}
    for trip_id in ("alone", "shared"):
        assert await trip_summaries.of_trip(connection, numbers[trip_id]) is None
        pieces = tracks.of_trip(store, numbers[trip_id], suspect=False)
        assert {row.vehicle_id async for rows in pieces for row in rows} == ({"other"} if trip_id == "shared" else set())
    assert not await event_lists.of_fleet(
        connection, "fleet", since=0, until=None, after=None, kind=None, vehicle_id=None, geofence_id=None, limit=100
    )
    # Summaries are not made again from the rows that are left.
    keeper = Summaries(store, SetClock((DAY + 2) * DAY_MS), delay=600)
    await trip_summaries.uncompact(connection, list(numbers.values()))
    await keeper.work()
    assert await trip_summaries.of_trip(connection, numbers["alone"]) is None

    jobs = Jobs(store, rows=7, most=7, rest=0)
    await _erase(store, jobs, van.number)
    assert await _tables_with(connection, van.number) == set()
    assert await connection.fetchval("SELECT count(*) FROM erasures") == 0
    await keeper.work()
    # What the other vehicle drove is still there, with its line.
    assert len(await line_of(connection, numbers["shared"])) == 101
    assert (await trip_summaries.of_trip(connection, numbers["alone"])) is None
    other = await vehicles.get(connection, "other")
    assert other is not None and len(await vehicle_days.stored(connection, other.number, DAY, DAY)) == 1


@pytest.mark.parametrize("after", [1, 20, 60, 80])
async def test_an_erasure_that_was_broken_off_goes_on(store: Database, connection: Connection, after: int) -> None:
    van = await _everywhere(store, connection)
    async with store.transaction() as eraser:
        await vehicles.lock(eraser, "van")
        await trips.unassign(eraser, van.number)
        await erasures.begin(eraser, van.number, BEGIN)

    class BrokenOff(Jobs):
        left = after

        async def run(self, what: str, batch: Batch, ours: Ours = always) -> int:
            async def until_broken_off(connection: Connection, rows: int) -> int | None:
                BrokenOff.left -= 1
                done = await batch(connection, rows)
                if BrokenOff.left < 0:
                    # The hub is killed in the middle of a transaction.
                    raise RuntimeError("killed")
                return done

            return await super().run(what, until_broken_off, ours)

    broken = Erasures(store, BrokenOff(store, rows=7, most=7, rest=0), SetClock(ENDED), settled=_settled)
    [under_way] = await erasures.under_way(connection, 10)
    with pytest.raises(RuntimeError):
        await broken._erase(under_way)
    assert await _tables_with(connection, van.number) - KEEPS_NUMBERS
    [under_way] = await erasures.under_way(connection, 10)
    assert under_way.removed > 0 or after == 1
    await _erase(store, Jobs(store, rows=7, most=7, rest=0), van.number)
    assert await _tables_with(connection, van.number) == set()


async def test_an_erasure_that_two_hubs_do_at_once_leaves_nothing(store: Database, connection: Connection) -> None:
    van = await _everywhere(store, connection)
    async with store.transaction() as eraser:
        await vehicles.lock(eraser, "van")
        await trips.unassign(eraser, van.number)
        await erasures.begin(eraser, van.number, BEGIN)
    [under_way] = await erasures.under_way(connection, 10)

    async def erase(number: int) -> None:
        keeper = Erasures(store, Jobs(store, rows=3 + number, most=7, rest=0), SetClock(ENDED), settled=_settled)
        while True:
            try:
                return await keeper._erase(under_way)
            except asyncpg.LockNotAvailableError:
                continue  # `run` tries it again too

    await asyncio.gather(*(erase(number) for number in range(3)))
    assert await _tables_with(connection, van.number) == set()
    assert not await erasures.is_under_way(connection, van.number)


async def test_a_kept_line_loses_the_part_of_an_erased_vehicle_and_keeps_the_others(
    store: Database, connection: Connection
) -> None:
    first, second = await Van.new(connection, "first"), await Van.new(connection, "second")
    trip = await a_trip(connection, first.number, BEGIN, None)
    await first.drove(north(0, 1_000, 10), trip=trip)
    await trips.close_span(connection, trip, BEGIN + 200_000)
    await trips.open_span(connection, trip, second.number, BEGIN + 200_001)
    driven = await second.drove(north(201, 500, 5), trip=trip)
    await ended(connection, trip, BEGIN + 400_000)
    # The positions are removed, and the line stays.
    keeper = Summaries(store, SetClock((DAY + 10) * DAY_MS), delay=600, retention_days=8)
    await keeper.work()
    horizon = await position_days.horizon(connection)
    assert horizon is not None
    async with store.transaction() as eraser:
        await vehicles.lock(eraser, "first")
        await erasures.begin(eraser, first.number, BEGIN)
    kept = [row async for rows in trip_summaries.kept_track(store, trip, horizon) for row in rows]
    assert {row.vehicle_id for row in kept} == {"second"}
    assert await trip_summaries.of_trip(connection, trip) is None
    await _erase(store, Jobs(store, rest=0), first.number)
    assert [vertex[2] for vertex in await line_of(connection, trip)] == [position.fix_time for position in driven]
    summary = await trip_summaries.of_trip(connection, trip)
    assert summary is not None and summary.distance == pytest.approx(500, abs=1) and summary.top_speed is None
    await keeper.work()
    assert await trip_summaries.of_trip(connection, trip) == summary


async def test_a_line_from_before_parts_were_noted_goes_whole(store: Database, connection: Connection) -> None:
    first, second = await Van.new(connection, "first"), await Van.new(connection, "second")
    trip = await a_trip(connection, first.number, BEGIN, None)
    await first.drove(north(0, 1_000, 10), trip=trip)
    await trips.close_span(connection, trip, BEGIN + 200_000)
    await trips.open_span(connection, trip, second.number, BEGIN + 200_001)
    await ended(connection, trip, BEGIN + 400_000)
    await connection.execute("UPDATE trips SET vehicle = $1", second.number)
    await Summaries(store, SetClock((DAY + 10) * DAY_MS), delay=600, retention_days=8).work()
    await connection.execute("UPDATE trip_summaries SET vehicles = NULL")
    horizon = await position_days.horizon(connection)
    assert horizon is not None
    async with store.transaction() as eraser:
        await vehicles.lock(eraser, "first")
        await erasures.begin(eraser, first.number, BEGIN)
    assert [rows async for rows in trip_summaries.kept_track(store, trip, horizon)] == []
    assert await trip_summaries.of_trip(connection, trip) is None
    await _erase(store, Jobs(store, rest=0), first.number)
    assert await connection.fetchval("SELECT count(*) FROM trip_summaries") == 0


async def test_a_trips_number_leaves_a_long_track_in_small_batches(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    trip_id = "long"
    number = await a_trip(connection, van.number, BEGIN, ENDED, trip_id)
    await van.drove(north(0, 4_000, 10), trip=number)
    await van.drove([(401, 0, 0, None)])
    async with store.transaction() as eraser:
        trip = await trips.lock(eraser, trip_id)
        assert trip is not None
        await trip_erasures.begin(eraser, trip, BEGIN)
    keeper = Erasures(store, Jobs(store, rows=9, most=9, rest=0), SetClock(ENDED), settled=_settled)
    [under_way] = await trip_erasures.under_way(connection, ENDED, 10)
    await keeper._erase_trip(under_way)
    assert await connection.fetchval("SELECT count(*) FROM positions WHERE trip IS NULL") == 402
    # Its spans stay for some days, to limit what the next passenger sees.
    assert await connection.fetchval("SELECT count(*) FROM trip_spans WHERE trip = $1", number) == 1
    assert await trip_erasures.under_way(connection, ENDED, 10) == []
    [old] = await trip_erasures.under_way(connection, ENDED + trip_erasures.SPANS_KEPT_MS + 1, 10)
    assert old == trip_erasures.TripErasure(number, None)
    late = Erasures(store, Jobs(store), SetClock(ENDED + trip_erasures.SPANS_KEPT_MS + 1), settled=_settled)
    await late._erase_trip(old)
    assert await connection.fetchval("SELECT count(*) FROM trip_spans") == 0
    assert await connection.fetchval("SELECT count(*) FROM trip_erasures") == 0
