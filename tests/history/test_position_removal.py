"""The removal of old positions on real PostGIS: which days go, and what is kept of them."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.support.clocks import SetClock
from tests.support.drives import HOUR_MS, Van, a_trip, ended, entries, line_of, north, partitions_of
from tests.support.positions import BEGIN, DAY
from tracking.config import load
from tracking.errors import ConfigError, StoreUnavailable
from tracking.history.summaries import Summaries
from tracking.store import position_days, tracks, trip_summaries, vehicle_days
from tracking.store.days import DAY_MS, date_of
from tracking.store.pool import Connection, Database


async def track_of(store: Database, trip: int) -> list[int]:
    """The fix times of a trip's track, as `/v1/trips/{trip_id}/track` sends it."""
    return [row.fix_time async for rows in tracks.of_trip(store, trip, suspect=False) for row in rows]


async def test_old_positions_go_and_what_they_said_stays(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    midnight = (DAY + 1) * DAY_MS
    over = await a_trip(connection, van.number, BEGIN, BEGIN + 600_000, "over")
    made = await van.drove(north(0, 2_000, 10), trip=over)
    # A trip over midnight, and for ten days. Its first day, with its top speed, is dropped while it is under way.
    long = await a_trip(connection, van.number, midnight - 100_000, None, "long")
    evening = await van.drove(north(0, 900, 30), begin=midnight - 100_000, trip=long)
    morning = await van.drove(north(0, 900, 10, start=2_600), begin=midnight, trip=long)
    clock = SetClock((DAY + 9) * DAY_MS - 1)
    keeper = Summaries(store, clock, delay=600, retention_days=8)
    await keeper.work()
    assert await partitions_of(connection) == [DAY, DAY + 1]
    before = await vehicle_days.stored(connection, van.number, DAY, DAY)
    clock.now += HOUR_MS
    await keeper.work()
    assert await partitions_of(connection) == [DAY + 1]
    assert await vehicle_days.stored(connection, van.number, DAY, DAY) == before
    assert await track_of(store, over) == [p.fix_time for p in made]
    assert await track_of(store, long) == [p.fix_time for p in (*evening, *morning)]

    # After its end, the line and the summary are whole.
    await ended(connection, long, clock.now)
    clock.now += 700_000
    await keeper.work()
    assert [vertex[2] for vertex in await line_of(connection, long)] == [p.fix_time for p in (*evening, *morning)]
    summary = await trip_summaries.of_trip(connection, long)
    assert summary is not None
    assert (round(summary.distance, -1), summary.top_speed) == (3_500, 30)
    clock.now += DAY_MS
    await keeper.work()
    assert await partitions_of(connection) == []
    assert await track_of(store, long) == [p.fix_time for p in (*evening, *morning)]


async def test_a_fix_of_a_dropped_day_changes_nothing_and_goes_too(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    trip = await a_trip(connection, van.number, BEGIN, BEGIN + 600_000)
    await van.drove(north(0, 2_000, 10), trip=trip)
    clock = SetClock((DAY + 10) * DAY_MS)
    keeper = Summaries(store, clock, delay=600, retention_days=8)
    await keeper.work()
    assert await partitions_of(connection) == []
    days = await vehicle_days.stored(connection, van.number, DAY, DAY)
    # The recorder would make the partition again.
    keeper.stored(entries(await van.drove([(300, 0, 0, None)], trip=trip)))
    clock.now += HOUR_MS
    await keeper.work()
    assert await partitions_of(connection) == []
    assert await vehicle_days.stored(connection, van.number, DAY, DAY) == days
    assert len(await line_of(connection, trip)) == 201


async def test_a_partition_that_was_left_half_dropped_is_dropped(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 100, 10))
    keeper = Summaries(store, SetClock((DAY + 10) * DAY_MS), delay=600, retention_days=8)
    await keeper._sum_up_days()
    await position_days.note(connection, DAY, "dropped", BEGIN)
    (partition,) = await position_days.partitions(connection)
    await connection.execute(f"ALTER TABLE positions DETACH PARTITION positions_{date_of(DAY):%Y%m%d}")
    await keeper.work()
    assert partition.attached
    assert await partitions_of(connection) == []


async def test_a_trip_that_can_not_be_compacted_keeps_its_positions(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    trip = await a_trip(connection, van.number, BEGIN, BEGIN + 1_000)
    await van.drove(north(0, 100, 10), trip=trip)
    await connection.execute("ALTER TABLE trip_summaries ADD CHECK (distance < 0)")
    await Summaries(store, SetClock((DAY + 10) * DAY_MS), delay=600, retention_days=8).work()
    assert await partitions_of(connection) == [DAY]


async def test_old_positions_go_though_another_day_can_not_be_looked_through(
    store: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("it takes too long")

    van = await Van.new(connection)
    await van.drove(north(0, 100, 10))
    clock = SetClock((DAY + 8) * DAY_MS + HOUR_MS)
    await Summaries(store, clock, delay=600).work()
    await van.drove(north(0, 100, 10), begin=BEGIN + DAY_MS)
    clock.now += DAY_MS
    monkeypatch.setattr(vehicle_days, "came_later", away)
    with pytest.raises(StoreUnavailable):
        await Summaries(store, clock, delay=600, retention_days=8).work()
    assert await partitions_of(connection) == [DAY + 1]


async def test_no_day_goes_before_one_that_may_not(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    bad = await a_trip(connection, van.number, BEGIN, BEGIN + 1_000)
    await van.drove(north(0, 100, 10), trip=bad)
    await van.drove(north(0, 100, 10), begin=BEGIN + DAY_MS)
    await connection.execute("ALTER TABLE trip_summaries ADD CHECK (distance < 0)")
    await Summaries(store, SetClock((DAY + 12) * DAY_MS), delay=600, retention_days=8).work()
    assert await partitions_of(connection) == [DAY, DAY + 1]
    # Otherwise the kept day would count as gone.
    assert await position_days.horizon(connection) is None


async def test_dropping_waits_for_who_reads_and_nobody_waits_for_the_dropping(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 100, 10))
    await van.drove(north(0, 100, 10), begin=BEGIN + 10 * DAY_MS)
    keeper = Summaries(store, SetClock((DAY + 10) * DAY_MS), delay=600, retention_days=8)
    async with store.transaction() as reader:
        await reader.fetch("SELECT count(*) FROM positions")
        dropping = asyncio.create_task(keeper.work())
        async with asyncio.timeout(30):
            while not await connection.fetchval(
                """
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND query LIKE 'ALTER TABLE%DETACH%' AND wait_event_type = 'Lock'
                """
            ):
                assert not dropping.done()
        await connection.execute("SET lock_timeout = '1s'")
        await van.drove(north(200, 100, 10), begin=BEGIN + 10 * DAY_MS)
        await connection.execute("RESET lock_timeout")
    await dropping
    assert await partitions_of(connection) == [DAY + 10]


async def test_dropping_that_was_given_up_half_way_is_taken_up_again(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 100, 10))
    await van.drove(north(0, 100, 10), begin=BEGIN + 10 * DAY_MS)
    impatient = Database(store._url, timeout=1)
    await impatient.open()
    keeper = Summaries(impatient, SetClock((DAY + 10) * DAY_MS), delay=600, retention_days=8)
    async with store.transaction() as reader:
        await reader.fetch("SELECT count(*) FROM positions")
        with pytest.raises((StoreUnavailable, asyncpg.PostgresError)):
            await keeper.work()
    (partition, _) = await position_days.partitions(connection)
    assert partition.detaching
    await keeper.work()
    assert await partitions_of(connection) == [DAY + 10]
    await impatient.close()


@pytest.mark.parametrize(
    "settings, variable",
    [
        ({"retention_days": 7}, "TRACKING_RETENTION_DAYS"),
        ({"retention_days": -1}, "TRACKING_RETENTION_DAYS"),
        ({"summary_retention_days": 30}, "TRACKING_SUMMARY_RETENTION_DAYS"),
        ({"retention_days": 30, "summary_retention_days": 29}, "TRACKING_SUMMARY_RETENTION_DAYS"),
        ({"summary_delay": 0}, "TRACKING_SUMMARY_DELAY"),
    ],
)
def test_a_retention_that_can_not_be(settings: dict[str, Any], variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        load(**settings)


def test_a_retention_that_can_be() -> None:
    assert load(retention_days=8, summary_retention_days=8).retention_days == 8
    assert load().retention_days == 0
