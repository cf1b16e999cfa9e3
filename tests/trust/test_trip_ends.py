"""Rows 35 to 37: a passenger sees nothing after the end of the link, of the trip, or of the vehicle's part in it."""

import asyncio
from typing import Any

import pytest
import websockets

from tests.support.clients import Api, Driver, Message, Passenger, Socket, fix, now_ms, token
from tests.support.hub_process import HubProcess

pytestmark = pytest.mark.also_two_hubs

DRIVE = ("enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff")
ENDS = {"complete": (*DRIVE, "complete"), "canceled": ("enroute_to_pickup", "canceled")}


async def until_closed(socket: Socket) -> tuple[int | None, list[Message]]:
    """The close code, and all messages before it."""
    messages: list[Message] = []
    try:
        while True:
            messages.append(await socket.receive())
    except websockets.ConnectionClosed:
        return socket.connection.close_code, messages


async def refused(url: str, trip_id: str, bearer: str | None = None, query: str = "") -> int:
    """Check that the passenger sees nothing. Returns the close code."""
    async with Passenger(url, trip_id, bearer, query) as passenger:
        code, messages = await until_closed(passenger)
    assert messages == []
    assert code is not None
    return code


def places(*fixes: Message) -> list[list[float]]:
    """The track of these fixes."""
    return [[f["longitude"], f["latitude"], f["fix_time"]] for f in fixes]


# --- row 35: the link -----------------------------------------------------------------------------------------------


async def test_row_35_a_share_that_expires_while_open_is_closed(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    share = await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 3}, expect=201)
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as lasting:
        async with Passenger(hub.url, trip_id, share["token"]) as passenger:
            for watcher in (lasting, passenger):
                await watcher.expect("snapshot")
            await driver.report(fix(1))
            await passenger.expect("position")
            code, _ = await until_closed(passenger)
            assert code == 4503
            assert share["expires_at"] - 50 <= now_ms() < share["expires_at"] + 2_000
        assert await refused(hub.url, trip_id, share["token"]) == 4503
        for path in (f"/trips/{trip_id}", f"/trips/{trip_id}/track"):
            response = await api.http.get(path, headers={"Authorization": f"Bearer {share['token']}"})
            assert response.status_code == 401
        # Nobody else is closed.
        await driver.report(fix(2))
        assert (await lasting.expect("position"))["offset"] == 1
        assert (await lasting.expect("position"))["offset"] == 2


