"""Changes that cannot be applied: what they concern is read again, and everything else goes on."""

from typing import Any

import asyncpg
import pytest

from tests.support.clients import Api, Dispatcher, Driver, Socket
from tests.support.geofence_drives import put_fence
from tests.support.hub_in_process import World, state_of
from tracking.live import fleets as fleets_module
from tracking.live_state.applying import LiveState
from tracking.monitor.monitor import Monitor
from tracking.store.changes import ChangeKind, Row


async def test_a_fleet_of_which_a_change_cannot_be_applied_is_read_again(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    await put_fence(api, fleet_id)
    await world.service.loader.load(fleet_id)
    apply = LiveState._apply_vehicle

    def fail_once(self: LiveState, *arguments: Any) -> None:
        monkeypatch.setattr(LiveState, "_apply_vehicle", apply)
        raise ValueError("not as this version knows it")

    monkeypatch.setattr(LiveState, "_apply_vehicle", fail_once)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Changed"})
    assert await world.service.loader.load(fleet_id) is world.feed(fleet_id)
    assert world.service.hub.fleets.vehicles[vehicle_id].vehicle.name == "Changed"
    assert state_of(world.service, fleet_id) == await world.as_read_anew(fleet_id)


def fail_once(monkeypatch: pytest.MonkeyPatch, thing: type, name: str) -> None:
    """The next call fails, as an error in our code would make it."""
    real = getattr(thing, name)

    def fail(*_: Any) -> None:
        monkeypatch.setattr(thing, name, real)
        raise ValueError("not as this version knows it")

    monkeypatch.setattr(thing, name, fail)


@pytest.mark.parametrize("goes", ["for good", "to a fleet that is not in memory"])
async def test_a_vehicle_that_left_a_fleet_is_not_shown_in_it_though_that_could_not_be_applied(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch, goes: str
) -> None:
    fleet_id, other = await api.fleet(), await api.fleet()
    vehicle_id, stays = await api.vehicle(fleet_id), await api.vehicle(fleet_id)
    async with Driver(world.url, vehicle_id) as driver:
        await world.service.loader.load(fleet_id)
        if goes == "for good":
            fail_once(monkeypatch, LiveState, "_vehicle_gone")
            await api.call("DELETE", f"/vehicles/{vehicle_id}")
        else:
            fail_once(monkeypatch, LiveState, "_apply_vehicle")
            await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": other})
        assert await driver.closed() == 1012
    await world.service.loader.load(fleet_id)
    assert list(state_of(world.service, fleet_id)["vehicles"]) == [stays]
    assert world.service.ingest_vehicles.get(vehicle_id) is None


async def test_what_was_half_applied_to_a_vehicle_is_read_again(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    await world.service.loader.load(fleet_id)
    fail_once(monkeypatch, fleets_module.Fleets, "set_trip")
    trip = await api.trip(fleet_id, vehicle_id)
    await world.service.loader.load(fleet_id)
    known = world.service.hub.fleets.vehicles[vehicle_id].trip
    assert known is not None and known.trip_id == trip["trip_id"]


async def test_screens_come_back_when_a_change_of_a_geofence_cannot_be_applied(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    async with Dispatcher(world.url, fleet_id) as screen:
        await world.service.loader.load(fleet_id)
        fail_once(monkeypatch, Monitor, "change_geofence")
        await put_fence(api, fleet_id)
        assert await screen.closed() == 1012
    await world.service.loader.load(fleet_id)
    assert list(state_of(world.service, fleet_id)["fences"]) == ["yard"]


async def test_who_is_revoked_is_sent_out_though_a_fault_came_between(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    vehicle_id = await api.vehicle(await api.fleet())
    issued = await api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id, "expires_in": 3600})
    async with Driver(world.url, vehicle_id, bearer=issued["token"]) as driver:
        fail_once(monkeypatch, LiveState, "_revoked")
        await api.call("DELETE", f"/tokens/{issued['jti']}")
        assert await driver.closed() == 4503
    async with Socket(f"{world.url}/v1/driver", issued["token"]) as driver:
        assert await driver.closed() == 4503


async def test_a_row_that_cannot_even_be_read_anew_does_not_end_the_follower(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    await world.service.loader.load(fleet_id)
    for name in ("_apply_vehicle", "give_up"):
        fail_once(monkeypatch, LiveState, name)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Changed"})
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Changed again"})
    assert world.service.hub.fleets.vehicles[vehicle_id].vehicle.name == "Changed again"


async def test_nobody_is_sent_away_for_an_event_that_cannot_be_told(world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    store = await asyncpg.connect(world.database_url)
    try:
        number = await store.fetchval("SELECT vehicle FROM vehicles WHERE vehicle_id = $1", vehicle_id)
        async with Dispatcher(world.url, fleet_id), Driver(world.url, vehicle_id) as driver:
            feed = await world.service.loader.load(fleet_id)
            assert feed is not None
            # As a newer version would tell one; and one whose row says another kind than the event.
            for kind in ("event.levitating", "event.enter"):
                event = await store.fetchval(
                    "INSERT INTO events (fleet_id, vehicle, kind, server_time) VALUES ($1, $2, 'levitating', now())"
                    " RETURNING event",
                    fleet_id,
                    number,
                )
                await store.execute(
                    "INSERT INTO pending_changes (kind, subject, fleet_id, vehicle, internal)"
                    " VALUES ($1, $2::bigint::text, $3, $4, jsonb_build_object('event', $2::bigint))",
                    kind,
                    event,
                    fleet_id,
                    number,
                )
            await api.fleet()
            assert feed.loaded
            trip = await api.trip(fleet_id, vehicle_id)
            assert (await driver.expect("trip"))["trip"] == trip
    finally:
        await store.close()


@pytest.mark.parametrize("known", ["with its number", "without it"])
async def test_a_driver_is_not_told_an_older_state_than_it_came_with(world: World, api: Api, known: str) -> None:
    vehicle_id, trip_id = await api.under_way()
    service = world.service
    live = service.follower._live
    async with Driver(world.url, vehicle_id) as driver:
        vehicle = service.ingest_vehicles.get(vehicle_id)
        assert vehicle is not None
        row = Row(1, 0, 0, 0, None, vehicle.number, ChangeKind.VEHICLE_TRIPS, trip_id, None, None)
        async with service.database.connection() as connection:
            state = await live.read(connection, [row])
        assert state.trips[trip_id].version == 2
        newer = await api.advance(trip_id, "arrived_at_pickup")
        assert (await driver.expect("trip"))["trip"] == newer
        # As if the driver had come since then, and had been told what was committed while its vehicle was read.
        if known == "without it":
            service.hub.drivers[vehicle_id].as_of = 0
        live.apply(row, state, 1)
        newest = await api.advance(trip_id, "enroute_to_dropoff")
        assert (await driver.expect("trip"))["trip"] == newest
