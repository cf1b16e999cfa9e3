"""Changes that come at the same time as others: of vehicles, fleets and geofences, over HTTP."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from tests.support.clients import Api, Dispatcher, Driver, fix, token
from tests.support.devices import until
from tests.support.geofence_drives import put_fence
from tests.support.hub_process import HubProcess
from tracking.store import changes, erasures
from tracking.store.changes import Change, ChangeKind

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'tracking'"


@pytest.mark.parametrize("what", ["vehicle", "geofence"])
async def test_a_removal_that_is_a_deadlocks_victim_begins_anew(
    own_hub: Callable[..., HubProcess], database_url: str, what: str
) -> None:
    other, witness = [await asyncpg.connect(database_url) for _ in range(2)]
    # The hub notices first, whichever of the two came last.
    name = await witness.fetchval("SELECT current_database()")
    await witness.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '2s'")
    await other.execute("SET deadlock_timeout = '1h'")
    hub = own_hub()
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        await put_fence(api, fleet_id)
        path, first, second = {
            "vehicle": (f"/vehicles/{vehicle_id}", "sessions", "vehicles"),
            "geofence": (f"/fleets/{fleet_id}/geofences/yard", "geofence_stays", "geofences"),
        }[what]
        async with asyncio.TaskGroup() as tasks, other.transaction():
            await other.execute(f"LOCK TABLE {first} IN SHARE MODE")
            removal = tasks.create_task(api.call("DELETE", path, expect=204))
            await until(lambda: _is_waiting(witness), "the hub waits for the other")
            await other.execute(f"SELECT 1 FROM {second} FOR UPDATE")
            assert not removal.done()
        await api.call("GET", path, expect=404)
    for connection in (other, witness):
        await connection.close()


async def _is_waiting(witness: "asyncpg.Connection[asyncpg.Record]") -> bool:
    return bool(await witness.fetchval(WAITING) == 1)


async def _erase(hub: HubProcess, vehicle_id: str) -> None:
    """Removes the vehicle behind the hub's back: as a removal whose answer was lost on the hub's own way to the database."""
    connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    number = await connection.fetchval("SELECT vehicle FROM vehicles WHERE vehicle_id = $1", vehicle_id)
    async with connection.transaction():
        await erasures.begin(connection, number)
    await connection.close()


@pytest.mark.parametrize("method", ["DELETE", "PUT"])
async def test_trust_40_a_vehicle_that_was_removed_unheard_is_shown_no_more(hub: HubProcess, api: Api, method: str) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        await screen.look(9.5, 47.1, 9.6, 47.2)
        await driver.report(fix(1))
        await driver.acknowledged(1)
        await screen.until(lambda: vehicle_id in screen.vehicles)
        await _erase(hub, vehicle_id)
        if method == "DELETE":
            # 202 where the rest of it is not gone yet.
            assert (await api.http.delete(f"/vehicles/{vehicle_id}")).status_code in (202, 404)
        else:
            await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id}, expect=201)
        assert await driver.closed() == 4502
        await screen.until(lambda: vehicle_id not in screen.vehicles)
    if method == "PUT":
        assert "position" not in await api.call("GET", f"/vehicles/{vehicle_id}")
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)


async def test_nobody_removes_from_the_map_what_is_anothers(hub: HubProcess, api: Api) -> None:
    fleet_id, other_id = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Driver(hub.url, vehicle_id) as driver:
        async with Api(hub.url, token("dispatcher", other_id)) as stranger:
            await stranger.call("DELETE", f"/vehicles/{vehicle_id}", expect=404)
        await driver.send({"type": "nonsense"})
        assert (await driver.expect("error"))["code"] == "bad_type"


async def test_a_fence_that_was_removed_elsewhere_is_told(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    await put_fence(api, fleet_id)
    connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    async with Dispatcher(hub.url, fleet_id) as screen:
        async with connection.transaction():
            await connection.execute("DELETE FROM geofences WHERE fleet_id = $1", fleet_id)
            await changes.append(connection, [Change(ChangeKind.GEOFENCE_DELETED, "yard", fleet_id)])
        assert (await screen.expect("geofence_gone"))["geofence_id"] == "yard"
        await api.call("DELETE", f"/fleets/{fleet_id}/geofences/yard", expect=404)
    await connection.close()


@pytest.mark.parametrize("how", ["taken away", "given to another", "removed"])
async def test_a_driver_who_loses_its_trip_is_told_of_one_that_waited_since_before_it_came(
    hub: HubProcess, api: Api, how: str
) -> None:
    fleet_id = await api.fleet()
    vehicle_id, other = await api.vehicle(fleet_id), await api.vehicle(fleet_id)
    trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    waits = await api.trip(fleet_id, vehicle_id)
    async with Driver(hub.url, vehicle_id) as driver:
        assert driver.welcome["trip"]["trip_id"] == trip_id
        if how == "removed":
            await api.call("DELETE", f"/trips/{trip_id}")
        else:
            taken_by = other if how == "given to another" else None
            await api.call("PATCH", f"/trips/{trip_id}", {"vehicle_id": taken_by, "version": 1})
        lost = (await driver.expect("trip"))["trip"]
        assert lost["trip_id"] == trip_id and "vehicle" not in lost
        assert (await driver.expect("trip"))["trip"] == waits
