"""Row 88: a vehicle that moves to another fleet takes no data with it."""

from collections.abc import Callable

import asyncpg

from tests.support.clients import Api, Dispatcher, Driver, Message, fix, now_ms, token
from tests.support.hub_process import HubProcess

VADUZ = (9.5, 47.1, 9.6, 47.2)


class _Moved:
    """A vehicle that drove a trip for one fleet, and then moved to another."""

    vehicle_id: str
    trip_id: str
    old: str
    new: str
    shown: Message

    @classmethod
    async def make(cls, hub: HubProcess, api: Api) -> "_Moved":
        moved = cls()
        moved.vehicle_id, moved.trip_id = await api.under_way()
        moved.old, moved.new = (await api.call("GET", f"/vehicles/{moved.vehicle_id}"))["fleet_id"], await api.fleet()
        async with Driver(hub.url, moved.vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
        moved.shown = (await api.advance(moved.trip_id, "canceled"))["vehicle"]
        await moved.go(api, moved.new, "Secret name")
        return moved

    async def go(self, api: Api, fleet_id: str, name: str) -> None:
        body = {"fleet_id": fleet_id, "name": name, "kind": "tank", "plate": "SECRET 1"}
        await api.call("PUT", f"/vehicles/{self.vehicle_id}", body)


async def test_trust_88_trips_of_the_old_fleet_show_its_old_name(hub: HubProcess, api: Api) -> None:
    moved = await _Moved.make(hub, api)
    async with Api(hub.url, token("dispatcher", moved.old)) as before:
        assert (await before.call("GET", f"/trips/{moved.trip_id}"))["vehicle"] == moved.shown
        [listed] = (await before.call("GET", f"/fleets/{moved.old}/trips"))["trips"]
        assert listed["vehicle"] == moved.shown
        response = await before.http.get(f"/trips/{moved.trip_id}/track", params={"format": "gpx"})
        assert "Secret" not in response.text and "SECRET" not in response.text
        await before.call("GET", f"/vehicles/{moved.vehicle_id}", expect=404)
    # Also after it was renamed there, came back, and was renamed again.
    await moved.go(api, moved.new, "Another")
    await moved.go(api, moved.old, "Van 2")
    await moved.go(api, moved.old, "Van 3")
    assert (await api.call("GET", f"/trips/{moved.trip_id}"))["vehicle"] == moved.shown


async def test_trust_88_an_open_trip_shows_the_present_name_of_its_vehicle_and_one_that_is_over_the_old_one(
    hub: HubProcess, api: Api
) -> None:
    vehicle_id, trip_id = await api.under_way()
    fleet_id = (await api.call("GET", f"/vehicles/{vehicle_id}"))["fleet_id"]

    async def call_it(name: str) -> None:
        await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": name})

    async def shown(trip_id: str) -> str:
        name: str = (await api.call("GET", f"/trips/{trip_id}"))["vehicle"]["name"]
        return name

    await call_it("A")
    assert await shown(trip_id) == "A"
    await api.advance(trip_id, "canceled")
    await call_it("B")
    await call_it("C")
    second = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    await api.advance(second, "enroute_to_pickup", "canceled")
    await call_it("D")
    assert (await shown(trip_id), await shown(second)) == ("A", "C")


async def test_trust_88_a_fleet_sees_where_a_vehicle_was_only_since_it_joined(hub: HubProcess, api: Api) -> None:
    moved = await _Moved.make(hub, api)
    vehicle = f"/vehicles/{moved.vehicle_id}"
    async with Api(hub.url, token("dispatcher", moved.new)) as now:
        assert await now.track(f"{vehicle}/track") == []
        assert (await now.call("GET", f"{vehicle}/days"))["days"] == []
        assert "position" not in await now.call("GET", vehicle)
        [seen] = (await now.call("GET", f"/fleets/{moved.new}/vehicles"))["vehicles"]
        assert "latitude" not in seen
        assert (await now.call("GET", f"/fleets/{moved.new}/vehicles", near="47.14,9.52"))["vehicles"] == []
        assert (await now.call("GET", f"/fleets/{moved.new}/events"))["events"] == []
        async with Driver(hub.url, moved.vehicle_id) as driver:
            # It sends a backlog from before the move, and then its present place.
            await driver.report(fix(1, fix_time=now_ms() - 600_000, latitude=47.12), fix(2, latitude=47.14101))
            await driver.acknowledged(2)
        [row] = await now.track(f"{vehicle}/track")
        assert (row["latitude"], row["trip_id"]) == ("47.14101", "")
        days = (await now.call("GET", f"{vehicle}/days"))["days"]
        assert sum(day["positions"] for day in days) == 1
        assert (await now.call("GET", vehicle))["position"]["latitude"] == 47.14101
    # A service sees everything.
    rows = await api.track(f"{vehicle}/track")
    assert [row["trip_id"] for row in rows if row["trip_id"]] == [moved.trip_id]
    assert len(rows) == 3
    days = (await api.call("GET", f"{vehicle}/days"))["days"]
    # Soon after midnight there are two days.
    assert sum(day["positions"] for day in days) == 3


async def test_trust_88_a_backlog_from_before_moves_no_marker_and_causes_no_event_in_the_new_fleet(
    hub: HubProcess, api: Api
) -> None:
    old, new = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(old)
    ring = [[9.4, 47.0], [9.7, 47.0], [9.7, 47.3], [9.4, 47.3], [9.4, 47.0]]
    fence = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    await api.call("PUT", f"/fleets/{new}/geofences/yard", fence)
    seen = now_ms()
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": new})
    async with Dispatcher(hub.url, new) as screen, Driver(hub.url, vehicle_id) as driver:
        await screen.look(*VADUZ)
        await screen.expect("fleet_snapshot")
        await driver.report(fix(1, fix_time=seen - 1_000, latitude=47.15))
        await driver.acknowledged(1)
        await driver.report(fix(2, latitude=47.15001))
        await driver.acknowledged(2)
        await screen.until(lambda: screen.vehicles.get(vehicle_id, {}).get("latitude") == 47.15001)
        event = (await screen.events(1))[0]
        assert event["kind"] == "enter"
    [event] = (await api.call("GET", f"/fleets/{new}/events"))["events"]
    assert event["latitude"] == 47.15001


async def test_trust_88_a_fix_of_a_fast_clock_from_before_the_move_belongs_to_the_old_fleet(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    new = await api.fleet()
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1, fix_time=now_ms() + 50_000))
        await driver.acknowledged(1)
    await api.advance(trip_id, "canceled")
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": new})
    async with Api(hub.url, token("dispatcher", new)) as now:
        assert await now.track(f"/vehicles/{vehicle_id}/track") == []
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1, fix_time=now_ms() + 55_000, latitude=47.15))
            await driver.acknowledged(1)
        [row] = await now.track(f"/vehicles/{vehicle_id}/track", suspect="true")
    assert (row["latitude"], row["trip_id"]) == ("47.15", "")
    assert len(await api.track(f"/vehicles/{vehicle_id}/track", suspect="true")) == 2


