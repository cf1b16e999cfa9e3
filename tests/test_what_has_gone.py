"""What is over is forgotten: memory keeps nothing of past trips, sessions, links, tokens and connections."""

import asyncio
import gc
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from types import FunctionType, ModuleType
from typing import Any

import asyncpg
import pytest

from tests.support.clients import Api, Driver, Passenger, Socket, fix, new_id, now_ms, token
from tests.support.clocks import ShiftedClock
from tests.support.devices import until
from tests.support.hub_process import SECRET
from tests.support.serving import Served, serving
from tracking.app import create_app
from tracking.config import load
from tracking.ingest.vehicles import MAX_SPANS, TRIP_UNKNOWN
from tracking.life import _read_revoked, _until_stored, let_go
from tracking.live.hub import STEPS
from tracking.service import Service
from tracking.store.days import DAY_MS
from tracking.store.pool import Database

ROUND = 5
"""Trips of a round, and vehicles that are removed in it."""
_ROOM: tuple[type, ...] = (Database, asyncio.AbstractEventLoop, asyncio.Task, type, ModuleType, FunctionType)
"""What is not searched: it belongs to others, or is the program itself."""


class World:
    """A hub in this process, and what it holds."""

    def __init__(self, service: Service, served: Served, clock: ShiftedClock) -> None:
        self.service = service
        self.url = served.url
        self._served = served
        self.clock = clock

    def connections(self) -> int:
        return self._served.connections

    def _reached(self) -> Iterator[Any]:
        waiting: deque[Any] = deque([self.service])
        seen = {id(self.service)}
        while waiting:
            found = waiting.popleft()
            yield found
            for other in gc.get_referents(found):
                if id(other) not in seen and not isinstance(other, _ROOM):
                    seen.add(id(other))
                    waiting.append(other)

    def census(self) -> Counter[str]:
        """How many objects of each type the service holds, what its collections hold, and how many of our types are alive."""
        gc.collect()
        counts: Counter[str] = Counter()
        for found in self._reached():
            # Numbers are in something that is counted. Whether equal ones are the same object is chance: it differs by 5.
            if not isinstance(found, int | float):
                counts[f"held: {type(found).__name__}"] += 1
            if isinstance(found, dict | list | set | deque):
                counts[f"in: {type(found).__name__}"] += len(found)
        for living in gc.get_objects():
            if str(type(living).__module__).startswith("tracking."):
                counts[f"alive: {type(living).__name__}"] += 1
        return counts


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    clock = ShiftedClock()
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, ack_interval=0, change_feed_bytes=1), clock=clock)
    async with serving(app, lifespan="on") as served:
        yield World(app.state.service, served, clock)


async def _trip(api: Api, world: World, vehicle_id: str, fleet_id: str) -> str:
    """A trip from its making to its end, with a link that is revoked, messages, and a device of its own. Returns its id."""
    trip_id: str = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    share = await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 3600})
    issued = await api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id})
    async with Driver(world.url, vehicle_id, bearer=issued["token"]) as driver:
        await _advance(driver, trip_id, "enroute_to_pickup")
        async with Passenger(world.url, trip_id, share["token"]) as passenger:
            await passenger.expect("snapshot")
            await driver.report(fix(1, fix_time=world.clock()))
            await passenger.expect("position")
            await passenger.send({"type": "message", "text": "Hello", "client_id": new_id("message")})
            await driver.expect("message")
            await driver.report(fix(2, fix_time=world.clock(), latitude=95))
            await driver.acknowledged(2)
            await api.call("DELETE", f"/shares/{share['share_id']}")
            assert await passenger.closed() == 4503
        await _advance(driver, trip_id, "arrived_at_pickup", "enroute_to_dropoff", "complete")
        await api.call("DELETE", f"/tokens/{issued['jti']}")
        assert await driver.closed() == 4503
    return trip_id


async def _advance(driver: Socket, trip_id: str, *statuses: str) -> None:
    for status in statuses:
        await driver.send({"type": "trip_status", "trip_id": trip_id, "status": status, "client_id": status})
        assert "code" not in await driver.expect("done")


async def _quick_trip(api: Api, world: World, vehicle_id: str, fleet_id: str) -> tuple[str, int]:
    """A trip that is canceled as soon as it is under way. Returns its id, and an instant at which it was under way."""
    trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    await api.advance(trip_id, "enroute_to_pickup")
    at = world.clock()
    await api.advance(trip_id, "canceled")
    return trip_id, at


