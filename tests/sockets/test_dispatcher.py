"""The fleet socket against a real hub: what a dispatcher sees, and that others are not affected."""

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from tests.support.clients import Api, Dispatcher, Driver, Passenger, Socket, fix, new_id, now_ms, token
from tests.support.hub_process import HubProcess

pytestmark = pytest.mark.also_two_hubs

VADUZ = (9.50, 47.12, 9.54, 47.16)


async def test_a_screen_shows_who_is_in_it_and_follows_them(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id, name="Van 7", plate="FL 7")
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        await screen.look(*VADUZ)
        first = await screen.receive()
        assert first["type"] == "fleet_snapshot"
        assert first["vehicles"] == []
        await driver.report(fix(1, speed=8.5, bearing=0.0, battery=0.5))
        await screen.until(lambda: "name" in screen.vehicles.get(vehicle_id, {}) and "latitude" in screen.vehicles[vehicle_id])
        seen = screen.vehicles[vehicle_id]
        assert (seen["name"], seen["plate"], seen["status"]) == ("Van 7", "FL 7", "available")
        assert (seen["latitude"], seen["speed"], seen["bearing"]) == (47.14105, 8.5, 0.0)
        await driver.report(fix(2))
        await screen.until(lambda: screen.vehicles[vehicle_id]["latitude"] == 47.1411)
    async with Dispatcher(hub.url, fleet_id) as late:
        await late.look(*VADUZ)
        snapshot = await late.receive()
        assert [v["vehicle_id"] for v in snapshot["vehicles"]] == [vehicle_id]
        assert len(snapshot["cells"]) == len(set(snapshot["cells"])) >= 6


