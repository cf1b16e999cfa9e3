"""Jobs that two hubs do at once: the later one neither fails nor undoes what the other did."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.ingest.direct import nothing_is_stored
from tests.support.clients import Api, Driver, fix, now_ms
from tests.support.devices import until
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


async def test_a_hub_forgets_last_places_that_another_one_removed(database_url: str) -> None:
    async with hubs(database_url, count=1, retention_days=30, event_retention_days=30) as [one], Api(one.url) as api:
        van = await api.vehicle(await api.fleet())
        async with Driver(one.url, van) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
        live = one.service.hub.fleets.vehicles[van]
        live.feed.leave(live)
        await let_go(one.service)
        assert live.position is not None
        one.clock.ahead += 40 * DAY_MS
        await let_go(one.service)
        assert live.position is None


async def test_a_home_corrects_what_the_former_home_stored_before_it_knew_that_the_trip_was_over(
    two: Hubs, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former home stores the fix after the new one has loaded the vehicle, and before that one is its home."""
    former, home = two

    async def nothing() -> bool:
        await asyncio.Event().wait()
        return False

    async with Api(home.url) as api:
        van, trip_id = await api.under_way()
        async with Driver(former.url, van) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
            # The former home reads no change any more.
            monkeypatch.setattr(former.service.follower, "_read_on", nothing)
            former.service.follower.wake()
            await asyncio.sleep(0)
            await api.advance(trip_id, "canceled")
            async with nothing_is_stored(database_url):
                await driver.report(fix(2, fix_time=now_ms()))
                await until(lambda: bool(former.service.recorder.queue.group), "it is being stored")
                moving = asyncio.create_task(_hello(home.url, van, driver.session))
                await until(lambda: home.service.ingest_vehicles.get(van) is not None, "the new home has loaded it")
                await home.service.refiling.flush()
            await moving
    await home.service.refiling.flush()
    async with home.service.database.connection() as connection:
        rows = await connection.fetch("SELECT seq, trip IS NULL AS has_no_trip FROM positions ORDER BY seq")
    assert [tuple(row) for row in rows] == [(1, False), (2, True)]


async def _hello(url: str, van: str, session: str) -> None:
    async with Driver(url, van, session) as driver:
        await driver.report(fix(3, fix_time=now_ms() - 60_000))
        await driver.acknowledged(2)
