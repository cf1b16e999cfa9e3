"""Tracks in pieces on real PostGIS: each fix comes once and in order, whatever happens between two pieces."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.drives import Van, a_trip, north
from tests.support.positions import BEGIN
from tracking.ingest.vehicles import FOREVER
from tracking.store import position_days, positions, tracks, trip_lines, trip_summaries, trips
from tracking.store.days import DAY_MS
from tracking.store.pool import Connection, Database
from tracking.store.positions import TRACK_COLUMNS, TrackRow


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "PIECE", 10)
    monkeypatch.setattr(trip_summaries, "VERTICES_AT_ONCE", 7)


async def all_of(pieces: AsyncIterator[list[TrackRow]]) -> list[TrackRow]:
    found = []
    async for rows in pieces:
        assert 0 < len(rows) <= tracks.PIECE
        found += rows
    return found


def keys(rows: list[TrackRow]) -> list[tuple[Any, ...]]:
    return [(row.fix_time, row.session, row.seq) for row in rows]


async def test_fixes_stay_though_their_session_is_kept_no_longer(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    trip = await a_trip(connection, van.number, BEGIN, BEGIN + 60_000)
    await van.drove(north(0, 250, 10), trip=trip)
    before = await all_of(tracks.of_trip(store, trip, suspect=False))
    await connection.execute("DELETE FROM sessions")
    for pieces in (
        tracks.of_trip(store, trip, suspect=False),
        tracks.of_vehicle(store, van.number, 0, FOREVER, suspect=False),
    ):
        assert await all_of(pieces) == [row._replace(session=None) for row in before]
    assert len((await trip_lines.short_tracks(connection, [trip]))[trip]) == len(before) == 26
    assert len(await trip_lines.last_of_trip(connection, trip)) == 1


async def straight(connection: Connection, vehicle: int, from_: int = 0, to: int = FOREVER, *, suspect: bool = False) -> Any:
    """The same by one query."""
    rows = await connection.fetch(
        f"""
        SELECT {TRACK_COLUMNS}
        FROM positions p JOIN vehicles v USING (vehicle) LEFT JOIN sessions s USING (session)
            LEFT JOIN trips t ON t.trip = p.trip
        WHERE p.vehicle = $1 AND p.fix_time >= $2::timestamptz AND p.fix_time < $3::timestamptz
            AND ($4 OR p.suspect IS NULL)
        ORDER BY p.fix_time, p.session, p.seq
        """,
        vehicle,
        from_,
        to,
        suspect,
    )
    return [TrackRow(*row) for row in rows]


@pytest.mark.parametrize("suspect", [False, True])
async def test_pieces_are_what_one_question_gives(store: Database, connection: Connection, suspect: bool) -> None:
    """Many fixes of one instant, long silences, days and pieces that end together, and doubted ones."""
    chance = random.Random(7)
    van = await Van.new(connection)
    other = await connection.fetchval("INSERT INTO sessions (vehicle, name) VALUES ($1, 'z') RETURNING session", van.number)
    for begin in (BEGIN, BEGIN + 2 * DAY_MS, BEGIN + 300 * DAY_MS):
        for session in (van.session, other):
            van.session = session
            await van.drove([(chance.randrange(0, 90_000), n, 0.0, 5.0) for n in range(60)], begin=begin)
            await van.drove([(7, n, 0.0, 5.0) for n in range(25)], begin=begin)
            await van.drove([(chance.randrange(0, 90_000), n, 0.0, 5.0) for n in range(20)], begin=begin, suspect=("jump",))
    await van.drove([(0.0, 0.0, 0.0, 5.0)], begin=(BEGIN // DAY_MS + 1) * DAY_MS)
    for from_, to in (
        (0, FOREVER),
        (BEGIN + 7_000, BEGIN + 7_001),
        (BEGIN + 5_000, BEGIN + 2 * DAY_MS),
        (0, 0),
        (BEGIN, BEGIN),
    ):
        wanted = await straight(connection, van.number, from_, to, suspect=suspect)
        found = await all_of(tracks.of_vehicle(store, van.number, from_, to, suspect=suspect))
        assert found == wanted
    assert len(await straight(connection, van.number)) > 500


async def test_what_comes_late_while_it_is_read_comes_once_or_not(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    before = [row.fix_time for row in await van.drove(north(0, 400, 10))]
    found: list[TrackRow] = []
    async for rows in tracks.of_vehicle(store, van.number, 0, FOREVER, suspect=False):
        found += rows
        # One fix is behind what was read, one just after it, and one newer than all.
        here = (rows[-1].fix_time - BEGIN) / 1000
        await van.drove([(here - 4.5, 0, 0, 5.0), (here + 0.5, 0, 0, 5.0), (1_000 + here, 0, 0, 5.0)])
    assert keys(found) == sorted(set(keys(found)), key=lambda key: key[0])
    times = [row.fix_time for row in found]
    assert set(before) <= set(times)
    assert max(times) == before[-1]
    assert len(times) > len(before)


async def test_the_track_of_a_vehicle_that_reports_has_an_end(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 200, 10))
    count = 0
    async for rows in tracks.of_vehicle(store, van.number, 0, FOREVER, suspect=False):
        count += len(rows)
        await van.drove([(1_000 + count + n, 0, 0, 5.0) for n in range(20)])
    assert count == 21


async def test_nothing_is_held_between_two_pieces(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    trip = await a_trip(connection, van.number, BEGIN, None)
    await van.drove(north(0, 500, 10), trip=trip)
    for pieces in (
        tracks.of_vehicle(store, van.number, 0, FOREVER, suspect=False),
        tracks.of_trip(store, trip, suspect=False),
    ):
        async for _ in pieces:
            assert store._pool is not None
            assert store._pool.get_size() - store._pool.get_idle_size() == 1  # the test's own
            states = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
            assert await connection.fetchval(states) == 0


@pytest.mark.parametrize("gone_after", [None, 0, 1, 4])
async def test_a_trip_keeps_every_fix_while_its_days_are_dropped(
    store: Database,
    connection: Connection,
    gone_after: int | None,
) -> None:
    """Two vehicles drive by turns for three days. The line is made. Then the first two days are dropped after some pieces."""
    first, second = await Van.new(connection, "first"), await Van.new(connection, "second")
    trip = await a_trip(connection, first.number, BEGIN, None)
    midnight = (BEGIN // DAY_MS + 1) * DAY_MS
    driven = [(row.vehicle, row.fix_time) for row in await first.drove(north(0, 250, 10), trip=trip)]
    driven += [(row.vehicle, row.fix_time) for row in await first.drove(north(0, 250, 10), begin=midnight, trip=trip)]
    await trips.close_span(connection, trip, midnight + 100_000)
    await trips.open_span(connection, trip, second.number, midnight + 100_000)
    driven += [
        (second.number, row.fix_time) for row in await second.drove(north(0, 250, 10), begin=midnight + 200_000, trip=trip)
    ]
    driven += [
        (second.number, row.fix_time) for row in await second.drove(north(0, 250, 10), begin=midnight + DAY_MS, trip=trip)
    ]
    # These fixes belong to no trip.
    await first.drove(north(0, 250, 10), begin=midnight + 300_000)
    async with connection.transaction():
        await trip_summaries.compact_trip(connection, trip, midnight + 2 * DAY_MS)

    async def drop() -> None:
        for found in (await position_days.partitions(connection))[:2]:
            await position_days.note(connection, found.day, "dropped", midnight + 10 * DAY_MS)
            await position_days.drop(connection, found)

    numbers = {"first": first.number, "second": second.number}
    found: list[tuple[int, int]] = []
    pieces = tracks.of_trip(store, trip, suspect=False)
    count = 0
    if gone_after == 0:
        await drop()
    async for rows in pieces:
        found += [(numbers[row.vehicle_id], row.fix_time) for row in rows]
        count += 1
        if count == gone_after:
            await drop()
    assert found == driven
    assert count > 4


async def test_a_piece_reads_a_few_rows_however_many_there_are(
    store: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the trips, sessions and vehicles of its rows, and the partition of its day."""
    monkeypatch.setattr(tracks, "PIECE", 1_000)
    van = await Van.new(connection)
    await van.drove(north(0, 20_000, 10))
    for day in range(1, 30):
        await positions.ensure_partition(connection, BEGIN // DAY_MS + day)
    await connection.execute(
        "INSERT INTO trips (trip_id, fleet_id, pickup, dropoff, created_at)"
        " SELECT n::text, 'fleet', '{}', '{}', now() FROM generate_series(1, 20000) n"
    )
    await connection.execute(
        "INSERT INTO sessions (vehicle, name) SELECT $1, n::text FROM generate_series(1, 20000) n", van.number
    )
    await connection.execute("ANALYZE trips, sessions, vehicles, positions")
    query = tracks._query(suspect=False, of_trip=False)
    plan = [row[0] for row in await connection.fetch(f"EXPLAIN {query}", van.number, BEGIN, -1, -1, BEGIN + 40_000_000)]
    assert not [line for line in plan if "Seq Scan on trips" in line or "Seq Scan on sessions" in line], "\n".join(plan)
    assert len([line for line in plan if "on positions_" in line]) == 1, "\n".join(plan)