async def test_panning_sends_only_what_is_new(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    west, both, east = [await api.vehicle(fleet_id) for _ in range(3)]
    async with Dispatcher(hub.url, fleet_id) as screen:
        for vehicle_id, longitude in ((west, 9.40), (both, 9.50), (east, 9.60)):
            async with Driver(hub.url, vehicle_id) as driver:
                await driver.report(fix(1, longitude=longitude))
                await driver.acknowledged(1)
        await screen.look(9.38, 47.12, 9.52, 47.16)
        first = await screen.receive()
        assert {v["vehicle_id"] for v in first["vehicles"]} == {west, both}
        await screen.look(9.48, 47.12, 9.62, 47.16)
        second = await screen.expect("fleet_snapshot")
        assert {v["vehicle_id"] for v in second["vehicles"]} == {east}
        assert not set(first["cells"]) & set(second["cells"])
        await screen.look(9.49, 47.13, 9.51, 47.15)
        third = await screen.expect("fleet_snapshot")
        assert (third["cells"], third["vehicles"]) == ([], [])


async def test_who_drives_out_of_the_screen_is_seen_to_go(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        await screen.look(*VADUZ)
        begin = now_ms() - 600_000
        await driver.report(fix(1, fix_time=begin))
        await screen.until(lambda: "latitude" in screen.vehicles.get(vehicle_id, {}))
        # Ten kilometres on, ten minutes later: plausible, and outside.
        await driver.report(fix(2, latitude=47.24, fix_time=begin + 590_000))
        await screen.until(lambda: screen.vehicles[vehicle_id]["latitude"] == 47.24)
        # And then nothing more of it.
        await driver.report(fix(3, latitude=47.2401, fix_time=begin + 591_000))
        await driver.acknowledged(3)
        await screen.look(*VADUZ)
        await screen.expect("fleet_snapshot")
        assert screen.vehicles[vehicle_id]["latitude"] == 47.24


async def test_a_vehicle_that_is_removed_leaves(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Dispatcher(hub.url, fleet_id) as screen:
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
        await screen.look(*VADUZ)
        await screen.until(lambda: vehicle_id in screen.vehicles)
        await api.call("DELETE", f"/vehicles/{vehicle_id}")
        await screen.until(lambda: vehicle_id not in screen.vehicles)
        assert screen.messages[-1]["left"] == [vehicle_id]


async def test_a_vehicle_moved_to_another_fleet_is_gone_from_the_first(hub: HubProcess, api: Api) -> None:
    old, new = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(old)
    async with Dispatcher(hub.url, old) as before, Dispatcher(hub.url, new) as after:
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
        await before.look(*VADUZ)
        await after.look(*VADUZ)
        await before.until(lambda: vehicle_id in before.vehicles)
        await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": new, "name": "Van 8"})
        await before.until(lambda: vehicle_id not in before.vehicles)
        # There it is seen with the first fix of from then on.
        assert vehicle_id not in after.vehicles
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
        await after.until(lambda: after.vehicles.get(vehicle_id, {}).get("name") == "Van 8")
        await after.until(lambda: "latitude" in after.vehicles[vehicle_id])


async def test_trips_are_told_and_colour_their_vehicle(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1))
        await screen.look(*VADUZ)
        await screen.until(lambda: vehicle_id in screen.vehicles)
        trip = await api.trip(fleet_id, vehicle_id)
        told = await screen.expect("trip")
        assert told["trip"]["trip_id"] == trip["trip_id"]
        await screen.until(lambda: screen.vehicles[vehicle_id]["status"] == "on_trip")
        assert screen.vehicles[vehicle_id]["trip_id"] == trip["trip_id"]
        await api.advance(trip["trip_id"], "canceled")
        assert (await screen.expect("trip"))["trip"]["status"] == "canceled"
        await screen.until(lambda: screen.vehicles[vehicle_id]["status"] == "available")
        assert "trip_id" not in screen.vehicles[vehicle_id]
        other = await api.trip(fleet_id, None)
        await api.call("DELETE", f"/trips/{other['trip_id']}")
        assert (await screen.expect("trip_gone"))["trip_id"] == other["trip_id"]


async def test_a_dispatcher_writes_to_the_trip(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
    async with (
        Dispatcher(hub.url, fleet_id) as screen,
        Driver(hub.url, vehicle_id) as driver,
        Passenger(hub.url, trip_id) as passenger,
    ):
        await passenger.expect("snapshot")
        await screen.send({"type": "message", "trip_id": trip_id, "text": "Road closed at Schaan", "client_id": "1"})
        assert await screen.expect("done") == {"type": "done", "client_id": "1"}
        for reader in (driver, passenger):
            message = await reader.expect("message")
            assert (message["text"], message["from"]) == ("Road closed at Schaan", "dispatcher")
        other_vehicle, other_trip = await api.under_way()
        assert other_vehicle
        for unknown in (other_trip, "no-such-trip"):
            await screen.send({"type": "message", "trip_id": unknown, "text": "Hello", "client_id": "2"})
            assert (await screen.expect("done"))["code"] == "not_found"


async def test_more_than_2000_vehicles_come_as_clusters(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
    await _fill(hub, fleet_id, 2_500)
    hub.stop()
    hub.start()
    async with Dispatcher(hub.url, fleet_id) as screen:
        await screen.look(9.0, 46.9, 10.0, 47.4, 10)
        await screen.until(lambda: screen.clusters is not None)
        assert screen.clusters is not None
        assert sum(count for _, _, count in screen.clusters) == 2_500
        assert 2 <= len(screen.clusters) <= 400
        assert all(46.9 < latitude < 47.4 and 9.0 < longitude < 10.0 for latitude, longitude, _ in screen.clusters)
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
            await screen.until(lambda: sum(count for _, _, count in screen.clusters or []) == 2_501)
        # Nearer: single vehicles, all that this part of the map holds.
        await screen.look(9.0, 46.9, 9.2, 47.4, 12)
        await screen.until(lambda: len(screen.vehicles) >= 500)
        assert screen.clusters is None
        assert all(state["name"] and state["longitude"] < 9.25 for state in screen.vehicles.values())
        # Back again.
        await screen.look(9.0, 46.9, 10.0, 47.4, 10)
        await screen.until(lambda: screen.clusters is not None)


async def _fill(hub: HubProcess, fleet_id: str, count: int) -> None:
    """Vehicles with a latest position each, spread over a degree of longitude and half of one of latitude.

    All are well inside these bounds. A place on a bound by chance, which a cluster's rounding can reach, would lie outside.
    """
    connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    await connection.execute(
        """
        WITH made AS (
            INSERT INTO vehicles (vehicle_id, fleet_id, name)
            SELECT 'many-' || n, $1, 'Van ' || n FROM generate_series(1, $2::int) AS n RETURNING vehicle
        ),
        numbered AS (SELECT vehicle, row_number() OVER () AS n FROM made)
        INSERT INTO latest_positions (vehicle, fleet, fix_time, server_time, point)
        SELECT vehicle, (SELECT fleet FROM fleets WHERE fleet_id = $1), now(), now(),
            -- 7919 is a prime: neighbours in longitude are far apart in latitude.
            ST_Point(9 + (n - 0.5) / $2, 46.9 + 0.5 * ((n * 7919) % $2 + 0.5) / $2, 4326)
        FROM numbered
        """,
        fleet_id,
        count,
    )
    await connection.close()


async def test_the_fleet_is_known_again_after_a_restart(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(latest_interval="0.05")
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id, name="Van 9")
        trip = await api.trip(fleet_id, vehicle_id)
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
    hub.stop()
    hub.start()
    async with Dispatcher(hub.url, fleet_id) as screen:
        await screen.look(*VADUZ)
        await screen.until(lambda: vehicle_id in screen.vehicles)
        seen = screen.vehicles[vehicle_id]
        assert (seen["name"], seen["status"], seen["trip_id"]) == ("Van 9", "on_trip", trip["trip_id"])


async def test_bad_viewports_are_told_and_good_ones_go_on(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"bounds": [9.5, 47.2, 9.6, 47.1], "zoom": 12}, "bad_field", "upside down"),
        ({"bounds": [9.5, 47.1, 9.6, 47.2], "zoom": 99}, "out_of_range", "zoom"),
        ({"bounds": [9.5, 47.1, 9.6, 97.2], "zoom": 12}, "out_of_range", "bounds"),
        ({"bounds": [9.5, 47.1, 9.6], "zoom": 12}, "bad_field", "4"),
        ({"bounds": "everywhere", "zoom": 12}, "bad_type", "array"),
        ({"bounds": [9.5, 47.1, 9.6, "47.2"], "zoom": 12}, "bad_type", "float"),
        ({"zoom": 12}, "bad_field", "bounds"),
    ]
    async with Dispatcher(hub.url, fleet_id) as screen:
        for fields, code, word in bad:
            await screen.send({"type": "viewport", **fields})
            error = await screen.expect("error")
            assert (error["code"], word in error["detail"]) == (code, True), error
        await screen.send({"type": "hello"})
        assert (await screen.expect("error"))["code"] == "bad_type"
        await screen.send_text('{"type":"viewport","bounds":[NaN,0,1,1],"zoom":3}')
        assert (await screen.expect("error"))["code"] == "bad_json"
        await screen.look(*VADUZ)
        assert (await screen.receive())["type"] == "fleet_snapshot"


async def test_a_viewport_across_the_date_line_shows_both_sides(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    places = {await api.vehicle(fleet_id): longitude for longitude in (179.95, -179.95, 170.0)}
    for vehicle_id, longitude in places.items():
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1, latitude=-17.0, longitude=longitude))
            await driver.acknowledged(1)
    near = {vehicle_id for vehicle_id, longitude in places.items() if abs(longitude) > 175}
    async with Dispatcher(hub.url, fleet_id) as screen:
        await screen.look(179.9, -17.1, -179.9, -16.9)
        await screen.until(lambda: len(screen.vehicles) >= 2)
        assert set(screen.vehicles) == near
    async with Dispatcher(hub.url, fleet_id) as screen:
        # As a map does that was dragged round the world.
        await screen.look(179.9, -17.1, 180.1, -16.9)
        await screen.until(lambda: len(screen.vehicles) >= 2)
        assert set(screen.vehicles) == near
    async with Dispatcher(hub.url, fleet_id) as screen:
        await screen.look(-180, -90, 180, 90, 0)
        await screen.until(lambda: len(screen.vehicles) >= 3)


async def test_200_viewports_at_once_lose_nothing(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
        for step in range(200):
            await screen.look(9.0 + step * 0.002, 47.10, 9.1 + step * 0.002, 47.20)
        # The last of them looks at Vaduz no more.
        await screen.look(*VADUZ)
        await screen.until(lambda: vehicle_id in screen.vehicles)
        await driver.report(fix(2))
        await screen.until(lambda: screen.vehicles[vehicle_id]["latitude"] == 47.1411)
        assert not any(message["type"] == "error" for message in screen.messages)


async def test_trust_38_39_a_fleet_is_shown_to_its_own_dispatchers_alone(hub: HubProcess, api: Api) -> None:
    fleet_id, other = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    bearers = {
        "passenger": token("passenger", trip["trip_id"]),
        "driver": token("driver", vehicle_id),
        "another fleet's": token("dispatcher", other),
        "operator": token("operator"),
    }
    for bearer in bearers.values():
        for asked in (fleet_id, new_id("fleet")):
            async with Socket(f"{hub.url}/v1/fleets/{asked}/live", bearer) as socket:
                assert await socket.closed() == 4502
    # For the fleet's own, and for the service, it must exist.
    missing = new_id("fleet")
    async with Dispatcher(hub.url, missing) as socket:
        assert await socket.closed() == 4502
    async with Socket(f"{hub.url}/v1/fleets/{missing}/live", token("service")) as socket:
        assert await socket.closed() == 4502
    async with Dispatcher(hub.url, fleet_id, token("service")) as screen:
        await screen.look(*VADUZ)
        assert (await screen.receive())["type"] == "fleet_snapshot"
    # And nothing of it comes through the other fleet's socket.
    async with Dispatcher(hub.url, other) as screen, Driver(hub.url, vehicle_id) as driver:
        await screen.look(*VADUZ)
        await driver.report(fix(1))
        await driver.acknowledged(1)
        await api.advance(trip["trip_id"], "canceled")
        await screen.look(*VADUZ)
        await screen.expect("fleet_snapshot")
        await screen.look(*VADUZ)
        await screen.expect("fleet_snapshot")
        assert all(message["type"] == "fleet_snapshot" and not message["vehicles"] for message in screen.messages)


async def test_trust_31_32_a_dispatcher_whose_token_ends_is_sent_away(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    issued = await api.call("POST", "/tokens", {"role": "dispatcher", "fleet_id": fleet_id})
    async with Dispatcher(hub.url, fleet_id, issued["token"]) as revoked, Dispatcher(hub.url, fleet_id) as other:
        for screen in (revoked, other):
            await screen.look(*VADUZ)
            await screen.expect("fleet_snapshot")
        await api.call("DELETE", f"/tokens/{issued['jti']}")
        assert await revoked.closed() == 4503
        await other.look(*VADUZ)
        await other.expect("fleet_snapshot")
    async with Dispatcher(hub.url, fleet_id, token("dispatcher", fleet_id, expires_in=1)) as expiring:
        assert await expiring.closed() == 4405


async def test_a_screen_gets_signs_of_life(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(tick_interval="0.2")
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
    async with Dispatcher(hub.url, fleet_id) as screen:
        assert abs((await screen.expect("tick"))["server_time"] - now_ms()) < 10_000


async def test_a_vehicle_tells_what_the_hub_knows_of_it(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    assert (await api.call("GET", f"/vehicles/{vehicle_id}"))["status"] == "lost"
    trip = await api.trip(fleet_id, vehicle_id)
    async with Driver(hub.url, vehicle_id) as driver:
        now = now_ms()
        await driver.report(fix(1, fix_time=now, speed=3.5, battery=0.25, accuracy=6.0))
        await driver.acknowledged(1)
        seen = await api.call("GET", f"/vehicles/{vehicle_id}")
    assert (seen["status"], seen["trip_id"]) == ("on_trip", trip["trip_id"])
    position = seen["position"]
    assert abs(position.pop("server_time") - now) < 10_000
    place = {"latitude": 47.14105, "longitude": 9.521}
    assert position == {**place, "fix_time": now, "speed": 3.5, "battery": 0.25, "accuracy": 6.0}
