"""Passengers whose vehicle's driver is connected to another hub."""

import uuid

import pytest

from tests.cluster.hubs import cluster, drive, is_whole, until, watching
from tests.ingest.direct import nothing_is_stored
from tests.support.clients import Driver, Passenger
from tracking.metrics import NODE_POSITIONS


async def test_a_passenger_elsewhere_sees_all_in_order_and_none_twice(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver:
            before = NODE_POSITIONS.labels("out").value
            await driver.report(drive(1))
            await driver.acknowledged(1)
            assert NODE_POSITIONS.labels("out").value == before, "nobody watches"
            async with watching(there.url, trip_id) as watcher:
                for seq in range(2, 21):
                    await driver.report(drive(seq))
                # The driver's hub knows of the passenger elsewhere.
                assert (await driver.expect("interval"))["interval"] == here.service.settings.interval_watched
                await driver.acknowledged(20)
                await until(lambda: len(watcher.positions) == 20, "all positions")
                await until(is_whole(hubs, watcher, trip_id), "the line is as stored")
                assert watcher.of_type("track_revised") == []
                await driver.report({**drive(21), "fix_time": drive(11)["fix_time"] + 500, "latitude": drive(11)["latitude"]})
                await driver.acknowledged(21)
                await until(lambda: bool(watcher.of_type("track_revised")), "the late fix")
                await until(is_whole(hubs, watcher, trip_id), "the line with it")
                assert watcher.breaks == []
            # `beat` notices that nobody reads the trip any more, and tells it.
            for hub in hubs.hubs:
                hub.beat()
            assert (await driver.expect("interval"))["interval"] == here.service.settings.interval_trip
            there.service.hub.drop_feed(trip_id)
            await until(lambda: trip_id not in here.trips.interest.theirs, "the want is taken back")


async def test_status_and_messages_go_both_ways_and_a_trip_that_is_over_shows_nothing(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver, Passenger(there.url, trip_id) as passenger:
            version = (await passenger.expect("snapshot"))["trip"]["version"]
            await passenger.send({"type": "message", "text": "I am here", "client_id": "m1"})
            assert (await driver.expect("message"))["text"] == "I am here"
            await driver.send({"type": "message", "trip_id": trip_id, "text": "I see you", "client_id": "m2"})
            assert [(await passenger.expect("message"))["text"] for _ in range(2)] == ["I am here", "I see you"]
            await driver.send({"type": "trip_status", "trip_id": trip_id, "status": "arrived_at_pickup", "client_id": "s1"})
            assert (await passenger.expect("trip"))["trip"]["version"] == version + 1
            await hubs.api.advance(trip_id, "enroute_to_dropoff", "complete")
            assert await passenger.closed() == 4506
            assert trip_id not in there.trips.interest.ours


async def test_a_fix_that_waits_for_its_commit_at_the_home_is_in_the_snapshot_elsewhere(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver:
            await driver.report(drive(1))
            await driver.acknowledged(1)
            async with nothing_is_stored(database_url):
                await driver.report(drive(2), drive(3))
                await until(lambda: len(here.service.recorder.queue.pending(trip_id)) == 2, "two fixes wait")
                async with watching(there.url, trip_id) as watcher:
                    snapshot = watcher.messages[0]
                    assert [point[2] for point in snapshot["track"]] == [drive(seq)["fix_time"] for seq in (1, 2, 3)]
                    assert snapshot["position"]["fix_time"] == drive(3)["fix_time"]
                    # The next reader of the same feed finds them too.
                    async with watching(there.url, trip_id) as second:
                        assert second.messages[0]["track"] == snapshot["track"]
                    # A part that is read again while they still wait has them.
                    feed = there.service.hub.feeds[trip_id]
                    there.service.revisions.revise_all(feed.trip)
                    await until(lambda: bool(watcher.of_type("track_revised")), "the line is sent again")
                    assert [point[2] for point in watcher.of_type("track_revised")[0]["track"]] == [
                        drive(seq)["fix_time"] for seq in (1, 2, 3)
                    ]


@pytest.mark.parametrize("told", [True, False], ids=["with its state", "without"])
async def test_fixes_that_come_again_to_another_hub_are_shown_once(database_url: str, told: bool) -> None:
    """`told`: the former home hands over what it knows of the vehicle."""
    session = str(uuid.uuid4())
    async with cluster(database_url, 3) as hubs:
        first, second, third = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with watching(third.url, trip_id) as watcher, watching(second.url, trip_id) as beside:
            first.store_nothing()
            async with Driver(first.url, vehicle_id, session) as driver:
                await driver.report(*(drive(seq) for seq in range(1, 6)))
                await until(lambda: len(watcher.positions) == len(beside.positions) == 5, "shown before their commit")
            if not told:
                first.backplane.drops = lambda _: True
            async with Driver(second.url, vehicle_id, session) as driver:
                assert driver.handled == 0
                await driver.report(*(drive(seq) for seq in range(1, 9)))
                await driver.acknowledged(8)
                await until(lambda: len(watcher.positions) == len(beside.positions) == 8, "the new ones")
            for one in (watcher, beside):
                await until(is_whole(hubs, one, trip_id), "the line is as stored")
                assert one.positions == [drive(seq)["fix_time"] for seq in range(1, 9)]
                assert one.breaks == []


async def test_a_trip_that_begins_to_show_shows_the_newest_position_in_both_orders(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        fleet_id = await hubs.api.fleet()
        for late in (here, there):
            vehicle_id = await hubs.api.vehicle(fleet_id)
            trip = await hubs.api.trip(fleet_id, vehicle_id)
            trip_id = trip["trip_id"]
            async with Driver(here.url, vehicle_id) as driver, watching(there.url, trip_id) as watcher:
                await until(lambda: bool(there.trips.interest.ours), "it is wanted")
                with late.not_following():
                    await hubs.api.advance(trip_id, "enroute_to_pickup")
                    other = there if late is here else here
                    await until(lambda: other.service.follower.applied >= hubs.last_change(), "the other hub has applied it")  # noqa: B023
                    await driver.report(drive(1), drive(2))
                    await driver.acknowledged(2)
                    assert watcher.positions == []
                await until(lambda: drive(2)["fix_time"] in watcher.positions, "the newest position")
                await until(is_whole(hubs, watcher, trip_id), "the line")
                assert watcher.breaks == []


async def test_many_watchers_that_arrive_at_once_are_served(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver:
            await driver.report(drive(1), drive(2))
            await driver.acknowledged(2)
            passengers = [Passenger(there.url, trip_id) for _ in range(30)]
            for passenger in passengers:
                await passenger.__aenter__()
            snapshots = [await passenger.expect("snapshot") for passenger in passengers]
            assert all(len(snapshot["track"]) == 2 for snapshot in snapshots)
            for passenger in passengers:
                await passenger.connection.close()


async def test_nothing_of_an_erased_vehicle_is_shown_though_its_home_goes_on(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver, watching(there.url, trip_id) as watcher:
            await driver.report(drive(1))
            await driver.acknowledged(1)
            await until(lambda: len(watcher.positions) == 1, "the first")
            [position] = there.trips.uncommitted.of(trip_id).positions
            number = position.vehicle
            there.trips.forget([number])
            assert trip_id not in there.trips.uncommitted
            await driver.report(drive(2))
            await driver.acknowledged(2)
            await until(lambda: bool(here.trips.interest.theirs.get(trip_id)), "still wanted")
            before = NODE_POSITIONS.labels("in").value
            await driver.report(drive(3))
            await driver.acknowledged(3)
            await until(lambda: NODE_POSITIONS.labels("in").value > before, "it has come")
            assert len(watcher.positions) == 1
            # Nor from an answer.
            there.trips.missed(here.name)
            await until(lambda: not there.trips.asks.is_waiting, "answered")
            assert len(watcher.positions) == 1
            assert trip_id not in there.trips.uncommitted
