"""Dispatchers, lists and `near=` on one hub, with the vehicles on others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from tests.cluster.dispatchers import across, drive, live, looking
from tests.support.clients import Api, Driver, fix, now_ms
from tests.support.devices import until
from tests.support.hubs_in_process import Hubs, hubs
from tracking.demo.postgres import Cluster
from tracking.errors import StoreUnavailable
from tracking.live.fleet import LiveVehicle
from tracking.metrics import FLEET_MOVES, FLEET_READINGS, NODE_DROPPED
from tracking.model import Position
from tracking.nodes.messages import FleetMoves, SeenVehicle
from tracking.store import newer_positions


@pytest.fixture(scope="module")
async def shared(cluster: Cluster, template: str) -> AsyncIterator[Hubs]:
    cluster.create_database("fleets", template)
    async with hubs(cluster.url("fleets"), 3, commit_interval=0, latest_interval=600, shed_above=0) as made:
        yield made
    cluster.drop_database("fleets")


@pytest.fixture
async def three(shared: Hubs) -> AsyncIterator[Hubs]:
    """Three hubs whose clocks are right. The store knows no latest positions before ten minutes, so nothing comes from it."""
    yield shared
    shared.exchange.restore()
    await shared.joined()


async def test_a_dispatcher_elsewhere_sees_a_vehicle_at_once_with_its_status(three: Hubs) -> None:
    home, other, _ = three
    async with Api(home.url) as api:
        van, trip_id = await api.under_way()
        fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
        async with Driver(home.url, van) as driver:
            first = await drive(driver, 1)
            # The other hub knows nothing of it but what its home tells: the store has no latest position.
            async with looking(other.url, fleet_id) as screen:
                await screen.shows(van, first)
                assert screen.statuses[van] == ["on_trip"]
                readings = FLEET_READINGS._value.get()
                for seq in range(2, 6):
                    sent = asyncio.get_running_loop().time()
                    await screen.shows(van, await drive(driver, seq))
                    assert asyncio.get_running_loop().time() - sent < 1.0
                await api.advance(trip_id, "arrived_at_pickup", "enroute_to_dropoff", "complete")
                await until(lambda: screen.vehicles[van]["status"] == "available", "the trip is over")
                assert screen.left == []
                # The log is behind: what it says of a silence is over.
                number = live(other.service, van).number
                other.service.monitor.signal_told(number, lost=True)
                assert not live(other.service, van).lost
                other.service.monitor.signal_told(number, lost=False)
                # It was read when the look began, and not again.
                assert FLEET_READINGS._value.get() - readings <= 1


async def test_lists_and_near_elsewhere_have_the_place_and_the_status(three: Hubs) -> None:
    home, other, _ = three
    async with Api(home.url) as api, Api(other.url) as there:
        fleet_id = await api.fleet()
        van = await api.vehicle(fleet_id)
        # A driver of the fleet keeps it in memory here, where nobody looks: what is known of the van is long out of date.
        async with Driver(other.url, await api.vehicle(fleet_id)), Driver(home.url, van) as driver:
            await until(lambda: other.service.hub.fleets.feeds[fleet_id].loaded, "the fleet is loaded")
            told = FLEET_MOVES.labels("out").value
            reported = [await drive(driver, seq) for seq in (1, 2)]
            assert FLEET_MOVES.labels("out").value == told, "nobody looks at it"
            listed = (await there.call("GET", f"/fleets/{fleet_id}/vehicles"))["vehicles"]
            seen = {one["vehicle_id"]: one for one in listed}[van]
            assert (seen["fix_time"], seen["status"]) == (reported[-1], "available")
            await home.service.latest.flush()
            (near,) = (await there.call("GET", f"/fleets/{fleet_id}/vehicles", near="47.14,9.52"))["vehicles"]
            assert (near["vehicle_id"], near["status"]) == (van, "available")
            assert (await there.call("GET", f"/vehicles/{van}"))["vehicle_id"] == van
            # A minute after the last look the home is told that nobody looks any more.
            assert fleet_id in across(home.service).interest.theirs
            across(other.service)._looked_at[fleet_id] -= 61
            across(other.service).let_go()
            await until(lambda: fleet_id not in across(home.service).interest.theirs, "it is not wanted any more")
            assert home.service.hub.fleets.feeds[fleet_id].noted is None
            told = FLEET_MOVES.labels("out").value
            await drive(driver, 3)
            assert FLEET_MOVES.labels("out").value == told


async def test_a_driver_moves_between_hubs_while_dispatchers_watch_everywhere(three: Hubs) -> None:
    async with Api(three[0].url) as api, contextlib.AsyncExitStack() as stack:
        fleet_id = await api.fleet()
        van = await api.vehicle(fleet_id)
        screens = [await stack.enter_async_context(looking(world.url, fleet_id)) for world in three]
        session = None
        for seq in range(1, 5):
            async with Driver(three[seq % 3].url, van, session) as driver:
                session = driver.session
                for number in (2 * seq - 1, 2 * seq):
                    reported = await drive(driver, number)
                    for screen in screens:
                        await screen.shows(van, reported)
        for screen in screens:
            assert screen.left == []
            assert screen.statuses[van] == ["available"]


async def test_what_the_former_home_could_not_tell_is_told_by_the_new_one(three: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other, third = three
    async with Api(home.url) as api:
        fleet_id = await api.fleet()
        van = await api.vehicle(fleet_id)
        # The new home knows the fleet already.
        async with (
            Driver(other.url, await api.vehicle(fleet_id)),
            Driver(home.url, van) as driver,
            looking(third.url, fleet_id) as screen,
        ):
            await until(lambda: van in other.service.hub.fleets.vehicles, "it is known")
            monkeypatch.setattr(home.service.nodes, "has_room", lambda _: False)
            reported = await drive(driver, 1)
            async with Driver(other.url, van, driver.session):
                await screen.shows(van, reported)
                assert screen.statuses[van] == ["available"]


async def test_what_comes_again_without_a_hand_over_does_not_move_a_vehicle_back(
    three: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other, _ = three

    async def store_nothing(*_: object) -> int:
        raise StoreUnavailable("away for this test")

    async with Api(home.url) as api:
        fleet_id = await api.fleet()
        van = await api.vehicle(fleet_id)
        began = now_ms()
        fixes = [fix(seq, fix_time=began + seq) for seq in range(1, 5)]
        async with looking(other.url, fleet_id) as screen, Driver(home.url, van) as driver:
            monkeypatch.setattr(home.service.recorder, "_store", store_nothing)
            await driver.report(*fixes[:3])
            await screen.shows(van, began + 3)
            three.exchange.cut()
            async with Driver(other.url, van, driver.session) as again:
                await again.report(*fixes[:2])
                await again.acknowledged(2)
                assert live(other.service, van).position.fix_time == began + 3  # type: ignore[union-attr]
                await again.report(*fixes[2:])
                await screen.shows(van, began + 4)


async def test_three_hundred_vehicles_change_their_hub_within_a_second(three: Hubs) -> None:
    one, other, third = three
    async with Api(one.url) as api, contextlib.AsyncExitStack() as stack:
        fleet_id = await api.fleet()
        vans = await _vans(one.database_url, fleet_id, 300)
        drivers = await asyncio.gather(*(stack.enter_async_context(Driver(one.url, van)) for van in vans))
        await asyncio.gather(*(drive(driver, 1) for driver in drivers))
        async with looking(third.url, fleet_id) as screen:
            await until(lambda: len(screen.vehicles) == len(vans), "all are shown")

            async def change(van: str, session: str) -> int:
                driver = await stack.enter_async_context(Driver(other.url, van, session))
                return await drive(driver, 2)

            moved = await asyncio.gather(*(change(van, driver.session) for van, driver in zip(vans, drivers, strict=True)))
            await until(
                lambda: [screen.vehicles[van]["fix_time"] for van in vans] == list(moved), "all are shown where they went"
            )
            assert screen.left == []
            assert {tuple(told) for told in screen.statuses.values()} == {("available",)}


async def _vans(database_url: str, fleet_id: str, count: int) -> list[str]:
    connection = await asyncpg.connect(database_url)
    try:
        query = """
            INSERT INTO vehicles (vehicle_id, fleet_id, name, kind, plate)
            SELECT $1 || '-' || n, $1, 'Van', 'van', '' FROM generate_series(1, $2::int) AS n RETURNING vehicle_id
        """
        return [row["vehicle_id"] for row in await connection.fetch(query, fleet_id, count)]
    finally:
        await connection.close()


async def test_who_is_removed_or_moves_to_another_fleet_is_gone_at_once_and_for_good(three: Hubs) -> None:
    home, other, _ = three
    async with Api(home.url) as api:
        fleet_id, another = await api.fleet(), await api.fleet()
        removed, moved = [await api.vehicle(fleet_id) for _ in range(2)]
        async with (
            Driver(home.url, removed) as first,
            Driver(home.url, moved) as second,
            looking(other.url, fleet_id) as screen,
            looking(other.url, another) as new,
        ):
            for driver, van in ((first, removed), (second, moved)):
                await screen.shows(van, await drive(driver, 1))
            stale = [_moves(fleet_id, live(home.service, van)) for van in (removed, moved)]
            await api.call("DELETE", f"/vehicles/{removed}")
            await api.call("PUT", f"/vehicles/{moved}", {"fleet_id": another, "name": "Van 1"})
            await until(lambda: not screen.vehicles, "both are gone")
            # What its home told before it knew of the change comes late.
            for moves in stale:
                across(home.service)._nodes.tell_all(moves)
                across(home.service)._nodes.tell_all(FleetMoves(another, now_ms(), moves.vehicles))
            reported = await drive(second, 2)
            await new.shows(moved, reported)
            assert not screen.vehicles
            assert live(other.service, moved).feed.fleet.fleet_id == another
            assert removed not in other.service.hub.fleets.vehicles
            gone = screen.left + [m["vehicle_id"] for m in screen.dispatcher.messages if m["type"] == "vehicle_gone"]
            assert sorted(set(gone)) == sorted((removed, moved))
            assert [shown["fix_time"] for shown in new.vehicles.values()] == [reported]


def _moves(fleet_id: str, vehicle: LiveVehicle) -> FleetMoves:
    assert vehicle.position is not None
    return FleetMoves(fleet_id, now_ms(), [SeenVehicle(vehicle.position)])


async def test_what_is_read_while_a_vehicle_joins_another_fleet_is_not_shown_there(
    three: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the device's clock is ahead, so that the fix seems to be of later."""
    one, other, third = three
    async with Api(one.url) as api:
        fleet_id = await api.fleet()
        van = await api.vehicle(fleet_id)
        async with looking(third.url, fleet_id):
            async with Driver(other.url, van) as driver:
                await drive(driver, 1)
            vehicle = live(third.service, van)
            await until(lambda: vehicle.position is not None, "it is shown")
            shown = vehicle.position
            assert shown is not None
            ahead = msgspec.structs.replace(shown, fix_time=vehicle.joined_at + 60_000, server_time=vehicle.joined_at - 1)

            async def read(*_: object) -> AsyncIterator[list[Position]]:
                yield [ahead]

            monkeypatch.setattr(newer_positions, "of_fleets", read)
            await third.service.safeguards.remote_vehicles.read([vehicle.feed], 0)
            assert vehicle.position == shown


