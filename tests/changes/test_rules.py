"""A test for each rule of the change log. It must fail if the rule is broken."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from unittest import mock

import pytest

from tests.changes import mutations
from tests.changes.mutations import Mutation
from tests.changes.scene import SOON, Holding, Scene, loading_held
from tests.changes.station import ROUTES, FuzzHub, Station
from tests.changes.turns import Turns
from tests.support.devices import until
from tracking.demo.postgres import Cluster
from tracking.ingest.vehicles import IngestVehicle
from tracking.live import follower
from tracking.live.follower import NotRead
from tracking.live.trips import TripFeed
from tracking.model import Fleet, Position, Trip, TripStatus, Vehicle
from tracking.store import changes
from tracking.store.changes import Change, ChangeKind, Row


@pytest.fixture(scope="module")
async def station(cluster: Cluster, template: str) -> AsyncIterator[Station]:
    cluster.create_database("rules", template)
    async with Station(cluster.url("rules"), "rules") as station:
        yield station
    cluster.drop_database("rules")


Scenario = Callable[[Scene], Awaitable[None]]


async def what_changes_while_it_is_loaded_is_read_again(scene: Scene) -> None:
    for load in (scene.load, scene.feed):
        with loading_held(scene.here) as gate:
            loading: asyncio.Task[IngestVehicle | TripFeed] = asyncio.create_task(load())
            await gate.reached.wait()
            trip = await scene.change(status=_next(scene.trip))
            await scene.applied()
            gate.open()
            assert (await loading).trip == trip
        scene.trip = trip


async def what_is_loaded_while_rows_are_read_gets_them(scene: Scene) -> None:
    # None that is read for its vehicle's sake.
    scene.trip = await scene.change(vehicle_id=None)
    await scene.applied()
    with loading_held(scene.here) as gate:
        loading = asyncio.create_task(scene.feed())
        await gate.reached.wait()
        async with Holding(scene.here) as holding:
            trip = await scene.change(route=ROUTES[0])
            await holding.until_read(trip.trip_id)
            gate.open()
            feed = await loading
            assert feed.trip == scene.trip
    await scene.applied()
    assert feed.trip == trip


async def each_change_is_applied_whatever_was_known_before(scene: Scene) -> None:
    vehicle, feed = await scene.load(), await scene.feed()
    for _ in range(3):
        scene.trip = await scene.change(status=_next(scene.trip))
        await scene.applied()
        assert vehicle.trip == feed.trip == scene.trip
        assert len(vehicle.windows) == 1


async def nothing_goes_back_to_what_it_was(scene: Scene) -> None:
    await scene.load()
    async with Holding(scene.here) as holding:
        first = await scene.change(status=_next(scene.trip))
        await holding.until_read(first.trip_id)
        second = await scene.change(status=_next(first))
        scene.here.service.ingest_vehicles.forget(scene.vehicle_id)
        vehicle = await scene.load()
        assert vehicle.trip == second
        holding.let_go()
        # The older state is applied; the newer one is read and held.
        await holding.until_read(second.trip_id)
        assert vehicle.trip == second


async def the_log_is_asked_where_nobody_notifies(scene: Scene) -> None:
    vehicle = await scene.load()
    scene.here.following.deafen()
    try:
        await until(lambda: not scene.here.service.follower.listening, "nobody listens", SOON)
        await until_it_waits(scene.here)
        trip = await scene.change(status=_next(scene.trip))
        await until(lambda: vehicle.trip == trip, "the change is applied", SOON)
    finally:
        scene.here.catches_up()


async def the_log_is_asked_after_listening_again(scene: Scene) -> None:
    async with another_hub(scene) as hub:
        vehicle = await hub.service.ingest_vehicles.load(scene.vehicle_id)
        assert vehicle is not None
        await until(lambda: hub.service.follower.listening, "it listens", SOON)
        with mock.patch.object(follower, "POLL_SECONDS", 3_600.0):
            hub.following.deafen()
            await until(lambda: not hub.service.follower.listening, "nobody listens", SOON)
            await until_it_waits(hub)
            trip = await scene.change(status=_next(scene.trip))
            hub.following.deaf = False
            await until(lambda: vehicle.trip == trip, "the change is applied", SOON)


async def a_log_that_went_back_is_noticed(scene: Scene) -> None:
    async with another_hub(scene) as hub:
        cursor = hub.service.follower._cursor
        assert cursor is not None
        # Of another change, which got the number when this one was lost.
        hub.service.follower._cursor = cursor._replace(mark=cursor.mark ^ 1)
        await until(hub.service.marks.went_back.is_set, "it is noticed", SOON)


async def until_it_waits(hub: FuzzHub) -> None:
    """Returns after the next reading of the log. From then on the hub waits `POLL_SECONDS` as set now."""
    here, began = hub.service.follower, time.monotonic()
    here.wake()

    def waits() -> bool:
        return not here._woken.is_set() and here.confirmed_at is not None and here.confirmed_at > began

    await until(waits, "it waits", SOON)


@contextlib.asynccontextmanager
async def another_hub(scene: Scene) -> AsyncIterator[FuzzHub]:
    hub = FuzzHub(scene.station, "another", Turns("calm"))
    try:
        yield await hub.begin()
    finally:
        await hub.end()


async def what_does_not_show_is_not_shown(scene: Scene) -> None:
    feed, vehicle = await scene.feed(), await scene.load()

    def publish(vehicle_id: str) -> None:
        """A position that was filed to the trip before this hub knew of its change."""
        position = Position(
            vehicle.number, vehicle_id, 0, 1, 0, 0, 47.0, 9.0, None, None, None, None, None, 1, scene.trip.trip_id, (), True
        )
        scene.here.service.hub.publish(position)

    publish(scene.vehicle_id)
    assert feed.offset == 0
    await scene.change(status=_next(scene.trip))
    await scene.applied()
    publish("another")
    assert feed.offset == 1
    publish(scene.vehicle_id)
    assert feed.offset == 2


async def rows_are_read_in_the_order_of_their_commits(scene: Scene) -> None:
    database = scene.there.service.database

    async def tell(number: int) -> None:
        async with database.transaction() as connection:
            await changes.append(connection, [Change("nothing", f"{scene.vehicle_id} {number}")])

    applied: list[str | None] = []
    with mock.patch.object(scene.here.service.follower, "_on_applied", lambda row: applied.append(row.subject)):
        for start in range(0, 100, 10):
            await asyncio.gather(*(tell(number) for number in range(start, start + 10)))
        await scene.applied()
    told = {f"{scene.vehicle_id} {number}" for number in range(100)}
    assert sorted(subject for subject in applied if subject in told) == sorted(told)


async def whoever_changed_something_finds_it_applied(scene: Scene) -> None:
    vehicle, feed = await scene.load(), await scene.feed()
    for _ in range(3):
        scene.trip = await scene.change(scene.here, status=_next(scene.trip))
        assert vehicle.trip == feed.trip == scene.trip


async def a_change_is_applied_when_all_rows_of_it_are(scene: Scene) -> None:
    vehicle, feed = await scene.load(), await scene.feed()
    here = scene.here.service.follower
    apply, unread, answered = here._live.apply, [True], list[bool]()

    def apply_apart(row: Row, state: Any, as_of: int) -> Any:
        if row.kind == ChangeKind.TRIP_CHANGED:
            answered.extend(waiting.done() for waiting in here._expected.values())
        elif row.kind == ChangeKind.VEHICLE_TRIPS and unread.pop():
            unread.append(False)
            # As if the vehicle had been loaded since the rows were read.
            raise NotRead
        return apply(row, state, as_of)

    with mock.patch.object(here._live, "apply", apply_apart):
        trip = await scene.change(scene.here, status=_next(scene.trip))
    assert answered and not any(answered)
    assert vehicle.trip == feed.trip == trip


async def a_row_that_cannot_be_applied_is_passed_over(scene: Scene) -> None:
    async with another_hub(scene) as hub:
        scene.here = hub
        vehicle, feed = await scene.load(), await scene.feed()
        live = hub.service.follower._live
        apply = live.apply

        def fail(row: Row, state: Any, as_of: int) -> Any:
            if row.subject == scene.trip.trip_id:
                raise ValueError("it can't be applied")
            return apply(row, state, as_of)

        with mock.patch.object(live, "apply", fail):
            trip = await scene.change(status=_next(scene.trip))
            await scene.applied()
        # Whoever comes for it finds it as it is.
        assert (await scene.load()).trip == trip
        assert (await scene.feed()).trip == trip
        scene.trip = await scene.change(status=_next(trip))
        await scene.applied()
        assert (await scene.load()).trip == scene.trip
        assert vehicle.trip != scene.trip and feed.trip != scene.trip


def _next(trip: Trip) -> TripStatus:
    steps = list(TripStatus)
    return steps[steps.index(trip.status) + 1]


RULES: list[tuple[Scenario, Mutation]] = [
    (what_changes_while_it_is_loaded_is_read_again, mutations.what_was_loaded_is_kept_though_it_changed),
    (what_is_loaded_while_rows_are_read_gets_them, mutations.rows_are_applied_though_nothing_was_read_for_them),
    (each_change_is_applied_whatever_was_known_before, mutations.as_of_is_too_high),
    (each_change_is_applied_whatever_was_known_before, mutations.as_of_of_what_is_loaded_is_too_high),
    (each_change_is_applied_whatever_was_known_before, mutations.changes_are_not_told_to_the_log),
    (nothing_goes_back_to_what_it_was, mutations.an_older_state_takes_the_place_of_a_newer),
    (the_log_is_asked_where_nobody_notifies, mutations.the_log_is_not_asked_without_notice),
    (the_log_is_asked_after_listening_again, mutations.the_log_is_not_asked_after_listening_again),
    (a_log_that_went_back_is_noticed, mutations.marks_are_not_compared),
    (what_does_not_show_is_not_shown, mutations.a_feed_takes_positions_of_any_vehicle),
    (rows_are_read_in_the_order_of_their_commits, mutations.numbers_do_not_rise_with_commits),
    (whoever_changed_something_finds_it_applied, mutations.nobody_waits_for_their_own_transaction),
    (a_change_is_applied_when_all_rows_of_it_are, mutations.one_row_of_a_transaction_is_all_of_it),
    (a_row_that_cannot_be_applied_is_passed_over, mutations.a_row_that_cannot_be_applied_ends_the_follower),
    (a_row_that_cannot_be_applied_is_passed_over, mutations.nothing_of_a_row_that_cannot_be_applied_is_read_anew),
]


@pytest.mark.parametrize("scenario", list(dict.fromkeys(scenario for scenario, _ in RULES)))
async def test_it_holds(station: Station, scenario: Scenario) -> None:
    await scenario(await Scene(station).set_up())


@pytest.mark.parametrize(("scenario", "mutation"), RULES)
async def test_a_broken_rule_is_noticed(station: Station, scenario: Scenario, mutation: Mutation) -> None:
    scene = await Scene(station).set_up()
    async with mutation(station.url):
        with pytest.raises(AssertionError):
            await scenario(scene)


async def test_a_vehicle_that_left_and_came_back_at_once_is_of_its_fleet_since_then(station: Station) -> None:
    scene = await Scene(station).set_up()
    await scene.change(vehicle_id=None)  # one with a trip under way does not move
    await scene.here.service.loader.load(scene.fleet_id)
    await scene.applied()
    other, vehicles = Fleet(f"{scene.fleet_id}-other", ""), scene.there.service.vehicles
    async with Holding(scene.here) as holding:
        await scene.there.service.fleets.put(other, may_create=True)
        await holding.until_read(other.fleet_id)
        # Nothing is read while this is held, so both are read together.
        await vehicles.put(Vehicle(scene.vehicle_id, other.fleet_id), own=None)
        await vehicles.put(Vehicle(scene.vehicle_id, scene.fleet_id), own=None)
        holding.let_go()
        await holding.until_read(scene.vehicle_id)
        assert [row.kind for row in holding.held].count(ChangeKind.VEHICLE_CHANGED) == 2
        holding.let_go()
    await scene.applied()
    stored = await scene.load()
    live = scene.here.service.hub.fleets.vehicles[scene.vehicle_id]
    assert stored.joined_at > 0
    assert live.joined_at == stored.joined_at