async def test_row_35_a_share_revoked_while_open_is_closed(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    revoked = await api.call("POST", f"/trips/{trip_id}/shares", {})
    kept = await api.call("POST", f"/trips/{trip_id}/shares", {})
    async with (
        Driver(hub.url, vehicle_id) as driver,
        Passenger(hub.url, trip_id, revoked["token"]) as passenger,
        Passenger(hub.url, trip_id, kept["token"]) as other,
    ):
        first = await passenger.expect("snapshot")
        await other.expect("snapshot")
        await api.call("DELETE", f"/shares/{revoked['share_id']}", expect=204)
        await driver.report(fix(1))
        async with asyncio.timeout(2):
            code, messages = await until_closed(passenger)
        assert code == 4503
        assert [m["type"] for m in messages] == []
        assert (await other.expect("position"))["offset"] == 1
        resume = f"?epoch={first['epoch']}&offset={first['offset']}"
        for query in ("", resume):
            assert await refused(hub.url, trip_id, revoked["token"], query) == 4503
    listed = (await api.call("GET", f"/trips/{trip_id}/shares"))["shares"]
    assert {share["share_id"]: "revoked_at" in share for share in listed} == {
        revoked["share_id"]: True,
        kept["share_id"]: False,
    }
    # Revoking again is no error.
    await api.call("DELETE", f"/shares/{revoked['share_id']}", expect=204)


# --- row 36: the end of the trip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", ENDS.values(), ids=ENDS.keys())
async def test_row_36_the_end_is_the_last_message_of_a_trip(hub: HubProcess, api: Api, steps: tuple[str, ...]) -> None:
    """The `trip` message comes, then 4506. The driver continues, but nobody sees it: neither live, nor later, nor over HTTP."""
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    await api.advance(trip_id, *steps[:-1])
    share = await api.call("POST", f"/trips/{trip_id}/shares", {})
    async with (
        Driver(hub.url, vehicle_id) as driver,
        Passenger(hub.url, trip_id) as passenger,
        Passenger(hub.url, trip_id, share["token"]) as sharer,
        Passenger(hub.url, trip_id, token("dispatcher", fleet_id)) as dispatcher,
    ):
        watchers = (passenger, sharer, dispatcher)
        snapshots = [await watcher.expect("snapshot") for watcher in watchers]
        during = fix(1)
        await driver.report(during)
        for watcher in watchers:
            await watcher.expect("position")
        await driver.acknowledged(1)

        await api.advance(trip_id, steps[-1])
        after = fix(2, fix_time=now_ms() + 1_000)
        await driver.report(after)
        for watcher in watchers:
            code, messages = await until_closed(watcher)
            assert code == 4506
            assert [m["type"] for m in messages] == ["trip"]
            assert messages[0]["trip"]["status"] == steps[-1]
            assert messages[0]["offset"] == snapshots[0]["offset"] + 2
        await driver.report(fix(3, fix_time=now_ms() + 2_000))
        await driver.acknowledged(3)

        for bearer in (None, share["token"]):
            for query in ("", f"?epoch={snapshots[0]['epoch']}&offset=0", f"?epoch={snapshots[0]['epoch']}&offset=1"):
                assert await refused(hub.url, trip_id, bearer, query) == 4506
            headers = {"Authorization": f"Bearer {bearer or token('passenger', trip_id)}"}
            for format_ in ("geojson", "csv"):
                response = await api.http.get(f"/trips/{trip_id}/track", params={"format": format_}, headers=headers)
                assert response.status_code == 403
                assert str(during["latitude"]) not in response.text
            # The status may still be seen. The vehicle may not.
            response = await api.http.get(f"/trips/{trip_id}", headers=headers)
            assert response.json()["status"] == steps[-1]
            assert "vehicle" not in response.json()
            assert vehicle_id not in response.text
    rows = await api.track(f"/trips/{trip_id}/track", suspect="true")
    assert [row["seq"] for row in rows] == ["1"]
    rows = await api.track(f"/vehicles/{vehicle_id}/track", suspect="true")
    assert [(row["seq"], row["trip_id"]) for row in rows] == [("1", trip_id), ("2", ""), ("3", "")]


async def test_row_36_the_driver_ends_the_trip_and_continues(hub: HubProcess, api: Api) -> None:
    """The driver sends the status and fixes after it at once. Nobody sees those fixes."""
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await driver.send({"type": "trip_status", "trip_id": trip_id, "status": "canceled", "client_id": "end"})
        assert await driver.expect("done") == {"type": "done", "client_id": "end"}
        await driver.report(*(fix(seq, fix_time=now_ms() + seq) for seq in range(1, 20)))
        code, messages = await until_closed(passenger)
        await driver.acknowledged(19)
    assert (code, [m["type"] for m in messages]) == (4506, ["trip"])
    assert await api.track(f"/trips/{trip_id}/track", suspect="true") == []


async def test_row_36_a_message_to_a_trip_that_is_over_is_refused(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver:
        await api.advance(trip_id, "canceled")
        await driver.send({"type": "message", "trip_id": trip_id, "text": "where are you?", "client_id": "c"})
        assert (await driver.expect("done"))["code"] in ("conflict", "forbidden")
        await driver.send({"type": "trip_status", "trip_id": trip_id, "status": "enroute_to_pickup", "client_id": "d"})
        assert (await driver.expect("done"))["code"] in ("conflict", "forbidden")


async def test_row_36_before_the_start_nothing_is_seen(hub: HubProcess, api: Api) -> None:
    """A passenger may wait for a `new` trip. It sees the vehicle's place only when the trip is under way."""
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    headers = {"Authorization": f"Bearer {token('passenger', trip_id)}"}
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        snapshot = await passenger.expect("snapshot")
        # Long before the start, so that the grace time does not include them.
        await driver.report(fix(1, fix_time=now_ms() - 60_000), fix(2, fix_time=now_ms() - 40_000))
        await driver.acknowledged(2)
        async with Passenger(hub.url, trip_id) as second:
            again = await second.expect("snapshot")
        for seen in (snapshot, again):
            assert seen["track"] == []
            assert "position" not in seen
        assert (await api.http.get(f"/trips/{trip_id}/track", headers=headers)).status_code == 403
        await api.advance(trip_id, "enroute_to_pickup")
        assert (await passenger.receive())["type"] == "trip"
        await driver.report(fix(3))
        update = await passenger.receive()
        assert (update["type"], update["latitude"]) == ("position", fix(3)["latitude"])
        await driver.acknowledged(3)
        async with Passenger(hub.url, trip_id) as third:
            assert len((await third.expect("snapshot"))["track"]) == 1
    assert (await api.http.get(f"/trips/{trip_id}/track", headers=headers)).status_code == 200
    assert [row["seq"] for row in await api.track(f"/trips/{trip_id}/track")] == ["3"]


async def test_row_36_fixes_from_before_the_start_and_after_the_end_do_not_belong_to_the_trip(
    hub: HubProcess, api: Api
) -> None:
    """One backlog comes during the trip, and one after its end. There are 30 s of grace."""
    vehicle_id, trip_id = await api.under_way()
    started = now_ms()
    before, grace = fix(1, fix_time=started - 45_000), fix(2, fix_time=started - 20_000)
    during = fix(3, fix_time=now_ms())
    async with Driver(hub.url, vehicle_id) as driver:
        async with Passenger(hub.url, trip_id) as passenger:
            await passenger.expect("snapshot")
            await driver.report(before, grace, during)
            seen = [await passenger.expect("position") for _ in range(2)]
            assert [position["fix_time"] for position in seen] == [grace["fix_time"], during["fix_time"]]
            await driver.acknowledged(3)
            async with Passenger(hub.url, trip_id) as late:
                assert (await late.expect("snapshot"))["track"] == places(grace, during)
            await api.advance(trip_id, "canceled")
        ended = now_ms()
        await driver.report(fix(4, fix_time=ended + 5_000), fix(5, fix_time=during["fix_time"], latitude=47.1412))
        await driver.acknowledged(5)
    rows = await api.track(f"/trips/{trip_id}/track", suspect="true")
    assert [row["seq"] for row in rows] == ["2", "3", "5"]


async def test_row_36_a_clock_ahead_puts_nothing_past_the_end(hub: HubProcess, api: Api) -> None:
    """Fixes that were sent before the end but dated after it are not in the track of the finished trip."""
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1), fix(2, fix_time=now_ms() + 50_000))
        await driver.acknowledged(2)
        await api.advance(trip_id, "canceled")
    assert [row["seq"] for row in await api.track(f"/trips/{trip_id}/track", suspect="true")] == ["1"]


