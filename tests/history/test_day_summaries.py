"""Summaries of days on real PostGIS: when they are made, and how late positions are found."""

import pytest

from tests.support.clocks import SetClock
from tests.support.drives import HOUR_MS, Van, a_trip, entries, line_of, north
from tests.support.positions import BEGIN, DAY
from tracking.history.summaries import Summaries
from tracking.store import position_days, vehicle_days
from tracking.store.days import DAY_MS, date_of
from tracking.store.pool import Connection, Database


async def test_a_day_is_summed_up_when_it_is_over_and_anew_when_more_comes(store: Database, connection: Connection) -> None:
    van = await Van.new(connection)
    await Van.new(connection, "idle")
    await van.drove(north(0, 1_000, 10))
    clock = SetClock((DAY + 1) * DAY_MS + 599_999)
    keeper = Summaries(store, clock, delay=600)
    await keeper.work()
    assert await vehicle_days.stored(connection, van.number, DAY, DAY) == []
    clock.now += 1
    await keeper.work()
    (day,) = await vehicle_days.stored(connection, van.number, DAY - 1, DAY + 1)
    assert day == await van.summed()
    assert await connection.fetchval("SELECT count(*) FROM vehicle_days") == 1

    late = await van.drove(north(200, 1_000, 10, start=1_000))
    await keeper.work()
    assert await vehicle_days.stored(connection, van.number, DAY, DAY) == [day]
    keeper.stored(entries(late))
    await keeper.work()
    (later,) = await vehicle_days.stored(connection, van.number, DAY, DAY)
    assert (later.positions, later) == (202, await van.summed())


async def test_what_a_hub_forgot_when_it_died_is_found_when_nothing_can_come_any_more(
    store: Database, connection: Connection
) -> None:
    van = await Van.new(connection)
    trip = await a_trip(connection, van.number, BEGIN, BEGIN + 300_000)
    await van.drove(north(0, 1_000, 10), trip=trip)
    clock = SetClock((DAY + 1) * DAY_MS + HOUR_MS)
    await Summaries(store, clock, delay=600).work()
    await van.drove(north(101, 1_000, 10, start=1_000), trip=trip, server_time=clock.now + HOUR_MS)
    clock.now = (DAY + 8) * DAY_MS + HOUR_MS - 1
    await Summaries(store, clock, delay=600).work()
    assert len(await line_of(connection, trip)) == 101
    clock.now += 1
    await Summaries(store, clock, delay=600).work()
    assert len(await line_of(connection, trip)) == 202
    (day,) = await vehicle_days.stored(connection, van.number, DAY, DAY)
    assert day.positions == 202


async def test_a_day_is_looked_through_a_few_vehicles_at_a_time_and_gone_on_with_after_a_restart(
    store: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.history.summaries.SETTLE_SHARE", 0)
    vans = [await Van.new(connection, f"van-{number}") for number in range(3)]
    for van in vans:
        await van.drove(north(0, 1_000, 10))
    await Van.new(connection, "idle")
    clock = SetClock((DAY + 1) * DAY_MS + HOUR_MS)
    await Summaries(store, clock, delay=600).work()
    for van in vans:
        await van.drove(north(101, 1_000, 10, start=1_000), server_time=clock.now + HOUR_MS)
    clock.now = (DAY + 8) * DAY_MS + HOUR_MS
    found = []
    for _ in vans:
        await Summaries(store, clock, delay=600).work()
        found.append([(await vehicle_days.stored(connection, van.number, DAY, DAY))[0].positions for van in vans])
    assert found == [[202, 101, 101], [202, 202, 101], [202, 202, 202]]
    assert [day.settled for day in await position_days.partitions(connection)] == [True]


async def test_who_looks_through_a_day_reads_one_vehicle_alone(connection: Connection) -> None:
    vans = [await Van.new(connection, f"van-{number}") for number in range(10)]
    for van in vans:
        await van.drove(north(0, 5_000, 10))
    await connection.execute("ANALYZE positions")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    before = await rows_read(connection)
    assert await vehicle_days.vehicles_of_day(connection, DAY) == [van.number for van in vans]
    assert await vehicle_days.came_later(connection, vans[5].number, DAY) == (True, [])
    assert await rows_read(connection) - before <= 501 + len(vans)
    await connection.execute("RESET plan_cache_mode")


async def rows_read(connection: Connection) -> int:
    """Rows that this session's statements read from the day's table or its index."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    count: int = await connection.fetchval(
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = $1",
        f"positions_{date_of(DAY):%Y%m%d}",
    )
    return count