async def test_what_is_told_before_the_log_says_so_is_shown_when_it_does(three: Hubs) -> None:
    home, other, _ = three
    async with Api(home.url) as api:
        fleet_id = await api.fleet()
        async with looking(other.url, fleet_id) as screen:
            follower = other.service.follower
            read_on, may_follow = follower._read_on, asyncio.Event()

            async def wait() -> bool:
                await may_follow.wait()
                return await read_on()

            follower._read_on = wait  # type: ignore[method-assign]
            try:
                van = await api.vehicle(fleet_id)
                async with Driver(home.url, van) as driver:
                    waiting = across(other.service)._waiting_again
                    reported = await drive(driver, 1)
                    await until(lambda: across(other.service)._waiting_again > waiting, "it is told")
                    may_follow.set()
                    await screen.shows(van, reported)
            finally:
                may_follow.set()
                follower._read_on = read_on  # type: ignore[method-assign]


async def test_a_full_link_keeps_the_newest_of_each_vehicle(three: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other, third = three
    async with Api(home.url) as api:
        fleet_id = await api.fleet()
        van, parked = [await api.vehicle(fleet_id) for _ in range(2)]
        async with Driver(home.url, van) as driver, Driver(home.url, parked) as still:
            await drive(still, 1)
            async with looking(other.url, fleet_id) as screen, looking(third.url, fleet_id) as quick:
                await screen.shows(van, await drive(driver, 1))
                nodes = home.service.nodes
                has_room, name = nodes.has_room, other.service.nodes.node.node
                monkeypatch.setattr(nodes, "has_room", lambda peer: peer != name and has_room(peer))
                dropped = NODE_DROPPED.labels("position").value
                for seq in range(2, 6):
                    reported = await drive(driver, seq)
                    # The other link is not full.
                    await quick.shows(van, reported)
                owed = across(home.service).telling._wanted[fleet_id][name]
                assert {vehicle.vehicle.vehicle_id for vehicle in owed.behind} == {van}
                assert NODE_DROPPED.labels("position").value >= dropped + 3
                assert screen.vehicles[van]["fix_time"] < reported
                monkeypatch.undo()
                await screen.shows(van, reported)
                assert not owed.waits


async def test_clusters_count_the_vehicles_of_all_hubs(three: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, third = three
    for module in ("tracking.live.clusters", "tracking.live.screens"):
        monkeypatch.setattr(f"{module}.MAX_SINGLE", 3)
    async with Api(one.url) as api, contextlib.AsyncExitStack() as stack:
        fleet_id = await api.fleet()
        vans = [await api.vehicle(fleet_id) for _ in range(6)]
        for number, van in enumerate(vans):
            driver = await stack.enter_async_context(Driver((one, other)[number % 2].url, van))
            await drive(driver, 1)
        async with looking(third.url, fleet_id) as screen:
            await until(lambda: sum(row[2] for row in screen.dispatcher.clusters or ()) == len(vans), "all are counted")
