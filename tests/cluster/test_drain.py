"""Rolling restarts: a hub that stops gives its clients to the others, some at a time, and nobody notices more than a close.

Row 54 for several hubs, and the rolling restart of real hubs. What a drain decides is tested with hubs in this process.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from tests.support.clients import Api
from tests.support.devices import Device, DeviceClock, until
from tests.support.several_hubs import SeveralHubs
from tests.support.watcher import Watcher

DRAIN = 2.0
VEHICLES = 60
WATCHERS_A_TRIP = 3
PERIOD = 0.5
"""Seconds between two fixes of a vehicle."""


@contextlib.asynccontextmanager
async def _clients(
    url: str, places: list[tuple[str, str]], rng: random.Random
) -> AsyncIterator[tuple[list[Device], list[Watcher]]]:
    """Connected drivers who report, and passengers who watch."""
    clock = DeviceClock(step=int(PERIOD * 1000))
    devices = [Device(url, vehicle_id, rng, clock=clock) for vehicle_id, _ in places]
    watchers = [
        Watcher(url, trip_id, pause=lambda: rng.uniform(0.05, 0.3)) for _, trip_id in places for _ in range(WATCHERS_A_TRIP)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for device in devices:
            await stack.enter_async_context(device.running())
        tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
        tasks.append(asyncio.create_task(_report(devices)))
        try:
            yield devices, watchers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _report(devices: list[Device]) -> None:
    while True:
        for device in devices:
            device.report()
            await asyncio.sleep(PERIOD / len(devices))


def _connected(devices: Iterable[Device], watchers: Iterable[Watcher]) -> bool:
    return all(d.client.connected.is_set() for d in devices) and all(w.connected.is_set() for w in watchers)


async def test_all_hubs_are_replaced_by_turns_and_nobody_is_cut_off(database_url: str, tmp_path: Path) -> None:
    rng = random.Random(37)
    settings = {"drain_seconds": str(DRAIN), "connections_per_address": "10000"}
    async with SeveralHubs(database_url, tmp_path, 3, settings).running() as hubs, hubs.proxy(rng) as wire:
        async with Api(hubs.urls[0]) as api:
            places = [await api.under_way() for _ in range(VEHICLES)]
        async with _clients(wire.url, places, rng) as (devices, watchers):
            await until(lambda: _connected(devices, watchers), "all are connected")
            for number in range(3):
                hubs.begin_to_stop(number)
                await hubs.ended(number)
                await until(lambda: _connected(devices, watchers), "all are back")
                await hubs.start(number)
                await hubs.joined()
            assert {code for device in devices for code in device.lost} == {1012}
            assert {code for watcher in watchers for code in watcher.lost} == {1012}
            assert all(device.lost for device in devices)
    assert hubs.tracebacks() == []