async def test_trust_88_its_driver_no_longer_knows_the_trips_of_the_old_fleet(hub: HubProcess, api: Api) -> None:
    moved = await _Moved.make(hub, api)
    async with Api(hub.url, token("driver", moved.vehicle_id)) as driver:
        await driver.call("GET", f"/trips/{moved.trip_id}", expect=404)
    # It is not told of changes to them either.
    async with Driver(hub.url, moved.vehicle_id) as connected:
        trip = await api.call("GET", f"/trips/{moved.trip_id}")
        await api.call("PATCH", f"/trips/{moved.trip_id}", {"route": None, "version": trip["version"]})
        await connected.send({"type": "nonsense"})
        assert (await connected.receive())["type"] == "error"


async def test_trust_88_a_committed_move_that_is_not_told_yet_shows_nothing_from_before(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    """This happens when the answer to its COMMIT was lost."""
    hub = own_hub()
    async with Api(hub.url) as api:
        old, new = await api.fleet(), await api.fleet()
        vehicle_id = await api.vehicle(old)
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE vehicles SET fleet_id = $2, joined_at = now() WHERE vehicle_id = $1", vehicle_id, new)
    await connection.execute("DELETE FROM latest_positions")
    await connection.close()
    async with Api(hub.url, token("dispatcher", new)) as now:
        assert "position" not in await now.call("GET", f"/vehicles/{vehicle_id}")
        [listed] = (await now.call("GET", f"/fleets/{new}/vehicles"))["vehicles"]
        assert "latitude" not in listed