# --- row 37: the vehicle's next trip --------------------------------------------------------------------------------


async def next_trip(api: Api, old_id: str, vehicle_id: str) -> str:
    """End the old trip, and start a new one with the same vehicle. Returns its id."""
    old = await api.advance(old_id, "canceled")
    new = await api.trip(old["fleet_id"], vehicle_id)
    await api.advance(new["trip_id"], "enroute_to_pickup")
    trip_id: str = new["trip_id"]
    return trip_id


async def test_row_37_an_old_link_shows_nothing_of_the_new_trip(hub: HubProcess, api: Api) -> None:
    vehicle_id, old_id = await api.under_way()
    share = await api.call("POST", f"/trips/{old_id}/shares", {})
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, old_id, share["token"]) as watcher:
        first = await watcher.expect("snapshot")
        await driver.report(fix(1))
        await watcher.expect("position")
        new_id = await next_trip(api, old_id, vehicle_id)
        async with Passenger(hub.url, new_id) as passenger:
            await passenger.expect("snapshot")
            await driver.report(fix(2))
            assert (await passenger.expect("position"))["fix_time"]
        code, messages = await until_closed(watcher)
        assert (code, [m["type"] for m in messages]) == (4506, ["trip"])
        for query in ("", f"?epoch={first['epoch']}&offset=0"):
            assert await refused(hub.url, old_id, share["token"], query) == 4506
            assert await refused(hub.url, new_id, share["token"], query) == 4502
        headers = {"Authorization": f"Bearer {share['token']}"}
        assert (await api.http.get(f"/trips/{new_id}", headers=headers)).status_code == 404
        assert (await api.http.get(f"/trips/{new_id}/track", headers=headers)).status_code == 404
        assert (await api.http.get(f"/trips/{old_id}/track", headers=headers)).status_code == 403
        # It can't write to the new trip either.
        await driver.acknowledged(2)


