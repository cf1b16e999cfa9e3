"""PostgreSQL fails over to a replica that lagged, while the hub runs. Some of what the hub remembers is lost there."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from tests.faults.conftest import MakeHub, Mortal, on_the_road, ready, settle, watching
from tests.support.clients import Api, Message
from tests.support.devices import PACE, Device, until
from tests.support.ledger import wrongs
from tests.support.watcher import Watcher

Answer = TypeVar("Answer")


async def test_what_is_acknowledged_after_the_store_went_back_is_in_it_and_in_its_own_track(
    hubs: MakeHub, database: Mortal, rng: random.Random
) -> None:
    hub = hubs()
    [(old, _), (other, _)] = await on_the_road(hub, 2)
    driver, before = Device(hub.url, old, rng), Device(hub.url, other, rng)
    async with driver.running(), Api(hub.url) as api:
        async with before.running():
            await asyncio.gather(driver.drive(20), before.drive(20))
        await database.copy()
        await until(lambda: ready(hub), "the hub is ready again")
        # The seconds that the replica does not have: more fixes, an app started anew, vehicles bought, trips begun.
        restarted = Device(hub.url, other, rng)
        bought = [Device(hub.url, vehicle, rng) for vehicle, _ in [await _under_way_too_fast(api) for _ in range(2)]]
        await api.call("DELETE", "/tokens/sent-out-in-those-seconds")
        async with contextlib.AsyncExitStack() as stack:
            for device in [restarted, *bought]:
                await stack.enter_async_context(device.running())
            await asyncio.gather(*(device.drive(20) for device in [driver, restarted, *bought]))
            [known] = await _events(api, bought[0])
            await database.go_back()
            _forget(driver, restarted)
            # Sent by apps that are connected still, or come back, to a hub that may not have noticed.
            await asyncio.gather(driver.drive(10), restarted.drive(25))
        # Numbers of what is gone are given out again.
        places = [await _insist(lambda: _under_way_too_fast(api)) for _ in range(3)]
        new = [Device(hub.url, vehicle, rng) for vehicle, _ in places]
        watchers = {trip: Watcher(hub.url, trip) for _, trip in places}
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(watching(*watchers.values()))
            for device in new:
                await stack.enter_async_context(device.running())
            await asyncio.gather(*(device.drive(20) for device in new))
            await settle(database, new, watchers)
            told = [event for device in new for event in await _events(api, device)]
            assert min(event["event_id"] for event in told) > known["event_id"], "a page takes them for what it knows"
        await settle(database, [driver])
        assert await wrongs(database.url, [before.account, restarted.account]) == []
        assert await _in_others_tracks(database, [before, driver, restarted, *new]) == 0
        # The vehicles bought are known to nobody any more, until they are bought again.
        assert await database.fetchval("SELECT count(*) FROM vehicles") == 2 + len(new)
        assert await database.fetchval("SELECT count(*) FROM revoked_tokens") == 1


async def test_a_store_that_went_back_is_noticed_though_nothing_is_written(
    hubs: MakeHub, database: Mortal, rng: random.Random
) -> None:
    hub = hubs()
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher, device = Watcher(hub.url, trip_id), Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(5)
        await database.copy()
        await until(lambda: ready(hub), "the hub is ready again")
        await device.drive(5)
        epoch = watcher.epoch
        await database.go_back()
        await until(lambda: device.lost == [1012], f"the driver is sent away: {device}")
        await until(lambda: watcher.epoch != epoch, "the passenger begins anew")
        await until(lambda: len(watcher.line.points) == 5, "what is lost is on no map")
        _forget(device)
        await device.drive(5)
        await settle(database, [device], {trip_id: watcher})


async def _under_way_too_fast(api: Api) -> tuple[str, str]:
    """`(vehicle_id, trip_id)` of a vehicle on a trip, in a fleet where its speed is an event."""
    vehicle_id, trip_id = await api.under_way()
    fleet_id = (await api.call("GET", f"/vehicles/{vehicle_id}"))["fleet_id"]
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Slow", "speed_limit": PACE / 2})
    return vehicle_id, trip_id


async def _events(api: Api, device: Device) -> list[Message]:
    """The events of the device's vehicle, as soon as there are any."""
    fleet_id = (await api.call("GET", f"/vehicles/{device.account.vehicle_id}"))["fleet_id"]
    found: list[Message] = []

    async def any_events() -> bool:
        found[:] = (await api.call("GET", f"/fleets/{fleet_id}/events"))["events"]
        return bool(found)

    await until(any_events, "it drives too fast, and nobody is told")
    return found


def _forget(*devices: Device) -> None:
    """Forgets what was acknowledged before the failover. The failover may lose it, and that is no error of the hub."""
    for device in devices:
        device.account.refused |= set(range(1, device.acknowledged + 1))


async def _insist(call: Callable[[], Awaitable[Answer]]) -> Answer:
    for _ in range(50):
        with contextlib.suppress(AssertionError):
            return await call()
        await asyncio.sleep(0.1)
    return await call()


async def _in_others_tracks(database: Mortal, devices: list[Device]) -> int:
    """Stored positions that devices of their vehicle did not send. Each device drives on its own longitude."""
    connection = await asyncpg.connect(database.url)
    try:
        rows = await connection.fetch(
            "SELECT v.vehicle_id, ST_X(p.point) AS longitude FROM positions p LEFT JOIN vehicles v USING (vehicle)"
        )
    finally:
        await connection.close()
    own = {(device.account.vehicle_id, device.longitude) for device in devices}
    return sum((row["vehicle_id"], row["longitude"]) not in own for row in rows)