async def test_nothing_is_kept_of_what_is_over(world: World) -> None:
    service_token = token("service", expires_in=30 * 86_400)
    vehicles = world.service.hub.fleets.vehicles
    async with Api(world.url, service_token) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        for _ in range(MAX_SPANS + 1):
            await _quick_trip(api, world, vehicle_id, fleet_id)

    async def come_and_go() -> Counter[str]:
        async with Api(world.url, service_token) as api:
            for _ in range(ROUND):
                await _trip(api, world, vehicle_id, fleet_id)
                removed = await api.vehicle(fleet_id)
                await api.trip(fleet_id, removed)
                async with Driver(world.url, removed, bearer=token("driver", removed, 30 * 86_400)) as driver:
                    await driver.report(fix(1, fix_time=world.clock()))
                    await driver.acknowledged(1)
                    await api.call("DELETE", f"/vehicles/{removed}")
                    assert await driver.closed() == 4502
        await until(lambda: world.connections() == 0, "all connections are gone")
        world.clock.ahead += 2 * DAY_MS
        await let_go(world.service)
        await world.service.retention.work()
        await world.service.latest.flush()
        for _ in range(STEPS):
            # A round holds all feeds that were there when it began. This ends the round.
            world.service.hub.beat()
        await until(lambda: world.census()["alive: LiveVehicle"] == len(vehicles), "nobody waits for the removed")
        return world.census()

    await come_and_go()
    before = await come_and_go()
    after = await come_and_go()
    # If something is kept for each trip or vehicle, there is one more for each. A few may be on their way.
    assert {kind: (before[kind], count) for kind, count in after.items() if count >= before[kind] + ROUND} == {}
    assert world.service.auth.revoked == set()


async def test_a_vehicle_is_let_go_of_when_nobody_was_connected_for_long(world: World) -> None:
    ingest_vehicles = world.service.ingest_vehicles
    async with Api(world.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        async with Driver(world.url, vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
            for _ in range(3):
                await let_go(world.service)
            assert ingest_vehicles.get(vehicle_id) is not None
        await until(lambda: not world.service.hub.drivers, "the driver is gone")
        await let_go(world.service)
        assert ingest_vehicles.get(vehicle_id) is not None
        await let_go(world.service)
        assert ingest_vehicles.get(vehicle_id) is None
        async with Driver(world.url, vehicle_id, driver.session) as driver:
            assert driver.handled == 1
            await driver.report(fix(2, latitude=48.0))
            await driver.acknowledged(2)
        # It is judged against its place before it was forgotten.
        assert [row["suspect"] for row in await api.track(f"/vehicles/{vehicle_id}/track", suspect="true")] == ["", "jump"]


async def test_a_fix_older_than_the_trips_in_memory_gets_the_trip_of_its_time(world: World) -> None:
    async with Api(world.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        trips: list[tuple[str, int]] = []
        for _ in range(MAX_SPANS + 2):
            trips.append(await _quick_trip(api, world, vehicle_id, fleet_id))
        long_ago = trips[0][1] - 60_000
        async with Driver(world.url, vehicle_id) as driver:
            vehicle = world.service.ingest_vehicles.get(vehicle_id)
            assert vehicle is not None and len(vehicle.windows) == MAX_SPANS + 1
            assert vehicle.windows[-1].span.trip == TRIP_UNKNOWN
            times = [long_ago, *(at for _, at in trips)]
            await driver.report(*(fix(seq, fix_time=at, latitude=47.1) for seq, at in enumerate(times, 1)))
            assert await driver.acknowledged(len(times)) == []
        rows = await api.track(f"/vehicles/{vehicle_id}/track", suspect="true")
    assert [row["trip_id"] for row in rows] == ["", *(trip_id for trip_id, _ in trips)]


async def test_revoked_tokens_that_the_store_lost_are_stored_again_until_they_expire(world: World) -> None:
    expires_at = now_ms() // 1000 + 3600
    assert world.service.auth.revoked is not None
    world.service.auth.revoked |= {f"{'a' * 22}.{expires_at}", "another's"}
    await _read_revoked(world.service)
    async with world.service.database.connection() as connection:
        rows = await connection.fetch("SELECT expires_at FROM revoked_tokens ORDER BY jti")
    assert [row["expires_at"] for row in rows] == [expires_at * 1000, None]


async def test_what_the_database_refuses_to_housekeeping_is_tried_again(world: World) -> None:
    """Otherwise the hub would exit with it."""
    errors = [asyncpg.DuplicateTableError("there already"), asyncpg.DeadlockDetectedError("deadlock detected")]

    async def work(_: Service) -> None:
        if errors:
            raise errors.pop()

    await _until_stored(work, world.service)
    assert not errors


async def test_a_frame_that_waits_for_its_turn_goes_with_its_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    backlogs = world.service.backlogs
    monkeypatch.setattr(backlogs, "_waiting", backlogs._most)  # nobody has a turn
    async with Api(world.url) as api:
        vehicle_id = await api.vehicle(await api.fleet())
    async with Driver(world.url, vehicle_id) as driver:
        await driver.report(*(fix(seq, fix_time=world.clock()) for seq in range(1, 301)))
        await until(lambda: len(backlogs._turns) == 1, "it waits")
        async with Driver(world.url, vehicle_id):
            assert await driver.closed() == 4409
    await until(lambda: world.connections() == 0, "both are gone")
    assert [reporter._part for reporter in backlogs._turns] == [None]  # type: ignore[attr-defined]
