"""Passengers who come from another hub with `since`: what they lack is in the memory of hubs."""

import pytest

from tests.cluster.hubs import Cluster, ClusterHub, cluster, drive, nothing_is_read, until, watching
from tests.support.clients import Driver, Message, Passenger, Socket, now_ms, token
from tracking.metrics import JOINS


async def joined(url: str, trip_id: str, since: int, bearer: str | None = None) -> Message:
    """The snapshot for a passenger with this `since`."""
    async with Passenger(url, trip_id, bearer, query=f"?epoch=old&offset=7&since={since}") as passenger:
        return await passenger.expect("snapshot")


def times(snapshot: Message) -> list[int]:
    return [point[2] for point in snapshot["track"]]


def driven(*seqs: int) -> list[int]:
    return [drive(seq)["fix_time"] for seq in seqs]


async def drove(hubs: Cluster, driver: Driver, *seqs: int) -> None:
    """Reports these fixes, six seconds apart by the hubs' clock."""
    for seq in seqs:
        await driver.report(drive(seq))
        await driver.acknowledged(seq)
        hubs.clock.ahead += 6_000


async def test_a_passenger_goes_on_at_any_hub_without_a_query(database_url: str) -> None:
    async with cluster(database_url, 3) as hubs:
        home, before, after = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(home.url, vehicle_id) as driver:
            await drove(hubs, driver, 1, 2, 3)
            async with watching(before.url, trip_id) as watcher:
                await drove(hubs, driver, 4, 5)
                await until(lambda: len(watcher.of_type("position")) == 2, "two positions")
                since = watcher.of_type("position")[0]["server_time"]
            async with nothing_is_read(database_url):
                await driver.report(drive(6))
                await until(lambda: bool(home.service.recorder.queue.pending(trip_id)), "one waits for its commit")
                for hub in (after, home, before):
                    served = JOINS.labels("peers").value
                    snapshot = await joined(hub.url, trip_id, since)
                    assert (snapshot["since"], times(snapshot)) == (since, driven(4, 5, 6))
                    assert snapshot["position"]["fix_time"] == drive(6)["fix_time"]
                    assert (snapshot["messages"], snapshot["trip"]["trip_id"]) == ([], trip_id)
                    assert JOINS.labels("peers").value == served + 1
            # Changes and positions follow.
            async with Passenger(after.url, trip_id, query=f"?since={since}") as passenger:
                assert "since" in await passenger.expect("snapshot")
                await driver.acknowledged(6)
                await driver.report(drive(7))
                assert (await passenger.expect("position"))["fix_time"] == drive(7)["fix_time"]
                await hubs.api.advance(trip_id, "arrived_at_pickup")
                assert (await passenger.expect("trip"))["trip"]["status"] == "arrived_at_pickup"


