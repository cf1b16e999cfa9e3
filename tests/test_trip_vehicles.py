"""A trip whose vehicle changes, is renamed, is removed or was erased, as its passengers see it."""

import asyncpg
import gpxpy
import pytest

from tests.support.clients import Api, Driver, Passenger, fix, now_ms
from tests.support.devices import until
from tests.support.hub_process import HubProcess

pytestmark = pytest.mark.also_two_hubs


async def test_another_vehicle_takes_over_in_mid_trip(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    trip = await api.call("GET", f"/trips/{trip_id}")
    other_id = await api.vehicle(trip["fleet_id"], name="Van 2", plate="FL 2")
    async with (
        Driver(hub.url, vehicle_id) as first,
        Driver(hub.url, other_id) as second,
        Passenger(hub.url, trip_id) as passenger,
    ):
        await passenger.receive()
        await first.report(fix(1))
        await passenger.expect("position")
        await api.call("PATCH", f"/trips/{trip_id}", {"version": trip["version"], "vehicle_id": other_id})
        assert (await passenger.expect("trip"))["trip"]["vehicle"]["plate"] == "FL 2"
        assert "vehicle" not in (await first.expect("trip"))["trip"]
        assert (await second.expect("trip"))["trip"]["trip_id"] == trip_id
        await first.report(fix(2))
        await first.acknowledged(2)
        await second.report(fix(1, latitude=47.142))
        assert (await passenger.expect("position"))["latitude"] == 47.142
        await second.acknowledged(1)
    rows = await api.track(f"/trips/{trip_id}/track")
    assert [(row["vehicle_id"], row["seq"]) for row in rows] == [(vehicle_id, "1"), (other_id, "1")]


@pytest.mark.parametrize("ahead", [0, 50_000])
async def test_who_joins_after_a_change_of_vehicle_sees_where_the_new_one_is(hub: HubProcess, api: Api, ahead: int) -> None:
    """Though the first one's clock runs ahead, and though it sends on."""
    first_id, trip_id = await api.under_way()
    trip = await api.call("GET", f"/trips/{trip_id}")
    second_id = await api.vehicle(trip["fleet_id"], name="Van 2", plate="FL 2")
    async with (
        Driver(hub.url, first_id) as first,
        Driver(hub.url, second_id) as second,
        Passenger(hub.url, trip_id) as watching,
    ):
        await watching.receive()
        begin = now_ms() + ahead - 4_000
        await first.report(*(fix(seq, fix_time=begin + seq * 1_000) for seq in (1, 2, 4)))
        await first.acknowledged(4)
        await api.call("PATCH", f"/trips/{trip_id}", {"version": trip["version"], "vehicle_id": second_id})
        await watching.expect("trip")
        async with Passenger(hub.url, trip_id) as passenger:
            snapshot = await passenger.receive()
        assert snapshot["trip"]["vehicle"]["vehicle_id"] == second_id
        assert "position" not in snapshot
        assert (len(snapshot["track"]), snapshot["segments"]) == (3, [[0, first_id]])

        # The first one's fix from before the change, which its network held back.
        late = fix(5, fix_time=begin + 3_000 if ahead else now_ms() - 2_000)
        await first.report(late)
        await first.acknowledged(5)
        here = fix(1, latitude=47.1425)
        await second.report(here)
        update = await watching.expect("position")
        assert (update["latitude"], update["fix_time"]) == (here["latitude"], here["fix_time"])
        await second.acknowledged(1)
        async with Passenger(hub.url, trip_id) as passenger:
            snapshot = await passenger.receive()
    assert snapshot["position"]["fix_time"] == here["fix_time"]
    assert [point[2] for point in snapshot["track"]] == sorted(point[2] for point in snapshot["track"])
    assert [here["longitude"], here["latitude"], here["fix_time"]] in snapshot["track"]
    assert {vehicle_id for _, vehicle_id in snapshot["segments"]} == {first_id, second_id}


async def test_what_the_former_vehicle_held_back_fills_its_line_and_moves_no_marker(hub: HubProcess, api: Api) -> None:
    first_id, trip_id = await api.under_way()
    trip = await api.call("GET", f"/trips/{trip_id}")
    second_id = await api.vehicle(trip["fleet_id"])
    async with Driver(hub.url, first_id) as first, Passenger(hub.url, trip_id) as passenger:
        await passenger.receive()
        begin = now_ms() - 5_000
        await first.report(fix(1, fix_time=begin))
        await passenger.expect("position")
        await api.call("PATCH", f"/trips/{trip_id}", {"version": trip["version"], "vehicle_id": second_id})
        await passenger.expect("trip")
        held_back = fix(2, fix_time=begin + 1_000)
        await first.report(held_back)
        revised = await passenger.expect("position", "track_revised")
    assert revised["type"] == "track_revised"
    assert revised["track"] == [[held_back["longitude"], held_back["latitude"], held_back["fix_time"]]]
    assert revised["segments"] == [[0, first_id]]


async def test_the_track_of_two_vehicles_has_a_segment_for_each(hub: HubProcess, api: Api) -> None:
    """The first one's clock runs ahead, so that by the times alone their fixes stand by turns."""
    first_id, trip_id = await api.under_way()
    trip = await api.call("GET", f"/trips/{trip_id}")
    second_id = await api.vehicle(trip["fleet_id"])
    async with Driver(hub.url, first_id) as first, Driver(hub.url, second_id) as second:
        begin = now_ms()
        mine = [fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, 11)]
        await first.report(*mine)
        await first.acknowledged(10)
        await api.call("PATCH", f"/trips/{trip_id}", {"version": trip["version"], "vehicle_id": second_id})
        yours = [fix(seq, fix_time=begin + seq * 1_000 + 500, latitude=47.2 + seq / 10_000) for seq in range(1, 11)]
        await second.report(*yours)
        await second.acknowledged(10)
    rows = await api.track(f"/trips/{trip_id}/track")
    assert [row["vehicle_id"] for row in rows] == [first_id] * 10 + [second_id] * 10
    found = await api.call("GET", f"/trips/{trip_id}/track")
    assert [feature["properties"]["vehicle_id"] for feature in found["features"]] == [first_id, second_id]
    for feature, fixes in zip(found["features"], (mine, yours), strict=True):
        assert feature["geometry"]["type"] == "LineString"
        assert feature["geometry"]["coordinates"] == [[f["longitude"], f["latitude"]] for f in fixes]
        assert feature["properties"]["fix_times"] == [f["fix_time"] for f in fixes]
    gpx = gpxpy.parse((await api.http.get(f"/trips/{trip_id}/track?format=gpx")).text)
    assert [[point.latitude for point in segment.points] for segment in gpx.tracks[0].segments] == [
        [f["latitude"] for f in fixes] for fixes in (mine, yours)
    ]


