"""The hub dies, by SIGKILL or by SIGTERM, while vehicles report and passengers watch: rows 44 and 54."""

import asyncio
import contextlib
import random
from pathlib import Path

import asyncpg

from driver_sim.close_codes import ABNORMAL_CLOSURE
from driver_sim.store import SqliteStore
from tests.faults.conftest import MakeHub, Mortal, on_the_road, restart, settle, watching
from tests.support.devices import Device, until
from tests.support.ledger import wrongs
from tests.support.watcher import Watcher

KILLS = 3
FIXES = 200


async def test_a_hub_killed_at_any_moment_and_at_last_stopped_loses_nothing(
    hubs: MakeHub, database: Mortal, rng: random.Random, tmp_path: Path
) -> None:
    hub = hubs()
    places = await on_the_road(hub, 4)
    store = SqliteStore(tmp_path / "outboxes.sqlite")
    devices = [
        Device(hub.url, vehicle_id, rng, late=0.1, bad=0.03, outbox=store.outbox(vehicle_id) if number == 0 else None)
        for number, (vehicle_id, _) in enumerate(places)
    ]
    watchers = {trip_id: Watcher(hub.url, trip_id) for _, trip_id in places}
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(watching(*watchers.values()))
        for device in devices:
            await stack.enter_async_context(device.running())
        driving = [asyncio.create_task(device.drive(FIXES)) for device in devices]
        share = len(devices) * FIXES * 0.8 / KILLS
        for kill in range(KILLS):
            moment = rng.uniform(kill * share, (kill + 1) * share)
            await until(lambda m=moment: sum(d.acknowledged for d in devices) >= m, f"{moment:.0f} acknowledged")  # type: ignore[misc]
            if kill < KILLS - 1:
                await restart(hub)
                continue
            await asyncio.to_thread(hub.stop)
            assert all(device.lost[-1] in (1012, ABNORMAL_CLOSURE) for device in devices)
            assert any(1012 in device.lost for device in devices)
            assert await wrongs(database.url, [device.account for device in devices], settled=False) == []
            await asyncio.to_thread(hub.start)
        await asyncio.gather(*driving)
        await settle(database, devices, watchers)
    store.close()
    for device in devices:
        # One a life, but for a life that was over before the device was back.
        assert 2 <= device.client.connections <= KILLS + 1
        assert set(device.rejected.values()) <= {"out_of_range"}
    for watcher in watchers.values():
        # Each life of the hub is another epoch, told by a snapshot; nothing was resumed across it.
        assert 2 <= watcher.snapshots <= KILLS + 1


async def test_the_app_dies_with_the_hub_and_both_come_back(
    hubs: MakeHub, database: Mortal, rng: random.Random, tmp_path: Path
) -> None:
    hub = hubs()
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    store = SqliteStore(tmp_path / "outbox.sqlite")
    device = Device(hub.url, vehicle_id, rng, outbox=store.outbox(vehicle_id), late=0.1)
    async with watching(watcher):
        async with device.running():
            await device.drive(30)
            device.report(100)
            await until(lambda: device.acknowledged > 31, "some of the backlog is acknowledged")
            await asyncio.to_thread(hub.kill)
        store.close()
        store = SqliteStore(tmp_path / "outbox.sqlite")
        device.restart(store.outbox(vehicle_id))
        await asyncio.to_thread(hub.start)
        async with device.running():
            await device.drive(30)
            await settle(database, [device], {trip_id: watcher})
    store.close()


async def test_sigterm_says_1012_and_stores_what_was_taken(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs()
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await device.drive(10)
        await watcher.connected.wait()
        connection = await asyncpg.connect(database.url)
        async with connection.transaction():
            # The session's row is held, so that the commit waits, and the signal comes in the middle of it.
            await connection.execute("SELECT 1 FROM sessions FOR UPDATE")
            device.report(20)
            await until(lambda: len(watcher.line.points) == 30, "the passenger sees what is not committed yet")
            assert device.acknowledged == 10
            stopping = asyncio.create_task(asyncio.to_thread(hub.stop))
            await until(lambda: 1012 in device.lost, "the driver is told 1012")
        await connection.close()
        await stopping
        assert await wrongs(database.url, [device.account], settled=False) == []
        assert await database.handled(device) == 30, "what was taken was not flushed"
        await asyncio.to_thread(hub.start)
        await device.drive(10)
        await settle(database, [device], {trip_id: watcher})
