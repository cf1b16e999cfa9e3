"""Summaries and lines of trips on real PostGIS: when they are made, what they hold, and what an erasure leaves."""

import asyncio
from itertools import groupby, pairwise

import msgspec
import pytest

from tests.support.clocks import SetClock
from tests.support.drives import HOUR_MS, Van, a_trip, ended, entries, line_of, north, partitions_of
from tests.support.positions import BEGIN, DAY
from tracking.errors import StoreUnavailable
from tracking.history.summaries import GIVE_UP_AFTER, Summaries
from tracking.store import erasures, position_days, trip_summaries, trips, vehicle_days, vehicles
from tracking.store.days import DAY_MS
from tracking.store.jobs import Jobs
from tracking.store.pool import Connection, Database


async def test_a_trip_is_compacted_when_its_late_fixes_are_in_and_anew_when_more_come(
    store: Database, connection: Connection
) -> None:
    van = await Van.new(connection)
    end = BEGIN + 300_000
    trip = await a_trip(connection, van.number, BEGIN, end)
    made = await van.drove(north(0, 1_000, 10), trip=trip)
    clock = SetClock(end + 599_999)
    keeper = Summaries(store, clock, delay=600)
    await keeper.work()
    assert await trip_summaries.of_trip(connection, trip) is None
    clock.now += 1
    await keeper.work()
    assert await line_of(connection, trip) == [(p.longitude, p.latitude, p.fix_time) for p in made]
    assert await connection.fetchval("SELECT ST_IsValidTrajectory(line) FROM trip_summaries")
    summary = await trip_summaries.of_trip(connection, trip)
    assert summary is not None
    assert (round(summary.distance), summary.stops, summary.top_speed) == (1_000, 0, 10)

    # A device was away. Its fixes move the marker, but belong to a trip that is over.
    late = await van.drove(north(101, 1_000, 10, start=1_000), trip=trip)
    await keeper.work()
    assert len(await line_of(connection, trip)) == len(made)
    keeper.stored(entries(late))
    await keeper.work()
    assert len(await line_of(connection, trip)) == len(made) + len(late)
    assert round((await trip_summaries.of_trip(connection, trip) or summary).distance) == 2_000