async def test_a_new_plate_is_shown_and_a_vehicle_that_is_gone_is_not(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    async with Passenger(hub.url, trip["trip_id"]) as passenger:
        assert (await passenger.receive())["trip"]["vehicle"]["plate"] == "FL 12345"
        await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "plate": "FL 99999"})
        assert (await passenger.expect("trip"))["trip"]["vehicle"]["plate"] == "FL 99999"
        await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
        assert "vehicle" not in (await passenger.expect("trip"))["trip"]
    async with Passenger(hub.url, trip["trip_id"]) as passenger:
        assert "vehicle" not in (await passenger.receive())["trip"]


async def test_a_vehicle_does_not_change_its_fleet_while_a_passenger_waits_for_it(api: Api) -> None:
    fleet_id, other_id = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": other_id}, expect=409)
    await api.advance(trip["trip_id"], "canceled")
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": other_id}, expect=200)


async def test_who_comes_while_a_name_is_changed_takes_it_back_from_nobody(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    vehicle = await api.call("GET", f"/vehicles/{vehicle_id}")
    database = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    async with Passenger(hub.url, trip_id) as first, Passenger(hub.url, trip_id) as second:
        await first.expect("snapshot")
        await second.expect("snapshot")
        async with database.transaction():
            await database.execute("LOCK TABLE positions IN ACCESS EXCLUSIVE MODE")
            third = Passenger(hub.url, trip_id)
            async with third:
                # It has read the trip, and reads the track.
                waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'positions'::regclass"
                await until(lambda: database.fetchval(waits), "the track is being read")
                named = {key: vehicle[key] for key in ("fleet_id", "kind", "plate")} | {"name": "The new one"}
                await api.call("PUT", f"/vehicles/{vehicle_id}", named)
                assert (await first.expect("trip"))["trip"]["vehicle"]["name"] == "The new one"
                await database.execute("ROLLBACK; BEGIN")
                snapshot = await third.expect("snapshot")
                assert snapshot["trip"]["vehicle"]["name"] == "The new one"
                assert (await second.expect("trip"))["offset"] == snapshot["offset"]
    await database.close()


async def test_trust_40_what_an_erased_vehicle_drove_of_a_trip_is_shown_to_nobody_who_comes(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    fleet_id = (await api.call("GET", f"/vehicles/{vehicle_id}"))["fleet_id"]
    other = await api.vehicle(fleet_id)
    async with Passenger(hub.url, trip_id) as first:
        snapshot = await first.expect("snapshot")
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
            await first.expect("position")
        version = (await api.call("GET", f"/trips/{trip_id}"))["version"]
        await api.call("PATCH", f"/trips/{trip_id}", {"vehicle_id": other, "version": version})
        await first.expect("trip")
        await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
        for query in ("", f"?epoch={snapshot['epoch']}&offset={snapshot['offset']}"):
            async with Passenger(hub.url, trip_id, query=query) as passenger:
                assert (await passenger.receive()).get("track") == []
