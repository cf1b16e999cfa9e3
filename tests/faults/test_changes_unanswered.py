"""The answer to a COMMIT is lost: watchers are told the result of the change, though nobody repeats it (row 58)."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import MakeHub, Mortal
from tests.faults.over_wire import hub_over_wire
from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, new_id
from tests.support.devices import until
from tests.support.geofence_drives import INSIDE, OUTSIDE, YARD, Drive, hour_ago, listed
from tests.support.proxy import ChaosProxy


class Stage:
    """A fleet with a vehicle, its driver and a screen, and a hub whose connections to the database go through a proxy."""

    def __init__(
        self,
        database: Mortal,
        api: Api,
        wire: ChaosProxy,
        fleet_id: str,
        vehicle_id: str,
        screen: Dispatcher,
        drive: Drive,
    ) -> None:
        self.database = database
        self.api, self.wire, self.screen, self.drive = api, wire, screen, drive
        self.fleet_id, self.vehicle_id = fleet_id, vehicle_id

    async def unanswered(self, kind: bytes, method: str, path: str, body: Any = None) -> None:
        """A change that is committed and answered 503. The log tells it as `kind`."""
        self.deafen(kind)
        await self.api.call(method, path, body, expect=503)
        self.restore()

    def deafen(self, kind: bytes) -> None:
        self.wire.deaf_after, self.wire.deaf_at = kind, b"COMMIT"

    def restore(self) -> None:
        assert self.wire.deaf_at is None
        self.wire.swallow()
        self.wire.cut()

    async def committed(self, kind: str) -> int:
        """How many changes of the kind the log has."""
        query = "SELECT count(*) FROM changes WHERE kind = $1"
        return int(str(await self.database.fetchval(query, kind)))


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
        yield Stage(database, api, wire, fleet_id, vehicle_id, screen, drive)


async def test_a_vehicle_is_removed(stage: Stage) -> None:
    trip = await stage.api.trip(stage.fleet_id, stage.vehicle_id)
    await stage.unanswered(b"vehicle.deleted", "DELETE", f"/vehicles/{stage.vehicle_id}")
    assert await stage.drive.driver.closed() == 4502
    await stage.screen.until(lambda: stage.vehicle_id not in stage.screen.vehicles)
    assert "vehicle" not in _trips(stage.screen)[trip["trip_id"]]


def _trips(screen: Dispatcher) -> dict[str, Message]:
    return {message["trip"]["trip_id"]: message["trip"] for message in screen.messages if message["type"] == "trip"}


async def test_a_vehicle_is_changed(stage: Stage) -> None:
    await stage.unanswered(
        b"vehicle.changed", "PUT", f"/vehicles/{stage.vehicle_id}", {"fleet_id": stage.fleet_id, "plate": "FL 99999"}
    )
    await stage.screen.until(lambda: stage.screen.vehicles[stage.vehicle_id]["plate"] == "FL 99999")


async def test_a_fleet_is_changed(stage: Stage) -> None:
    body = {"name": "Limited", "speed_limit": 20, "idle_after": 1e6, "signal_lost_after": 1e6}
    await stage.unanswered(b"fleet.changed", "PUT", f"/fleets/{stage.fleet_id}", body)

    async def speeds() -> bool:
        await stage.drive.to({**OUTSIDE, "latitude": 47.145 + stage.drive.seq * 0.001}, speed=30.0)
        return bool(await listed(stage.api, stage.fleet_id, kind="speeding"))

    await until(speeds, "its limit is in force")


async def test_a_fence_is_put_and_removed(stage: Stage) -> None:
    path = f"/fleets/{stage.fleet_id}/geofences/yard"
    await stage.unanswered(
        b"geofence.changed", "PUT", path, {"type": "Feature", "geometry": YARD, "properties": {"name": "Yard"}}
    )
    assert (await stage.screen.expect("geofence"))["geofence"]["properties"] == {"name": "Yard"}
    await stage.unanswered(b"geofence.deleted", "DELETE", path)
    assert (await stage.screen.expect("geofence_gone"))["geofence_id"] == "yard"


async def test_a_trip_is_made_changed_and_ended(stage: Stage) -> None:
    places = {"pickup": {"latitude": 47.141, "longitude": 9.521}, "dropoff": {"latitude": 47.151, "longitude": 9.515}}
    body = {"fleet_id": stage.fleet_id, "vehicle_id": stage.vehicle_id, **places}
    await stage.unanswered(b"trip.created", "POST", "/trips", body)
    trip_id = (await stage.drive.driver.expect("trip"))["trip"]["trip_id"]
    async with Passenger(stage.api.url, trip_id) as passenger:
        assert (await passenger.expect("snapshot"))["trip"]["status"] == "new"
        for version, status in enumerate(("enroute_to_pickup", "canceled"), 1):
            change = {"status": status, "version": version}
            await stage.unanswered(b"trip.changed", "PATCH", f"/trips/{trip_id}", change)
            for told in (passenger, stage.drive.driver):
                assert (await told.expect("trip"))["trip"]["status"] == status
            await stage.screen.until(lambda s=status: _trips(stage.screen).get(trip_id, {}).get("status") == s)  # type: ignore[misc]
        assert await passenger.closed() == 4506
    await stage.unanswered(b"trip.deleted", "DELETE", f"/trips/{trip_id}")
    assert (await stage.screen.expect("trip_gone"))["trip_id"] == trip_id


async def test_a_message_is_told_once_though_it_is_sent_again(stage: Stage) -> None:
    trip = await stage.api.trip(stage.fleet_id, stage.vehicle_id)
    async with Passenger(stage.api.url, trip["trip_id"]) as passenger:
        await passenger.expect("snapshot")
        stage.deafen(b"message.posted")
        message = {"type": "message", "text": "At the blue door", "client_id": new_id("text")}
        await passenger.send(message)
        assert (await passenger.expect("error", "done"))["code"] == "unavailable"
        stage.restore()
        for told in (passenger, stage.drive.driver):
            assert (await told.expect("message"))["text"] == message["text"]
        await passenger.send(message)
        await passenger.send({**message, "text": "I am there", "client_id": new_id("text")})
        assert [(await passenger.receive())["type"] for _ in range(3)].count("message") == 1
        assert (await stage.drive.driver.expect("message"))["text"] == "I am there"
    assert await stage.committed("message.posted") == 2


async def test_a_share_and_a_token_are_revoked(stage: Stage) -> None:
    trip = await stage.api.trip(stage.fleet_id, stage.vehicle_id)
    share = await stage.api.call("POST", f"/trips/{trip['trip_id']}/shares", {})
    issued = await stage.api.call("POST", "/tokens", {"role": "passenger", "trip_id": trip["trip_id"]})
    for path, bearer in ((f"/shares/{share['share_id']}", share["token"]), (f"/tokens/{issued['jti']}", issued["token"])):
        async with Passenger(stage.api.url, trip["trip_id"], bearer) as passenger:
            await passenger.expect("snapshot")
            await stage.unanswered(b"token.revoked", "DELETE", path)
            assert await passenger.closed() == 4503
        async with Passenger(stage.api.url, trip["trip_id"], bearer) as passenger:
            assert await passenger.closed() == 4503


async def test_an_event_is_stored_and_told_once(stage: Stage) -> None:
    body = {"type": "Feature", "geometry": YARD, "properties": {}}
    await stage.api.call("PUT", f"/fleets/{stage.fleet_id}/geofences/yard", body)
    stage.deafen(b"event.enter")
    arriving = asyncio.create_task(stage.drive.to(INSIDE))
    await until(lambda: stage.committed("event.enter"), "the event is committed")
    stage.restore()
    await arriving
    entered = await stage.screen.expect("event")
    await stage.drive.to(OUTSIDE)
    assert (await stage.screen.expect("event"))["kind"] == "exit"
    assert [event["event_id"] for event in await listed(stage.api, stage.fleet_id, kind="enter")] == [entered["event_id"]]
    assert await stage.committed("event.enter") == 1
