"""Two real hubs on one database: the faults that one hub survives, and those of the broker.

Rows 45, 47, 48, 54, 64 and 67. Two more tests are about returns and restarts by turns, with few clients.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import httpx
import pytest

from driver_sim.bench.clients import Client, DriverClient, WatcherClient, connect
from tests.faults.conftest import Mortal, database, mortal_cluster, on_the_road, readiness, ready, rng, settle, watching
from tests.support.clients import PLAIN, now_ms, token
from tests.support.devices import STEP_MS, Device, until
from tests.support.hub_process import HubProcess, wait_until
from tests.support.machine import alone
from tests.support.several_hubs import SeveralHubs
from tests.support.watcher import Watcher

__all__ = ["database", "mortal_cluster", "rng"]

MakeHubs = Callable[..., contextlib.AbstractAsyncContextManager[SeveralHubs]]


@pytest.fixture
def two_hubs(database: Mortal, tmp_path: Path) -> MakeHubs:
    """Two hubs that see each other. Settings are keywords. Their logs must have no traceback in the end."""

    @contextlib.asynccontextmanager
    async def make(**settings: str) -> AsyncIterator[SeveralHubs]:
        async with SeveralHubs(database.url, tmp_path, 2, settings).running() as hubs:
            yield hubs
        assert hubs.tracebacks() == []

    return make


async def _shown(device: Device, watcher: Watcher, count: int) -> None:
    """Reports fixes and waits until the passenger sees the last of them."""
    before = watcher.newest
    device.report(count)
    await until(lambda: watcher.newest == before + count * STEP_MS, "the passenger sees the vehicle move")


@contextlib.asynccontextmanager
async def _reporting(*devices: Device) -> AsyncIterator[None]:
    """Each device reports in the pace of its clock."""

    async def report() -> None:
        begin, count = time.monotonic(), 0
        while True:
            for _ in range(int((time.monotonic() - begin) * 1000 / STEP_MS) - count):
                count += 1
                for device in devices:
                    device.report()
            await asyncio.sleep(0.01)

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("fault", ["killed", "stalled"])
async def test_the_map_goes_on_across_hubs_without_the_database(
    two_hubs: MakeHubs, database: Mortal, rng: random.Random, fault: str
) -> None:
    async with two_hubs(database_timeout="1") as hubs:
        [(vehicle_id, trip_id)] = await on_the_road(hubs.hubs[0], 1)
        device, watcher = Device(hubs.urls[0], vehicle_id, rng), Watcher(hubs.urls[1], trip_id)
        async with watching(watcher), device.running():
            await watcher.connected.wait()
            await device.drive(20)
            await until(lambda: len(watcher.line.points) == 20, "all is shown on the other hub")
            async with _without(database, fault):
                await _shown(device, watcher, 10)
                for hub in hubs.hubs:
                    await until(lambda h=hub: _unready(h), "the hub says that the database is away", 10)  # type: ignore[misc]
                await _shown(device, watcher, 10)
                assert device.acknowledged == 20, "acknowledged, with nothing that could have stored it"
            for hub in hubs.hubs:
                await until(lambda h=hub: ready(h), "the hub is ready again")  # type: ignore[misc]
            await device.drained()
            await device.drive(10)
            assert device.client.connections == 1, "the driver's line was lost over it"
            await settle(database, [device], {trip_id: watcher})
        assert watcher.snapshots == 1


@contextlib.asynccontextmanager
async def _without(database: Mortal, fault: str) -> AsyncIterator[None]:
    if fault == "stalled":
        with database.stalled():
            yield
        return
    await database.kill()
    yield
    await database.start()


async def _unready(hub: HubProcess) -> bool:
    return (await readiness(hub))[0] == 503


async def test_row_54_a_hub_that_stops_gives_its_clients_to_the_other(
    two_hubs: MakeHubs, database: Mortal, rng: random.Random
) -> None:
    async with two_hubs() as hubs, hubs.proxy(rng) as wire:
        places = await on_the_road(hubs.hubs[0], 4)
        devices = [Device(wire.url, vehicle_id, rng) for vehicle_id, _ in places]
        watchers = {trip_id: Watcher(wire.url, trip_id) for _, trip_id in places}
        async with watching(*watchers.values()), contextlib.AsyncExitStack() as stack:
            for device in devices:
                await stack.enter_async_context(device.running())
            async with _reporting(*devices):
                for device in devices:
                    await until(lambda d=device: d.acknowledged >= 10, "the devices report")  # type: ignore[misc]
                await hubs.stop(0)
                seen = {device: device.acknowledged for device in devices}
                for device in devices:
                    await until(lambda d=device: d.acknowledged >= seen[d] + 30, "the other hub acknowledges")  # type: ignore[misc]
            assert {code for device in devices for code in device.lost} == {1012}
            assert sum(device.client.connections for device in devices) > len(devices)
            await settle(database, devices, watchers)


async def test_hundreds_who_come_at_once_are_served_by_the_other_hub(two_hubs: MakeHubs) -> None:
    async with two_hubs(connections_per_address="10000") as hubs:
        places = [place for part in await asyncio.gather(*(on_the_road(hubs.hubs[0], 10) for _ in range(5))) for place in part]

        def clients() -> tuple[list[DriverClient], list[Client]]:
            drivers = [DriverClient(token("driver", vehicle_id), str(uuid.uuid4()), tick=1.0) for vehicle_id, _ in places]
            watchers: list[Client] = [WatcherClient(trip, token("passenger", trip)) for _ in range(7) for _, trip in places]
            return drivers, watchers

        drivers, watchers = clients()
        await connect([*drivers, *watchers], hubs.hubs[0].port)
        await hubs.kill(0)
        drivers, watchers = clients()
        began = time.monotonic()
        await connect([*drivers, *watchers], hubs.hubs[1].port, at_once=len(drivers) + len(watchers))
        assert time.monotonic() - began < 10
        for driver in drivers:
            driver.report()
        await until(lambda: all(driver.acknowledged == 1 for driver in drivers), "each fix is acknowledged")
        await until(lambda: all(isinstance(w, WatcherClient) and w.delivered for w in watchers), "each passenger sees it")
        for client in (*drivers, *watchers):
            client.close()


async def test_row_64_without_the_broker_acks_go_on_and_readers_elsewhere_are_three_seconds_behind(
    two_hubs: MakeHubs, database: Mortal, rng: random.Random
) -> None:
    async with alone(), two_hubs() as hubs:
        places = await on_the_road(hubs.hubs[0], 2)
        devices = [Device(url, vehicle_id, rng) for url, (vehicle_id, _) in zip(hubs.urls, places, strict=True)]
        watchers = {trip: Watcher(url, trip) for url, (_, trip) in zip(reversed(hubs.urls), places, strict=True)}
        async with watching(*watchers.values()), devices[0].running(), devices[1].running():
            async with _reporting(*devices):
                for watcher in watchers.values():
                    await until(lambda w=watcher: _behind(w) < 0.5, "the passenger sees the vehicle as it drives")  # type: ignore[misc]
                await hubs.kill_broker()
                acknowledged = [device.acknowledged for device in devices]
                most, end = 0.0, time.monotonic() + 5
                while time.monotonic() < end:
                    most = max(most, *(_behind(watcher) for watcher in watchers.values()))
                    await asyncio.sleep(0.02)
                assert most <= 3.0
                for device, before in zip(devices, acknowledged, strict=True):
                    assert device.acknowledged >= before + 75
                for hub in hubs.hubs:
                    status, reasons = await _degraded(hub)
                    assert status == 200
                    assert "broker" in reasons
                await hubs.start_broker()
                await hubs.joined()
                for watcher in watchers.values():
                    await until(lambda w=watcher: _behind(w) < 0.5, "the passenger sees the vehicle as it drives again")  # type: ignore[misc]
            await settle(database, devices, watchers)
        assert {device.client.connections for device in devices} == {1}, "a driver's line was lost over it"


def _behind(watcher: Watcher) -> float:
    """Seconds from the newest fix that the passenger sees until now."""
    return now_ms() / 1000 - watcher.newest / 1000


async def _degraded(hub: HubProcess) -> tuple[int, str]:
    async with httpx.AsyncClient(timeout=10, verify=PLAIN) as http:
        response = await http.get(f"{hub.url}/readyz")
    return response.status_code, "; ".join(response.json().get("degraded", []))


async def test_hubs_that_restart_by_turns_lose_nothing(two_hubs: MakeHubs, database: Mortal, rng: random.Random) -> None:
    async with two_hubs() as hubs, hubs.proxy(rng) as wire:
        places = await on_the_road(hubs.hubs[0], 6)
        devices = [Device(wire.url, vehicle_id, rng) for vehicle_id, _ in places]
        watchers = {trip_id: Watcher(wire.url, trip_id) for _, trip_id in places}
        async with watching(*watchers.values()), contextlib.AsyncExitStack() as stack:
            for device in devices:
                await stack.enter_async_context(device.running())
            async with _reporting(*devices):
                for number in (0, 1):
                    await until(lambda: _all_connected(devices, watchers), "all are connected")
                    await hubs.stop(number)
                    await until(lambda: _all_connected(devices, watchers), "all are back on the other hub", 25)
                    await hubs.start(number)
                    await hubs.joined()
            assert {code for device in devices for code in device.lost} == {1012}
            await settle(database, devices, watchers)


def _all_connected(devices: list[Device], watchers: dict[str, Watcher]) -> bool:
    return all(device.client.connected.is_set() for device in devices) and all(w.connected.is_set() for w in watchers.values())


SHORTER_LEASES = """
    CREATE FUNCTION seen_earlier() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.seen_at := NEW.seen_at - interval '5 s'; RETURN NEW; END $$;
    CREATE TRIGGER seen_earlier BEFORE UPDATE ON nodes FOR EACH ROW EXECUTE FUNCTION seen_earlier();
    UPDATE nodes SET seen_at = seen_at;
"""
"""Leases have 5 s left after each beat, and not 10."""


async def test_row_67_a_second_hub_without_the_broker_is_refused_with_the_reason(
    two_hubs: MakeHubs, database: Mortal, tmp_path: Path
) -> None:
    async with two_hubs() as hubs:
        connection = await asyncpg.connect(database.url)
        await connection.execute(SHORTER_LEASES)
        await connection.close()
        second = HubProcess(database.url, tmp_path / "second.log")
        process = second.begin()
        try:
            await asyncio.to_thread(wait_until, lambda: process.poll() is not None, "the second hub ends")
        finally:
            second.kill()
        assert process.poll() not in (0, None)
        log = second.log.read_text()
        assert "TRACKING_NATS_URL" in log
        assert "Traceback" not in log
        assert await ready(hubs.hubs[0])
