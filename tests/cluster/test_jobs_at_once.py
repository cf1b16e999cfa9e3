"""Jobs that two hubs do at once: the later one neither fails nor undoes what the other did."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.clients import Api, Driver, fix, now_ms
from tests.support.hubs_in_process import Hubs, hubs
from tracking.life import let_go
from tracking.store import events, position_days, positions, trip_summaries, vehicle_days
from tracking.store.days import DAY_MS
from tracking.store.pool import Connection


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[Hubs]:
    async with hubs(database_url, commit_interval=0) as made:
        yield made


async def test_two_hubs_that_drop_a_day_at_once_drop_it_once(two: Hubs) -> None:
    day = now_ms() // DAY_MS - 40
    async with two[0].service.database.transaction() as connection:
        await positions.ensure_partition(connection, day)

    async def drop(number: int) -> None:
        async with two[number].service.housekeeping.connection() as connection:
            await position_days.drop(connection, found)

    async with two[0].service.database.connection() as connection:
        found = next(one for one in await position_days.partitions(connection) if one.day == day)
    await asyncio.gather(drop(0), drop(1))
    await drop(0)
    async with two[0].service.database.connection() as connection:
        assert day not in [one.day for one in await position_days.partitions(connection)]


async def test_a_summary_of_what_was_read_earlier_is_not_written_later(two: Hubs) -> None:
    """One hub sums up while another is still doing so: the second one waits, and reads what came meanwhile."""
    one, other = two
    async with Api(one.url) as api:
        van, _ = await api.under_way()
        async with Driver(one.url, van) as driver:
            await driver.report(fix(1), fix(2, latitude=47.142))
            await driver.acknowledged(2)
    vehicle = one.service.ingest_vehicles.get(van)
    assert vehicle is not None and vehicle.trip is not None
    trip, number, day = vehicle.trip.number, vehicle.number, now_ms() // DAY_MS

    async def compact(connection: Connection) -> None:
        await trip_summaries.compact_trip(connection, trip, now_ms())

    async def sum_up(connection: Connection) -> None:
        await vehicle_days.sum_up_day(connection, number, day, now_ms())

    async def uncompact(connection: Connection) -> None:
        await trip_summaries.uncompact(connection, [trip])

    for first, second in ((compact, compact), (compact, uncompact), (sum_up, sum_up)):
        async with other.service.housekeeping.transaction() as later:
            async with one.service.housekeeping.transaction() as connection:
                await first(connection)
                waiting = asyncio.create_task(second(later))
                assert await asyncio.wait({waiting}, timeout=0.1) == (set(), {waiting})
            await waiting


async def test_ids_of_events_never_go_back_for_another_hub(two: Hubs) -> None:
    """After the database went back, two hubs skip the ids that they have sent: 100 and 90."""
    async with two[0].service.database.transaction() as connection, two[1].service.database.transaction() as other:
        high = await events.reserve(connection, 2, after=100)
        low = await events.reserve(other, 2, after=90)
        again = await events.reserve(connection, 2, after=high[-1])
    assert high[0] > 100 and low[0] > high[-1] and again[0] > low[-1]


async def test_a_hub_forgets_revoked_tokens_that_another_one_removed(two: Hubs) -> None:
    one, other = two
    async with Api(one.url) as api:
        jti = "jti-of-another-issuer"
        await api.call("DELETE", f"/tokens/{jti}", expect=204)
        assert jti in (one.service.auth.revoked or ())
        async with other.service.database.transaction() as connection:
            await connection.execute("DELETE FROM revoked_tokens WHERE jti = $1", jti)
        await api.call("DELETE", "/tokens/kept", expect=204)
    await let_go(one.service)
    assert one.service.auth.revoked == {"kept"}
