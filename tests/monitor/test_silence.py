"""Silences of vehicles whose fleet is not in memory."""

import asyncio

import pytest

from tests.support.clients import Api, Driver, fix
from tests.support.devices import until
from tests.support.geofence_drives import listed
from tests.support.geofence_truth import Seen
from tests.support.hub_in_process import World, has_events
from tests.support.monitoring import position_of
from tracking.monitor import silence
from tracking.store import latest_positions, vehicles


class Parked:
    """Vehicles of unused fleets, last heard of some seconds ago."""

    def __init__(self, world: World, api: Api) -> None:
        self.world, self.api = world, api

    async def park(self, fleet_id: str, seconds: float) -> str:
        vehicle_id = await self.api.vehicle(fleet_id)
        heard = self.world.clock() - int(seconds * 1000)
        async with self.world.service.database.transaction() as connection:
            stored = await vehicles.get(connection, vehicle_id)
            assert stored is not None
            await latest_positions.move(
                connection, [position_of(Seen(vehicle_id, heard, 9.5, 47.1), heard, vehicle=stored.number)]
            )
        return vehicle_id

    async def sweep(self, seconds: int) -> None:
        for _ in range(seconds // 10):
            self.world.clock.ahead += 10_000
            await self.world.service.silences.sweep()

    async def silent(self, *fleet_ids: str) -> list[str]:
        told = [event for fleet_id in fleet_ids for event in await listed(self.api, fleet_id)]
        assert {event["kind"] for event in told} <= {"signal_lost"}
        return [event["vehicle_id"] for event in told]


@pytest.fixture
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sweeps except those of the test."""
    monkeypatch.setattr(silence.Silences, "run", lambda _: asyncio.Event().wait())


@pytest.fixture
async def parked(no_sweeps: None, world: World, api: Api) -> Parked:
    return Parked(world, api)


async def test_signal_lost_is_told_once_of_who_is_silent_though_nobody_looks(parked: Parked, world: World, api: Api) -> None:
    quick, slow = await api.fleet(), await api.fleet()
    await api.call("PUT", f"/fleets/{slow}", {"name": "Slow", "signal_lost_after": 120})
    silent, later = await parked.park(quick, 30), await parked.park(slow, 30)
    await parked.park(quick, world.service.settings.gone_after + 60)
    await world.service.silences.sweep()
    await parked.sweep(50)
    # They could not be heard of for so long yet.
    assert await parked.silent(quick, slow) == []
    await parked.sweep(20)
    assert await parked.silent(quick, slow) == [silent]
    await parked.sweep(80)
    assert await parked.silent(quick, slow) == [silent, later]
    assert world.service.hub.fleets.held == set()
    [event] = await listed(api, quick)
    assert (event["latitude"], event["longitude"]) == (47.1, 9.5)
    # Whoever looks now finds it silent, and the next position is its signal's coming back, once.
    await world.service.loader.load(quick)
    assert world.service.monitor.states[world.service.hub.fleets.vehicles[silent]].silent
    async with Driver(world.url, silent) as driver:
        await driver.report(fix(1, fix_time=world.clock()))
        await driver.acknowledged(1)
        await until(lambda: has_events(api, quick, 2), "the signal is back")
    assert [event["kind"] for event in await listed(api, quick)] == ["signal_lost", "signal_back"]


async def test_of_a_fleet_in_memory_the_watch_tells_and_the_sweep_does_not(parked: Parked, world: World, api: Api) -> None:
    held, other = await api.fleet(), await api.fleet()
    in_memory, silent = await parked.park(held, 30), await parked.park(other, 30)
    await world.service.loader.load(held)
    live = world.service.hub.fleets.vehicles[in_memory]
    await parked.sweep(40)
    world.service.monitor.states[live].heard = world.clock()
    await parked.sweep(40)
    assert await parked.silent(other) == [silent]
    assert not world.service.monitor.states[live].silent


async def test_two_hubs_that_sweep_at_once_tell_of_each_once(parked: Parked, world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    names = [await parked.park(fleet_id, 100) for _ in range(20)]
    async with world.another() as other:
        for one in (world.service, other):
            one.silences._could_hear_since = one.silences._swept = world.clock()
            one.silences._could_hear_since -= 100_000
        found = await asyncio.gather(*(one.silences.sweep() for one in (world.service, other, world.service)))
    assert found == [False] * 3
    assert sorted(await parked.silent(fleet_id)) == sorted(names)


async def test_many_are_told_of_in_parts(parked: Parked, world: World, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "MOST", 2)
    fleet_id = await api.fleet()
    for _ in range(5):
        await parked.park(fleet_id, 100)
    swept = world.service.silences
    swept._could_hear_since, swept._swept = world.clock() - 100_000, world.clock()
    counts = []
    for more in (True, True, False, False):
        assert await swept.sweep() is more
        counts.append(len(await parked.silent(fleet_id)))
    assert counts == [2, 4, 5, 5]


async def test_a_fleet_that_is_loaded_during_a_sweep_finds_what_that_told(parked: Parked, world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    silent = await parked.park(fleet_id, 100)
    swept = world.service.silences
    swept._could_hear_since, swept._swept = world.clock() - 100_000, world.clock()
    # A row lock keeps the sweep in its transaction.
    async with world.service.housekeeping.transaction() as connection:
        await connection.execute("SELECT FROM vehicles FOR UPDATE")
        sweeping = asyncio.create_task(swept.sweep())
        await until(lambda: swept.sweeping.locked(), "the sweep is under way")
        loading = asyncio.create_task(world.service.loader.load(fleet_id))
        await until(lambda: world.service.hub.fleets.holds(fleet_id), "the fleet is wanted")
    await asyncio.gather(sweeping, loading)
    assert await parked.silent(fleet_id) == [silent]
    assert world.service.monitor.states[world.service.hub.fleets.vehicles[silent]].silent


async def test_while_nobody_could_be_heard_nobody_falls_silent(parked: Parked, world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    silent = await parked.park(fleet_id, 30)
    await parked.sweep(50)
    # As after a stop of the process, or while the database was away.
    world.clock.ahead += silence.PAUSE_MS
    await world.service.silences.sweep()
    await parked.sweep(50)
    assert await parked.silent(fleet_id) == []
    await parked.sweep(20)
    assert await parked.silent(fleet_id) == [silent]
