"""PostgreSQL is killed, stalled, or away for so long that the queue fills: the map goes on, acks stop, nothing is lost."""

import random

import asyncpg
import pytest

from tests.faults.conftest import MakeHub, Mortal, on_the_road, readiness, ready, settle, watching
from tests.faults.devices import STEP_MS, Device, until
from tests.faults.watcher import Watcher
from tests.hub_process import HubProcess


async def _shown(device: Device, watcher: Watcher, count: int) -> None:
    """Reports fixes and waits until the passenger sees the last of them."""
    before = watcher.newest
    device.report(count)
    await until(lambda: watcher.newest == before + count * STEP_MS, "the passenger sees the vehicle move")


@pytest.mark.parametrize("moment", ["in mid-transaction", "while fixes pour in"])
async def test_a_killed_database_takes_nothing_with_it(
    hubs: MakeHub, database: Mortal, rng: random.Random, moment: str
) -> None:
    hub = hubs(database_timeout="2")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(20)
        assert await ready(hub)
        if moment == "in mid-transaction":
            connection = await asyncpg.connect(database.url)
            await connection.execute("BEGIN; SELECT 1 FROM sessions FOR UPDATE")
            device.report(10)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'tracking'"
            await until(lambda: _is_one(database, waiting), "the hub's transaction waits for the row")
            await database.kill()
            connection.terminate()
        else:
            device.report(300)
            seen = rng.randint(20, 250)
            await until(lambda: device.acknowledged >= seen, f"{seen} are acknowledged")
            await database.kill()
        await until(lambda: watcher.newest > 0 and len(watcher.line.points) == device.outbox.last_seq, "all is shown")

        acknowledged = device.acknowledged
        await _shown(device, watcher, 10)
        status, reasons = await readiness(hub)
        assert status == 503
        assert "PostgreSQL is away" in reasons
        await _shown(device, watcher, 10)
        assert device.acknowledged == acknowledged, "acknowledged, with no database to store it"

        await database.start()
        await until(lambda: ready(hub), "the hub is ready again")
        await device.drained()
        await device.drive(10)
        assert device.client.connections == 1, "the driver's line was lost over it"
        await settle(database, [device], {trip_id: watcher})
    assert watcher.snapshots == 1


async def _is_one(database: Mortal, query: str) -> bool:
    return await database.fetchval(query) == 1


async def test_a_stalled_database_is_given_up_and_recovers(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(database_timeout="1")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(20)
        with database.stalled():
            await _shown(device, watcher, 10)
            status, reasons = await readiness(hub)
            assert status == 503
            assert reasons
            await until(lambda: _complains(hub), "the recorder gives a statement up", 10)
            await _shown(device, watcher, 10)
            assert device.acknowledged == 20, "acknowledged, with nothing that could have stored it"
        await until(lambda: ready(hub), "the hub is ready again")
        await device.drained(20)
        assert device.client.connections == 1
        await settle(database, [device], {trip_id: watcher})
    assert watcher.snapshots == 1


async def _complains(hub: HubProcess) -> bool:
    return "the recorder is not storing" in (await readiness(hub))[1]


async def test_a_full_queue_sends_drivers_away_and_keeps_its_word(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(queue_limit="50", database_timeout="1")
    places = await on_the_road(hub, 2)
    devices = [Device(hub.url, vehicle_id, rng) for vehicle_id, _ in places]
    watchers = {trip_id: Watcher(hub.url, trip_id) for _, trip_id in places}
    async with watching(*watchers.values()), devices[0].running(), devices[1].running():
        for watcher in watchers.values():
            await watcher.connected.wait()
        for device in devices:
            await device.drive(20)
        await database.kill()
        for device in devices:
            device.report(100)
        for device in devices:
            await until(lambda d=device: d.lost.count(4014) >= 2, f"4014: {device}")  # type: ignore[misc]
            assert set(device.lost) == {4014}
            assert device.acknowledged == 20
        status, reasons = await readiness(hub)
        assert status == 503
        assert "queue is full" in reasons

        await database.start()
        await until(lambda: ready(hub), "the hub is ready again")
        for device in devices:
            await device.drive(20)
        await settle(database, devices, watchers)
