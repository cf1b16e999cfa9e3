"""Homes of real hubs: one stands still and wakes up, and one is killed."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.clients import Api, Driver, fix
from tests.support.devices import until
from tests.support.several_hubs import PEERS, SeveralHubs


@pytest.fixture
async def hubs(database_url: str, tmp_path: Path) -> AsyncIterator[SeveralHubs]:
    async with SeveralHubs(database_url, tmp_path, 2).running() as hubs:
        yield hubs


async def _vans(hubs: SeveralHubs, count: int) -> list[str]:
    async with Api(hubs.urls[0]) as api:
        fleet_id = await api.fleet()
        return [await api.vehicle(fleet_id) for _ in range(count)]


async def _stored(database_url: str, session: str) -> list[int]:
    connection = await asyncpg.connect(database_url)
    try:
        query = "SELECT seq FROM positions JOIN sessions USING (session) WHERE name = $1 ORDER BY seq"
        return [row["seq"] for row in await connection.fetch(query, session)]
    finally:
        await connection.close()


async def test_row_61_a_home_that_stood_still_and_wakes_commits_nothing_of_what_it_lost(
    hubs: SeveralHubs, database_url: str
) -> None:
    one, other = hubs.urls
    taken, gone_on, kept = await _vans(hubs, 3)
    async with Driver(one, taken) as replaced, Driver(one, gone_on) as moved, Driver(one, kept) as stayed:
        for driver in (replaced, moved, stayed):
            await driver.report(fix(1))
            await driver.acknowledged(1)
        hubs.pause(0)
        try:
            for driver in (replaced, moved, stayed):
                await driver.report(fix(2), fix(3))
            hubs.dead.add(0)  # only so that the other one alone is asked
            await until(lambda: _sees(hubs, 0), "the other hub takes it for dead")
            async with Driver(other, taken) as newer, Driver(other, gone_on, moved.session) as again:
                assert again.handled == 1
                for driver in (newer, again):
                    await driver.report(fix(2))
                    await driver.acknowledged(2)
        finally:
            hubs.resume(0)
            hubs.dead.discard(0)
        assert await replaced.closed() == 4409
        assert await moved.closed() == 1012
        # What it did not lose goes on at once.
        await stayed.acknowledged(3)
    assert await _stored(database_url, replaced.session) == [1]
    assert await _stored(database_url, moved.session) == [1, 2]
    assert await _stored(database_url, stayed.session) == [1, 2, 3]
    assert hubs.tracebacks() == []


async def _sees(hubs: SeveralHubs, others: int) -> bool:
    return await hubs.metric(PEERS) == [others]


async def test_row_44_the_vehicles_of_a_killed_home_go_on_elsewhere_at_once(hubs: SeveralHubs, database_url: str) -> None:
    one, other = hubs.urls
    vans = await _vans(hubs, 10)
    drivers = [Driver(one, van) for van in vans]
    for driver in drivers:
        await driver.__aenter__()
        await driver.report(*(fix(seq) for seq in range(1, 6)))
    # Some are being committed, and nobody has been told yet.
    await hubs.kill(0)
    assert await asyncio.gather(*(driver.closed() for driver in drivers)) == [1006] * len(drivers)

    async def go_on(van: str, session: str) -> None:
        async with Driver(other, van, session) as driver:
            await driver.report(*(fix(seq) for seq in range(driver.handled + 1, 8)))
            await driver.acknowledged(7)

    began = time.monotonic()
    await asyncio.gather(*(go_on(van, driver.session) for van, driver in zip(vans, drivers, strict=True)))
    # The other hub still takes it for alive, and waits for its answer: 0.2 s.
    assert time.monotonic() - began < 3
    for driver in drivers:
        assert await _stored(database_url, driver.session) == [1, 2, 3, 4, 5, 6, 7]
