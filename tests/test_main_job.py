"""The main job: a driver's position reaches the passenger's socket and is stored."""

from tests.support.clients import Api, Driver, Passenger, fix, now_ms
from tests.support.hub_process import HubProcess


async def test_a_position_reaches_the_passenger_and_the_database(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        snapshot = await passenger.receive()
        assert snapshot["type"] == "snapshot"
        assert snapshot["track"] == []
        assert "position" not in snapshot
        assert snapshot["trip"]["vehicle"]["plate"] == "FL 12345"

        await driver.report(fix(1, speed=8.5, bearing=12.0, accuracy=4.7))
        seen = await passenger.expect("position")
        assert seen["offset"] == snapshot["offset"] + 1
        assert (seen["latitude"], seen["longitude"]) == (47.14105, 9.521)
        assert (seen["speed"], seen["bearing"], seen["accuracy"]) == (8.5, 12.0, 4.7)
        assert abs(seen["server_time"] - now_ms()) < 10_000

        await driver.acknowledged(1)
        rows = await api.track(f"/trips/{trip_id}/track")
        assert [(row["seq"], row["latitude"], row["accuracy"], row["trip_id"]) for row in rows] == [
            ("1", "47.14105", "4.7", trip_id)
        ]


async def test_a_snapshot_holds_the_whole_track(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    begin = now_ms() - 20_000
    fixes = [fix(seq, fix_time=begin + seq * 1000) for seq in range(1, 11)]
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(*fixes)
        await driver.acknowledged(10)
        async with Passenger(hub.url, trip_id) as passenger:
            snapshot = await passenger.receive()
    assert snapshot["track"] == [[f["longitude"], f["latitude"], f["fix_time"]] for f in fixes]
    assert snapshot["position"]["fix_time"] == fixes[-1]["fix_time"]
