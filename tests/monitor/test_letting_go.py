"""Fleets leave memory when nobody needs them, and nothing is lost by it."""

from typing import Any

import pytest

from tests.support.clients import Api, Dispatcher, Driver, fix
from tests.support.devices import until
from tests.support.geofence_drives import INSIDE, OUTSIDE, listed, put_fence
from tests.support.hub_in_process import World, state_of
from tracking.model import Event, EventKind
from tracking.monitor import loader as module
from tracking.monitor.events import Emitted


class Yard:
    """A fleet with a yard, and a vehicle that drove into it."""

    def __init__(self, world: World, api: Api) -> None:
        self.world, self.api = world, api
        self.fleet_id = self.vehicle_id = ""

    async def enter(self) -> Driver:
        self.fleet_id = await self.api.fleet()
        await self.api.call("PUT", f"/fleets/{self.fleet_id}", {"name": "Yard", "idle_after": 1e6, "dwell_after": 1e6})
        self.vehicle_id = await self.api.vehicle(self.fleet_id)
        await put_fence(self.api, self.fleet_id)
        async with Driver(self.world.url, self.vehicle_id) as driver:
            now = self.world.clock()
            await driver.report(fix(1, fix_time=now - 60_000, **OUTSIDE), fix(2, fix_time=now, **INSIDE))
            await driver.acknowledged(2)
            await self.told("enter")
        await until(lambda: not self.world.service.hub.drivers, "the driver has gone")
        await self.world.service.latest.flush()
        return driver

    async def kinds(self) -> list[str]:
        return [event["kind"] for event in await listed(self.api, self.fleet_id)]

    async def told(self, *expected: str) -> None:
        async def are_told() -> bool:
            return await self.kinds() == list(expected)

        await until(are_told, f"{expected} are told")

    async def fall_silent(self) -> None:
        # In steps: a clock that jumps is one that was set.
        for _ in range(14):
            self.world.clock.ahead += 5_000
            self.world.service.monitor.look()
        await self.told("enter", "signal_lost")


@pytest.fixture
def yard(world: World, api: Api) -> Yard:
    return Yard(world, api)


async def test_a_fleet_that_was_let_go_is_loaded_anew_and_nothing_is_told_twice_or_missed(world: World, yard: Yard) -> None:
    driver = await yard.enter()
    await yard.fall_silent()
    hub_fleets, monitor, loader = world.service.hub.fleets, world.service.monitor, world.service.loader
    await loader.let_go()
    assert world.feed(yard.fleet_id) is not None
    world.clock.ahead += module.UNUSED_MS
    await loader.let_go()
    assert (world.feed(yard.fleet_id), hub_fleets.vehicles, hub_fleets.by_number) == (None, {}, {})
    assert (hub_fleets.holds(yard.fleet_id), monitor.fences.by_fleet, await monitor.listing(yard.fleet_id)) == (False, {}, None)
    for _ in range(10):
        world.clock.ahead += 10_000
        assert not await world.service.silences.sweep()
    async with Driver(world.url, yard.vehicle_id, driver.session) as driver:
        await driver.report(fix(3, fix_time=world.clock(), **OUTSIDE))
        await driver.acknowledged(3)
        await yard.told("enter", "signal_lost", "signal_back", "exit")
        live = hub_fleets.vehicles[yard.vehicle_id]
        assert not monitor.states[live].silent and monitor.states[live].inside == {}


async def test_a_fleet_is_kept_for_whoever_looks_drives_or_is_not_silent(world: World, yard: Yard) -> None:
    driver = await yard.enter()
    loader = world.service.loader

    async def is_kept() -> bool:
        world.clock.ahead += module.UNUSED_MS
        await loader.let_go()
        return world.feed(yard.fleet_id) is not None

    feed = world.feed(yard.fleet_id)
    assert feed is not None
    [live] = feed.vehicles
    # Not silent yet: it is to be told of.
    feed.used_at = 0
    await loader.let_go()
    assert world.feed(yard.fleet_id) is feed
    await yard.fall_silent()
    async with Dispatcher(world.url, yard.fleet_id):
        await until(lambda: bool(feed.queues), "somebody looks")
        assert await is_kept()
    await until(lambda: not feed.queues, "nobody looks")
    async with Driver(world.url, yard.vehicle_id, driver.session):
        await until(lambda: bool(world.service.hub.drivers), "somebody drives")
        assert await is_kept()
    await until(lambda: not world.service.hub.drivers, "nobody drives")
    world.service.events._group = [
        Emitted(feed, yard.fleet_id, live, live.number, Event(0, EventKind.IDLE, yard.vehicle_id, 0))
    ]
    assert await is_kept()
    world.service.events._group = []
    assert not await is_kept()


async def test_who_wants_a_fleet_that_is_being_let_go_finds_all_of_it(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 2)
    fleet_id = await api.fleet()
    names = {await api.vehicle(fleet_id) for _ in range(10)}
    await put_fence(api, fleet_id)
    loader, known = world.service.loader, world.service.hub.fleets
    await loader.load(fleet_id)
    expected = state_of(world.service, fleet_id)
    world.clock.ahead += module.UNUSED_MS
    let_go = known.let_go

    def let_go_and_want(live: Any) -> None:
        let_go(live)
        if len(known.vehicles) == 4:
            loader.want(fleet_id)

    monkeypatch.setattr(known, "let_go", let_go_and_want)
    await loader.let_go()
    assert 0 < len(known.vehicles) < 10
    assert await loader.load(fleet_id) is not None
    assert set(known.vehicles) == names
    assert state_of(world.service, fleet_id) == expected


async def test_a_vehicle_that_went_to_a_fleet_which_nobody_uses_is_let_go(world: World, api: Api) -> None:
    fleet_id, other = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    await world.service.loader.load(fleet_id)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": other})
    assert world.service.hub.fleets.vehicles[vehicle_id].feed is world.feed(other)
    await world.service.loader.let_go()
    assert world.service.hub.fleets.vehicles == {}
    assert world.feed(other) is None
    assert (await api.call("GET", f"/vehicles/{vehicle_id}"))["status"] == "lost"
