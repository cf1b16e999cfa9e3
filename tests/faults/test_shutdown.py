"""A hub that stops takes every step of its shutdown, even if another fails, and ends."""

import asyncio
import random
import re
import time

import asyncpg

from tests.faults.conftest import MakeHub, Mortal
from tests.support.clients import Api, Driver, fix
from tests.support.devices import until
from tests.support.geofence_drives import INSIDE, OUTSIDE, hour_ago, put_fence, quiet_fleet
from tests.support.hub_process import HubProcess

STEPS = {
    "storing the fixes",
    "storing the events",
    "writing the latest positions",
    "writing the audit",
    "ending the tasks",
    "closing a pool",
}
STOPS = 2
NEWEST = "SELECT extract(epoch FROM max(fix_time)) * 1000 FROM latest_positions"


def _ended(hub: HubProcess) -> dict[str, str]:
    """The steps of the shutdown in the log, and how each ended."""
    took = re.findall(r"going down: ([a-z ]+) (took|failed|was cancelled)", hub.log.read_text())
    given_up = re.findall(r"going down: (gave up) ([a-z ]+):", hub.log.read_text())
    return dict(took) | {step: how for how, step in given_up}


async def _places(api: Api) -> tuple[str, str]:
    """A fleet with a fence, and a vehicle."""
    fleet_id = await quiet_fleet(api)
    await put_fence(api, fleet_id)
    return fleet_id, await api.vehicle(fleet_id)


async def _is(database: Mortal, query: str, value: object) -> bool:
    return await database.fetchval(query) == value


async def _kinds(database: Mortal) -> object:
    return await database.fetchval("SELECT string_agg(kind, ' ' ORDER BY event) FROM events")


async def test_who_flushes_beside_another_does_not_end_the_shutdown(hubs: MakeHub, database: Mortal) -> None:
    hub = hubs(latest_interval="0.02")
    async with Api(hub.url) as api:
        _, vehicle_id = await _places(api)
    begin = hour_ago()
    places, events = await asyncpg.connect(database.url), await asyncpg.connect(database.url)
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1, fix_time=begin, **OUTSIDE))
        await driver.acknowledged(1)
        async with events.transaction():
            await events.execute("LOCK TABLE events IN EXCLUSIVE MODE")
            async with places.transaction():
                # The hub's own writing of them hangs when the one begins that is a part of going down.
                await places.execute("LOCK TABLE latest_positions IN EXCLUSIVE MODE")
                await driver.report(fix(2, fix_time=begin + 60_000, **INSIDE))
                await driver.acknowledged(2)
                stopping = asyncio.create_task(asyncio.to_thread(hub.stop))
                await until(lambda: "Waiting for application shutdown" in hub.log.read_text(), "the hub goes down")
            await until(lambda: _is(database, NEWEST, begin + 60_000), "the latest position is written")
        await stopping
    await places.close()
    await events.close()
    assert await _kinds(database) == "enter"
    assert _ended(hub) == dict.fromkeys(STEPS, "took")


async def test_each_stop_while_positions_flow_leaves_the_newest_and_all_events(
    hubs: MakeHub, database: Mortal, rng: random.Random
) -> None:
    hub = hubs(latest_interval="0.01", commit_interval="0.01")
    async with Api(hub.url) as api:
        _, vehicle_id = await _places(api)
    begin, seq, told = hour_ago(), 0, []
    for stop in range(STOPS):
        if stop:
            await asyncio.to_thread(hub.start)
        async with Driver(hub.url, vehicle_id) as driver:
            for inside in (False, True, False, True):
                seq += 1
                await driver.report(fix(seq, fix_time=begin + seq * 60_000, **(INSIDE if inside else OUTSIDE)))
                told += ["enter" if inside else "exit"] if seq > 1 else []
            await driver.acknowledged(seq)
            await asyncio.sleep(rng.random() * 0.02)
            await asyncio.to_thread(hub.stop)
        assert await database.fetchval(NEWEST) == begin + seq * 60_000
        assert await _kinds(database) == " ".join(told)


async def test_a_hub_ends_though_its_database_does_not_answer(hubs: MakeHub, database: Mortal) -> None:
    hub = hubs(stop_timeout="0.5", latest_interval="0.02")
    async with Api(hub.url) as api:
        _, vehicle_id = await _places(api)
    begin = hour_ago()
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1, fix_time=begin, **OUTSIDE))
        await driver.acknowledged(1)
        with database.stalled():
            await driver.report(fix(2, fix_time=begin + 60_000, **INSIDE))
            began = time.monotonic()
            await asyncio.to_thread(hub.stop)
            took = time.monotonic() - began
    ended = _ended(hub)
    assert ended.keys() == STEPS
    assert ended["storing the fixes"] == ended["storing the events"] == "gave up"
    assert took < 12