async def test_what_is_not_covered_is_served_from_the_store(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        home, other = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        another_trip = await hubs.api.under_way()
        async with Driver(home.url, vehicle_id) as driver:
            await drove(hubs, driver, 1, 2, 3)
            now = hubs.clock()
            for since in (0, now - 61_000, now + 6_000, 10**18, "x", "-1", ""):
                snapshot = await joined(other.url, trip_id, since)  # type: ignore[arg-type]
                assert ("since" in snapshot, times(snapshot)) == (False, driven(1, 2, 3)), since
            assert "since" in await joined(other.url, trip_id, now - 6_000)
            # The vehicle is new, so nothing of it came to another hub before its first fix.
            assert times(await joined(other.url, trip_id, now - 16_000)) == driven(1, 2, 3)
            # A late fix that was committed long after it came, and fixes that moved between trips.
            home.trips.recent.incomplete_before(trip_id, now)
            assert "since" not in await joined(other.url, trip_id, now - 6_000)
            async with Passenger(other.url, another_trip[1], token("passenger", trip_id), query=f"?since={now}") as stranger:
                assert await stranger.closed() == 4502
        # Nobody is the vehicle's home any more.
        await until(lambda: vehicle_id not in home.service.hub.drivers, "the driver has gone")
        assert "since" not in await joined(other.url, trip_id, hubs.clock())


async def test_messages_after_since_come_with_the_snapshot(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        home, other = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(home.url, vehicle_id) as driver:
            await drove(hubs, driver, 1, 2)
            for number in range(2):
                message = {"type": "message", "trip_id": trip_id, "text": f"text {number}", "client_id": f"m{number}"}
                await driver.send(message)
                await driver.expect("done")
                hubs.clock.ahead += 9_000
            await until(lambda: other.service.follower.applied >= hubs.last_change(), "the log is read")
            posted = JOINS.labels("store").value
            first = await joined(other.url, trip_id, hubs.clock() - 18_000 + 4_000)
            assert [message["text"] for message in first["messages"]] == ["text 0", "text 1"]
            assert first["messages"][0]["from"] == "driver"
            second = await joined(home.url, trip_id, hubs.clock() - 5_000)
            assert [message["text"] for message in second["messages"]] == ["text 1"]
            assert JOINS.labels("store").value == posted + 2
            assert (await joined(other.url, trip_id, hubs.clock()))["messages"] == []


@pytest.mark.parametrize("change", ["over", "vehicle"])
async def test_a_change_that_this_hub_has_applied_counts_more_than_an_answer(database_url: str, change: str) -> None:
    async with cluster(database_url, 2) as hubs:
        home, other = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(home.url, vehicle_id) as driver:
            await drove(hubs, driver, 1, 2)
            since = now_ms() + 12_000
            with home.not_following():
                if change == "over":
                    await change_through(other, trip_id, "canceled")
                    async with Passenger(other.url, trip_id, query=f"?since={since}") as passenger:
                        assert await passenger.closed() == 4506
                else:
                    fleet = (await hubs.api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
                    second = await hubs.api.vehicle(fleet)
                    await change_through(other, trip_id, None, second)
                    snapshot = await joined(other.url, trip_id, since)
                    assert ("since" in snapshot, snapshot["trip"]["vehicle"]["vehicle_id"]) == (False, second)
                    assert "position" not in snapshot


async def change_through(hub: ClusterHub, trip_id: str, status: str | None, vehicle_id: str | None = None) -> None:
    """Changes the trip through this hub."""
    async with hub.api() as api:
        version = (await api.call("GET", f"/trips/{trip_id}"))["version"]
        body = (
            {"version": version} | ({"status": status} if status else {}) | ({"vehicle_id": vehicle_id} if vehicle_id else {})
        )
        await api.call("PATCH", f"/trips/{trip_id}", body)


async def test_between_two_hubs_the_one_that_drains_still_tells_what_it_knows(database_url: str) -> None:
    async with cluster(database_url, 3) as hubs:
        draining, other, next_home = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(draining.url, vehicle_id) as driver:
            await drove(hubs, driver, 1, 2, 3)
            since = hubs.clock() - 12_000
        await until(lambda: vehicle_id not in draining.service.hub.drivers, "the driver was sent away")
        assert "since" not in await joined(other.url, trip_id, since), "the driver may be anywhere"
        draining.service.nodes.draining = True
        draining.service.nodes.beat_soon()
        await until(lambda: other.service.nodes.peers[draining.name].draining, "the others know")
        async with nothing_is_read(database_url):
            assert times(await joined(other.url, trip_id, since)) == driven(2, 3)
        # The driver is on the way to another hub, and has not said hello.
        async with Socket(f"{next_home.url}/v1/driver", token("driver", vehicle_id)) as connecting:
            await connecting.expect("welcome")
            assert times(await joined(other.url, trip_id, since)) == driven(2, 3)
        async with Driver(next_home.url, vehicle_id, driver.session) as driver:
            await drove(hubs, driver, 4)
            assert times(await joined(other.url, trip_id, since)) == driven(2, 3, 4)
        # A hub where the driver was meanwhile knows more than the one that drains.
        await until(lambda: vehicle_id not in next_home.service.hub.drivers, "the driver has gone")
        assert "since" not in await joined(other.url, trip_id, hubs.clock())