async def test_a_long_line_keeps_the_loop_from_nothing(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    trip = await a_trip(connection, van.number, BEGIN, BEGIN + DAY_MS)
    await connection.execute(
        f"""
        INSERT INTO trip_summaries (trip, built_at, distance, stops, line)
        SELECT {trip}, now(), 0, 0, ST_SetSRID(ST_MakeLine(vertex ORDER BY n), 4326)
        FROM generate_series(0, 99999) n, ST_MakePointM(9 + n / 3e5, 47 + n / 7e5, {BEGIN} + n) vertex
        """
    )
    turns, sizes = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    async for rows in trip_summaries.kept_track(store, trip, BEGIN + 50_000):
        sizes.append((len(rows), turns))
    task.cancel()
    assert sum(size for size, _ in sizes) == 50_000
    assert all(size <= 1_000 and later > before for (size, before), (_, later) in pairwise(sizes))

    summary = await trip_summaries.of_trip(connection, trip)
    assert summary is not None and summary.track is not None
    assert msgspec.json.decode(summary.track) == {
        "type": "LineString",
        "coordinates": [list(vertex[:2]) for vertex in await line_of(connection, trip)],
    }


async def test_two_vehicles_on_one_trip_are_not_joined_by_a_way(store: Database, connection: Connection) -> None:
    first, second = await Van.new(connection, "first"), await Van.new(connection, "second")
    trip = await a_trip(connection, first.number, BEGIN, None)
    await first.drove(north(0, 1_000, 10), trip=trip)
    await trips.close_span(connection, trip, BEGIN + 100_000)
    await trips.open_span(connection, trip, second.number, BEGIN + 100_001)
    await second.drove(north(110, 1_000, 10, start=50_000), trip=trip)
    await ended(connection, trip, BEGIN + 300_000)
    await Summaries(store, SetClock(BEGIN + DAY_MS), delay=1).work()
    summary = await trip_summaries.of_trip(connection, trip)
    assert summary is not None
    assert (round(summary.distance), len(await line_of(connection, trip))) == (2_000, 202)


async def test_vehicles_whose_fixes_stand_by_turns_are_each_a_line(store: Database, connection: Connection) -> None:
    """The first vehicle's clock is 50 s ahead. Its part of the trip stays separate, also without the positions."""
    first, second, third = [await Van.new(connection, name) for name in ("first", "second", "third")]
    trip = await a_trip(connection, first.number, BEGIN, None)
    await first.drove(north(50, 1_000, 10), trip=trip)
    for van, seconds in ((second, 100), (third, 150), (first, 300)):
        await trips.close_span(connection, trip, BEGIN + seconds * 1000)
        await trips.open_span(connection, trip, van.number, BEGIN + seconds * 1000)
    await second.drove(north(100, 500, 10, start=50_000), trip=trip)
    await third.drove([(160, 90_000, 0, 10)], trip=trip)
    await first.drove(north(300, 1_000, 10, start=9_000), trip=trip)
    await ended(connection, trip, BEGIN + 500_000)
    clock = SetClock(BEGIN + DAY_MS)
    keeper = Summaries(store, clock, delay=1, retention_days=8)

    async def drawn() -> tuple[int, list[int]]:
        summary = await trip_summaries.of_trip(connection, trip)
        assert summary is not None and summary.track is not None
        track = msgspec.json.decode(summary.track)
        assert track["type"] == "MultiLineString"
        return round(summary.distance), [len(line) for line in track["coordinates"]]

    await keeper.work()
    # RFC 7946 requires two positions for a line. So a single fix is there twice.
    assert await drawn() == (2_500, [101, 51, 2, 101])
    clock.now += 10 * DAY_MS
    for _ in range(4):  # at least one vehicle a round
        clock.now += HOUR_MS
        await keeper.work()
    assert await partitions_of(connection) == []
    kept_from = await position_days.horizon(connection)
    assert kept_from is not None
    kept = [row async for rows in trip_summaries.kept_track(store, trip, kept_from) for row in rows]
    assert [(name, len(list(rows))) for name, rows in groupby(kept, lambda row: row.vehicle_id)] == [
        ("first", 101),
        ("second", 51),
        ("third", 1),
        ("first", 101),
    ]
    async with connection.transaction():
        await trip_summaries.compact_trip(connection, trip, clock.now)
    assert await drawn() == (2_500, [101, 51, 2, 101])


@pytest.mark.parametrize("vehicles", [1, 2])
async def test_a_line_across_the_antimeridian_is_cut_there(store: Database, connection: Connection, vehicles: int) -> None:
    trip = 0
    for number in range(vehicles):
        van = await Van.new(connection, f"van-{number}")
        if trip:
            await trips.close_span(connection, trip, BEGIN + 100_000 * number)
            await trips.open_span(connection, trip, van.number, BEGIN + 100_000 * number)
        else:
            trip = await a_trip(connection, van.number, BEGIN, None)
        await van.drove([(100 * number + n, n, 0, None) for n in range(4)], trip=trip)
    await connection.execute(
        """
        UPDATE positions SET point = ST_SetSRID(
            ST_MakePoint((ARRAY[179.999, 179.9995, -179.9995, -179.999])[(seq - 1) % 4 + 1], -17 + seq / 1000.0), 4326
        )
        """
    )
    await ended(connection, trip, BEGIN + 300_000)
    await Summaries(store, SetClock(BEGIN + DAY_MS), delay=1).work()
    summary = await trip_summaries.of_trip(connection, trip)
    assert summary is not None and summary.track is not None
    track = msgspec.json.decode(summary.track)
    assert track["type"] == "MultiLineString"
    assert [[(x, round(y, 9)) for x, y in line] for line in track["coordinates"]] == [
        [(179.999, -16.999), (179.9995, -16.998), (180, -16.9975)],
        [(-180, -16.9975), (-179.9995, -16.997), (-179.999, -16.996)],
    ] * vehicles
    assert summary.distance == pytest.approx(vehicles * 400.4, abs=1)


async def test_a_trip_without_fixes_and_one_that_never_began(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    trip = await a_trip(connection, van.number, BEGIN, BEGIN + 1_000)
    await Summaries(store, SetClock(BEGIN + DAY_MS), delay=1).work()
    assert await trip_summaries.of_trip(connection, trip) == (0.0, 0, None, None)
    assert await trip_summaries.trips_to_compact(connection, BEGIN + DAY_MS, [], 10) == []


async def test_one_trip_that_fails_keeps_no_other_from_its_summary(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    bad = await a_trip(connection, van.number, BEGIN, BEGIN + 1_000, "bad")
    good = await a_trip(connection, van.number, BEGIN + 2_000, BEGIN + 3_000, "good")
    await connection.execute(f"ALTER TABLE trip_summaries ADD CHECK (trip <> {bad})")
    await Summaries(store, SetClock(BEGIN + DAY_MS), delay=1).work()
    assert await trip_summaries.of_trip(connection, bad) is None
    assert await trip_summaries.of_trip(connection, good) is not None


async def test_a_trip_that_takes_too_long_keeps_no_other_from_its_summary(store: Database, connection: Connection) -> None:
    slow, quick = await Van.new(connection, "slow"), await Van.new(connection, "quick")
    bad = await a_trip(connection, slow.number, BEGIN, BEGIN + 1_000, "bad")
    impatient = Database(store._url, timeout=1, size=1)
    await impatient.open()
    clock = SetClock(BEGIN + HOUR_MS)
    keeper = Summaries(impatient, clock, delay=1)
    async with store.transaction() as other:
        # Compacting waits for the lock, and for too long.
        await vehicles.lock(other, "slow")
        for number in range(GIVE_UP_AFTER):
            good = await a_trip(connection, quick.number, BEGIN + 2_000, BEGIN + 3_000, f"good-{number}")
            await keeper.work()
            assert await trip_summaries.of_trip(connection, good) is not None
            clock.now += HOUR_MS
    # It is given up until the next start.
    await keeper.work()
    assert await trip_summaries.of_trip(connection, bad) is None
    await Summaries(impatient, clock, delay=1).work()
    assert await trip_summaries.of_trip(connection, bad) is not None
    await impatient.close()


async def test_a_database_that_is_slow_altogether_ends_the_round(store: Database, connection: Connection) -> None:
    slow, quick = await Van.new(connection, "slow"), await Van.new(connection, "quick")
    for number in range(GIVE_UP_AFTER):
        await a_trip(connection, slow.number, BEGIN + number * 1_000, BEGIN + number * 1_000 + 1, f"bad-{number}")
    good = await a_trip(connection, quick.number, BEGIN + 8_000, BEGIN + 9_000, "good")
    impatient = Database(store._url, timeout=1, size=1)
    await impatient.open()
    keeper = Summaries(impatient, SetClock(BEGIN + HOUR_MS), delay=1)
    async with store.transaction() as other:
        await vehicles.lock(other, "slow")
        with pytest.raises(StoreUnavailable):
            await keeper.work()
        assert await trip_summaries.of_trip(connection, good) is None
        # The next round begins with what was not tried yet.
        await keeper.work()
        assert await trip_summaries.of_trip(connection, good) is not None
    await impatient.close()


async def test_a_trip_that_was_refused_once_is_compacted_an_hour_later(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    trip = await a_trip(connection, van.number, BEGIN, BEGIN + 1_000)
    await connection.execute("ALTER TABLE trip_summaries ADD CONSTRAINT bad CHECK (distance < 0)")
    clock = SetClock(BEGIN + HOUR_MS)
    keeper = Summaries(store, clock, delay=1)
    await keeper.work()
    await connection.execute("ALTER TABLE trip_summaries DROP CONSTRAINT bad")
    await keeper.work()
    assert await trip_summaries.of_trip(connection, trip) is None
    clock.now += HOUR_MS
    await keeper.work()
    assert await trip_summaries.of_trip(connection, trip) is not None


async def test_the_work_waits_for_a_database_that_is_away() -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", timeout=1)
    await away.open()
    keeper = Summaries(away, SetClock(BEGIN), delay=1)
    with pytest.raises(StoreUnavailable):
        await keeper.work()
    await away.close()


async def test_an_erased_vehicle_leaves_no_day_and_no_line(store: Database, connection: Connection) -> None:
    van, other = await Van.new(connection), await Van.new(connection, "other")
    trip = await a_trip(connection, van.number, BEGIN, BEGIN + 600_000, "alone")
    await van.drove(north(0, 2_000, 10), trip=trip)
    shared = await a_trip(connection, van.number, BEGIN + 700_000, None, "shared")
    await van.drove(north(700, 2_000, 10), trip=shared)
    await trips.close_span(connection, shared, BEGIN + 900_000)
    await trips.open_span(connection, shared, other.number, BEGIN + 900_001)
    own = await other.drove(north(901, 2_000, 10), trip=shared)
    await ended(connection, shared, BEGIN + 1_200_000)
    keeper = Summaries(store, SetClock((DAY + 2) * DAY_MS), delay=600)
    await keeper.work()
    async with store.transaction() as eraser:
        await vehicles.lock(eraser, "van")
        await erasures.begin(eraser, van.number)
    assert await trip_summaries.of_trip(connection, trip) is None
    assert await trip_summaries.of_trip(connection, shared) is None
    await Jobs(store).run("erase trips", erasures.Trips(van.number, (DAY + 2) * DAY_MS))
    assert await connection.fetchval("SELECT count(*) FROM trip_summaries") == 0
    assert await connection.fetchval("SELECT count(*) FROM vehicle_days WHERE vehicle = $1", van.number) == 0
    await keeper.work()
    assert await trip_summaries.of_trip(connection, trip) is None
    assert [vertex[2] for vertex in await line_of(connection, shared)] == [p.fix_time for p in own]
    assert len(await vehicle_days.stored(connection, other.number, DAY, DAY)) == 1
