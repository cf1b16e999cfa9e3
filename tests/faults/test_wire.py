"""Connections are cut, slowed, stalled and lose answers, also while the hub and the database die by turns: row 46."""

import asyncio
import contextlib
import random
from pathlib import Path

from tests.faults.conftest import MakeHub, Mortal, on_the_road, ready, restart, settle, watching
from tests.faults.over_wire import hub_over_wire
from tests.support.clients import Driver, Socket, fix, now_ms, token
from tests.support.devices import Device, until
from tests.support.ledger import Account, stored_line, wrongs
from tests.support.proxy import DOWN, UP, ChaosProxy
from tests.support.watcher import Watcher

POSITIONS = b"PGCOPY"
"""A hub says this to the database before the COMMIT of a group of positions, and before no other."""


async def test_everything_fails_by_turns(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(database_timeout="2")
    places = await on_the_road(hub, 3)
    async with contextlib.AsyncExitStack() as stack:
        wire = await stack.enter_async_context(ChaosProxy(("127.0.0.1", hub.port), rng=rng))
        wire.delay = (0.0, 0.004)
        devices = [Device(wire.url, vehicle_id, rng, late=0.1, bad=0.03, ping=2.0) for vehicle_id, _ in places]
        watchers = {trip_id: Watcher(wire.url, trip_id, ping_interval=2.0) for _, trip_id in places}
        await stack.enter_async_context(watching(*watchers.values()))
        for device in devices:
            await stack.enter_async_context(device.running())
        driving = [asyncio.create_task(device.drive(150)) for device in devices]

        async def cut_at_random() -> None:
            while True:
                moment = wire.chunks + rng.randint(40, 160)
                await until(lambda m=moment: wire.chunks >= m, "the wire is in use", 60)  # type: ignore[misc]
                wire.cut(0.4, reset=rng.random() < 0.5)

        cutting = asyncio.create_task(cut_at_random())
        for number in range(3):
            moment = len(devices) * 150 * (number + rng.random()) / 3.5
            await until(lambda m=moment: sum(d.acknowledged for d in devices) >= m, f"{moment:.0f} acknowledged")  # type: ignore[misc]
            if number in (0, 2):
                await database.kill()
            if number in (1, 2):
                await restart(hub)
            if number in (0, 2):
                wire.cut()
                await database.start()
            await until(lambda: ready(hub), "the hub is ready again")
        await asyncio.gather(*driving)
        cutting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cutting
        await settle(database, devices, watchers)
        assert all(device.client.connections >= 3 for device in devices)


async def test_a_lost_ack_is_no_second_row(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs()
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    async with ChaosProxy(("127.0.0.1", hub.port), rng=rng) as wire, watching(watcher):
        device = Device(wire.url, vehicle_id, rng)
        async with device.running():
            await device.drive(10)
            wire.swallow(DOWN)
            device.report(5)
            await until(lambda: _handled(database, device, 15), "the fixes are committed")
            assert device.acknowledged == 10
            wire.swallow()
            wire.cut()
            await device.drive(10)
            await settle(database, [device], {trip_id: watcher})


async def _handled(database: Mortal, device: Device, seq: int) -> bool:
    return await database.handled(device) == seq


async def _has_handled_more(database: Mortal, device: Device, seq: int) -> bool:
    return await database.handled(device) > seq


async def test_what_is_sent_again_is_acknowledged_again_and_stored_once(hubs: MakeHub, database: Mortal) -> None:
    """Devices send their backlog again, whatever the answer to hello said. One of them sends other content."""
    hub = hubs()
    places = await on_the_road(hub, 2)
    begin = now_ms()
    fixes = [fix(seq, fix_time=begin + seq * 100) for seq in range(1, 31)]
    sessions = []
    for vehicle_id, _ in places:
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(*fixes)
            await driver.acknowledged(30)
        sessions.append(driver.session)
    await restart(hub)
    for number, (vehicle_id, trip_id) in enumerate(places):
        async with Driver(hub.url, vehicle_id, sessions[number]) as driver:
            assert driver.handled == 30
            await driver.report(*({**fix, "fix_time": fix["fix_time"] + 7 * number} for fix in fixes))
            assert (await driver.expect("ack"))["seq"] == 30
            await driver.report(fix(31, fix_time=begin + 3_100))
            await driver.acknowledged(31)
        assert await wrongs(database.url, [Account(vehicle_id, driver.session, set(range(1, 32)), 31)]) == []
        assert [point[0] for point in await stored_line(database.url, trip_id)] == [begin + seq * 100 for seq in range(1, 32)]


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    hubs: MakeHub, database: Mortal, rng: random.Random, tmp_path: Path
) -> None:
    async with hub_over_wire(hubs, database, rng, tmp_path, database_timeout="1") as (hub, wire):
        [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
        watcher = Watcher(hub.url, trip_id)
        device = Device(hub.url, vehicle_id, rng)
        async with watching(watcher), device.running():
            await watcher.connected.wait()
            for _ in range(3):
                await device.drive(10)
                before = device.acknowledged
                wire.deaf_after, wire.deaf_at = POSITIONS, b"COMMIT"
                device.report(5)
                # On a busy machine the five may be stored as two groups. The second waits for the first one's answer.
                await until(lambda b=before: _has_handled_more(database, device, b), "fixes are committed")  # type: ignore[misc]
                assert device.acknowledged == before
                wire.swallow()
                wire.cut()
                await device.drained()
            await settle(database, [device], {trip_id: watcher})
        assert watcher.snapshots == 1


async def test_a_late_fix_whose_commit_was_not_answered_is_told_to_the_passenger(
    hubs: MakeHub, database: Mortal, rng: random.Random, tmp_path: Path
) -> None:
    async with hub_over_wire(hubs, database, rng, tmp_path, database_timeout="1") as (hub, wire):
        [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
        watcher = Watcher(hub.url, trip_id)
        device = Device(hub.url, vehicle_id, rng)
        async with watching(watcher), device.running():
            await watcher.connected.wait()
            device.hold()
            await device.drive(10)
            wire.deaf_after, wire.deaf_at = POSITIONS, b"COMMIT"
            device.release()
            await until(lambda: _handled(database, device, 11), "the late fix is committed")
            wire.swallow()
            wire.cut()
            await settle(database, [device], {trip_id: watcher}, seconds=3)


async def test_the_newer_connection_wins_however_long_the_older_took(
    hubs: MakeHub, database: Mortal, rng: random.Random, tmp_path: Path
) -> None:
    async with hub_over_wire(hubs, database, rng, tmp_path) as (hub, wire):
        [(vehicle_id, _)] = await on_the_road(hub, 1)
        wire.cut()
        await until(lambda: not wire.wires, "the hub's connections are gone")
        older = Socket(f"{hub.url}/v1/driver", token("driver", vehicle_id))
        async with older:
            await until(lambda: len(wire.wires) == 1, "the hub reads for the older connection")
            wire.stall()
            async with Driver(hub.url, vehicle_id) as newer:
                wire.flow()
                ends = {asyncio.create_task(older.closed()): "older", asyncio.create_task(newer.closed()): "newer"}
                done, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for task in others:
                    task.cancel()
                assert {ends[task]: task.result() for task in done} == {"older": 4409}


async def test_a_stalled_wire_is_noticed_and_replaced(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs()
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    async with ChaosProxy(("127.0.0.1", hub.port), rng=rng) as wire:
        device = Device(wire.url, vehicle_id, rng, ping=0.3)
        watcher = Watcher(wire.url, trip_id, ping_interval=0.3)
        async with watching(watcher), device.running():
            await watcher.connected.wait()
            await device.drive(10)
            for directions in ((UP,), (DOWN,), (UP, DOWN)):
                connections = device.client.connections
                wire.stall(*directions)
                device.report(10)
                await until(lambda c=connections: device.client.connections > c, "the device comes by another line")  # type: ignore[misc]
                await device.drained()
            await settle(database, [device], {trip_id: watcher})
            wire.flow()
        assert watcher.snapshots == 1, "the feed lost something that it was to keep"
        assert watcher.resumed > 0


async def test_a_passenger_who_comes_back_misses_nothing_and_sees_nothing_twice(
    hubs: MakeHub, database: Mortal, rng: random.Random
) -> None:
    hub = hubs()
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    async with ChaosProxy(("127.0.0.1", hub.port), rng=rng) as wire:
        watcher = Watcher(wire.url, trip_id, pause=lambda: rng.uniform(0, 0.05))
        device = Device(hub.url, vehicle_id, rng, late=0.15)
        async with watching(watcher), device.running():
            await watcher.connected.wait()
            for _ in range(8):
                seen = watcher.offset + rng.randint(5, 40)
                driving = asyncio.create_task(device.drive(60))
                await until(lambda s=seen: watcher.offset >= s, f"offset {seen}")  # type: ignore[misc]
                resumed = watcher.resumed
                wire.cut(reset=rng.random() < 0.5)
                await driving
                await until(lambda r=resumed: watcher.resumed > r, "the passenger comes back")  # type: ignore[misc]
            await settle(database, [device], {trip_id: watcher})
    assert watcher.snapshots == 1
    assert watcher.resumed == 8
    assert watcher.revisions > 0, "the line was never revised, though fixes came late"


async def test_a_passenger_away_for_too_long_is_told_so(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(feed_bytes="7000")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    async with ChaosProxy(("127.0.0.1", hub.port), rng=rng) as wire:
        watcher = Watcher(wire.url, trip_id)
        device = Device(hub.url, vehicle_id, rng, late=0.15)
        async with watching(watcher), device.running():
            await watcher.connected.wait()
            for away in (15, 60):
                await device.drive(10)
                wire.refusing = True
                wire.cut()
                await until(lambda: not watcher.connected.is_set(), "the passenger is cut off")
                await device.drive(away)
                wire.refusing = False
                await watcher.connected.wait()
                await settle(database, [device], {trip_id: watcher})
    assert watcher.snapshots == 2, "the first snapshot, and one for what could not be continued"
