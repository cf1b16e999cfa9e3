"""The answer to a COMMIT is lost: whoever watches is told what became of the change, though nobody repeats it."""

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Api, Dispatcher, Driver, Message
from tests.faults.conftest import MakeHub, Mortal
from tests.faults.devices import until
from tests.faults.proxy import ChaosProxy
from tests.faults.test_wire import hub_over_wire
from tests.test_events import OUTSIDE, YARD, Drive, hour_ago, listed


class Stage:
    """A fleet with a vehicle, its driver and a screen, and a hub whose way to the database is a wire of ours."""

    def __init__(self, api: Api, wire: ChaosProxy, fleet_id: str, vehicle_id: str, screen: Dispatcher, drive: Drive) -> None:
        self.api, self.wire, self.screen, self.drive = api, wire, screen, drive
        self.fleet_id, self.vehicle_id = fleet_id, vehicle_id

    async def unanswered(self, method: str, path: str, body: Any = None) -> None:
        """A change that is committed and answered 503."""
        self.wire.deaf_at = b"COMMIT"
        await self.api.call(method, path, body, expect=503)
        assert self.wire.deaf_at is None
        self.wire.swallow()
        self.wire.cut()


@pytest.fixture
async def stage(hubs: MakeHub, database: Mortal, rng: random.Random, tmp_path: Path) -> AsyncIterator[Stage]:
    async with contextlib.AsyncExitStack() as stack:
        hub, wire = await stack.enter_async_context(hub_over_wire(hubs, database, rng, tmp_path, database_timeout="1"))
        api = await stack.enter_async_context(Api(hub.url))
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        screen = await stack.enter_async_context(Dispatcher(hub.url, fleet_id))
        driver = await stack.enter_async_context(Driver(hub.url, vehicle_id))
        await screen.look(9.4, 47.0, 9.6, 47.2)
        drive = Drive(driver, hour_ago())
        await drive.to(OUTSIDE)
        await screen.until(lambda: "plate" in screen.vehicles.get(vehicle_id, {}))
        yield Stage(api, wire, fleet_id, vehicle_id, screen, drive)


async def test_a_vehicle_is_removed(stage: Stage) -> None:
    trip = await stage.api.trip(stage.fleet_id, stage.vehicle_id)
    await stage.unanswered("DELETE", f"/vehicles/{stage.vehicle_id}")
    assert await stage.drive.driver.closed() == 4502
    await stage.screen.until(lambda: stage.vehicle_id not in stage.screen.vehicles)
    assert "vehicle" not in _trips(stage.screen)[trip["trip_id"]]


def _trips(screen: Dispatcher) -> dict[str, Message]:
    return {message["trip"]["trip_id"]: message["trip"] for message in screen.messages if message["type"] == "trip"}


async def test_a_vehicle_is_changed(stage: Stage) -> None:
    await stage.unanswered("PUT", f"/vehicles/{stage.vehicle_id}", {"fleet_id": stage.fleet_id, "plate": "FL 99999"})
    await stage.screen.until(lambda: stage.screen.vehicles[stage.vehicle_id]["plate"] == "FL 99999")


async def test_a_fleet_is_changed(stage: Stage) -> None:
    body = {"name": "Limited", "speed_limit": 20, "idle_after": 1e6, "signal_lost_after": 1e6}
    await stage.unanswered("PUT", f"/fleets/{stage.fleet_id}", body)

    async def speeds() -> bool:
        await stage.drive.to({**OUTSIDE, "latitude": 47.145 + stage.drive.seq * 0.001}, speed=30.0)
        return bool(await listed(stage.api, stage.fleet_id, kind="speeding"))

    await until(speeds, "its limit is in force")


async def test_a_fence_is_put_and_removed(stage: Stage) -> None:
    path = f"/fleets/{stage.fleet_id}/geofences/yard"
    await stage.unanswered("PUT", path, {"type": "Feature", "geometry": YARD, "properties": {"name": "Yard"}})
    assert (await stage.screen.expect("geofence"))["geofence"]["properties"] == {"name": "Yard"}
    await stage.unanswered("DELETE", path)
    assert (await stage.screen.expect("geofence_gone"))["geofence_id"] == "yard"