async def test_row_37_a_late_backlog_of_the_old_trip_goes_to_the_old_trip_only(hub: HubProcess, api: Api) -> None:
    """Late fixes of the old trip are in its track, and never on the map of the new one."""
    vehicle_id, old_id = await api.under_way()
    begin = now_ms()
    old = [fix(seq, fix_time=begin - 10_000 + seq * 100) for seq in range(1, 51)]
    while now_ms() <= begin + 2:
        await api.call("GET", f"/trips/{old_id}")
    new_id = await next_trip(api, old_id, vehicle_id)
    async with Passenger(hub.url, new_id) as passenger, Driver(hub.url, vehicle_id) as driver:
        await passenger.expect("snapshot")
        await driver.report(*old)
        await driver.acknowledged(50)
        # The marker is the first fix of the new trip.
        own = fix(51)
        await driver.report(own)
        update = await passenger.receive()
        assert (update["type"], update["fix_time"]) == ("position", own["fix_time"])
        await driver.acknowledged(51)
        async with Passenger(hub.url, new_id) as late:
            snapshot = await late.expect("snapshot")
        assert snapshot["track"] == places(own)
        assert snapshot["position"]["fix_time"] == own["fix_time"]
    assert [int(row["seq"]) for row in await api.track(f"/trips/{old_id}/track", suspect="true")] == list(range(1, 51))
    assert [int(row["seq"]) for row in await api.track(f"/trips/{new_id}/track", suspect="true")] == [51]


async def test_row_37_a_late_backlog_after_a_restart_is_treated_the_same(own_hub: Any) -> None:
    """The hub then knows the old trip only from the database."""
    hub: HubProcess = own_hub()
    async with Api(hub.url) as api:
        vehicle_id, old_id = await api.under_way()
        during = now_ms()
        while now_ms() <= during:
            await api.call("GET", f"/trips/{old_id}")
        new_id = await next_trip(api, old_id, vehicle_id)
        between = now_ms()
        hub.kill()
        hub.start()
        async with Passenger(hub.url, new_id) as passenger, Driver(hub.url, vehicle_id) as driver:
            await passenger.expect("snapshot")
            await driver.report(fix(1, fix_time=during - 31_000), fix(2, fix_time=during), fix(3, fix_time=between))
            assert (await passenger.receive())["fix_time"] == between
            await driver.acknowledged(3)
        rows = await api.track(f"/vehicles/{vehicle_id}/track", suspect="true")
        assert [row["trip_id"] for row in rows] == ["", old_id, new_id]


async def test_row_37_the_old_driver_of_a_trip_is_no_longer_seen(hub: HubProcess, api: Api) -> None:
    """When another vehicle takes over a trip, its watchers see the new one. The old one is no longer seen."""
    old_vehicle, trip_id = await api.under_way()
    trip = await api.call("GET", f"/trips/{trip_id}")
    new_vehicle = await api.vehicle(trip["fleet_id"], plate="FL 2")
    async with (
        Driver(hub.url, old_vehicle) as old,
        Driver(hub.url, new_vehicle) as new,
        Passenger(hub.url, trip_id) as passenger,
    ):
        await passenger.expect("snapshot")
        await old.report(fix(1))
        await passenger.expect("position")
        await old.acknowledged(1)
        await api.call("PATCH", f"/trips/{trip_id}", {"vehicle_id": new_vehicle, "version": trip["version"]})
        assert (await passenger.receive())["trip"]["vehicle"]["plate"] == "FL 2"
        await old.report(fix(2, fix_time=now_ms() + 2_000))
        await old.acknowledged(2)
        await new.report(fix(1, latitude=47.2))
        update = await passenger.receive()
        assert (update["type"], update["latitude"]) == ("position", 47.2)
        await new.acknowledged(1)
    rows = await api.track(f"/trips/{trip_id}/track", suspect="true")
    assert [(row["vehicle_id"], row["seq"]) for row in rows] == [(old_vehicle, "1"), (new_vehicle, "1")]


async def test_row_37_a_deleted_trip_is_gone_for_its_watchers(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    trip_id = (await api.trip(fleet_id, None))["trip_id"]
    async with Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await api.call("DELETE", f"/trips/{trip_id}", expect=204)
        code, messages = await until_closed(passenger)
    assert (code, messages) == (4502, [])
    assert await refused(hub.url, trip_id) == 4502
