"""Fleets come into memory when they are needed, whatever changes meanwhile, and go when they are not."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.clients import PLAIN, Api, Dispatcher, Driver, Message, Socket, fix, new_id
from tests.support.devices import until
from tests.support.geofence_truth import Seen
from tests.support.hub_process import SECRET, HubProcess
from tests.support.live_state import NothingElse
from tests.support.monitoring import BEGIN, FLEET, Monitored, position_of
from tests.support.serving import serving
from tests.test_events import INSIDE, OUTSIDE, listed, put_fence
from tests.test_what_has_gone import Turned
from tracking.app import create_app
from tracking.auth import Auth
from tracking.config import load
from tracking.errors import StoreUnavailable
from tracking.live import fleets as fleets_module
from tracking.live import loading as notes
from tracking.live.fleet import FleetFeed
from tracking.live.follower import NotRead
from tracking.live.hub import Hub
from tracking.live.loading import Loading
from tracking.live_state.applying import LiveState
from tracking.live_state.reading import State
from tracking.model import Event, EventKind, Fleet, Place, Trip, TripStatus, Vehicle
from tracking.monitor import loader as module
from tracking.monitor import silence
from tracking.monitor.events import Emitted
from tracking.monitor.fences import built
from tracking.monitor.geofences import Fences
from tracking.monitor.monitor import Monitor
from tracking.service import Service, assemble
from tracking.store import positions, vehicles
from tracking.store.changes import ChangeKind, Row

SETTINGS: Message = {"jwt_secret": SECRET, "ack_interval": 0}


class World:
    """A hub in this process, with a clock to be turned."""

    def __init__(self, service: Service, url: str, clock: Turned, database_url: str) -> None:
        self.service = service
        self.url = url
        self.clock = clock
        self.database_url = database_url

    def feed(self, fleet_id: str) -> FleetFeed | None:
        return self.service.hub.fleets.feeds.get(fleet_id)

    @contextlib.asynccontextmanager
    async def another(self) -> AsyncIterator[Service]:
        """A hub that knows nothing yet, on the same database; nothing of it runs."""
        settings = load(database_url=self.database_url, **SETTINGS)
        service = assemble(settings, self.database_url, Auth(settings, self.clock), self.clock)
        for database in (service.database, service.following):
            await database.open()
        yield service
        for database in (service.database, service.following):
            await database.close()

    async def as_read_anew(self, fleet_id: str) -> Message:
        async with self.another() as service:
            assert await service.loader.load(fleet_id) is not None
            return state_of(service, fleet_id)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    clock = Turned()
    app = create_app(load(database_url=database_url, **SETTINGS), clock=clock)
    async with serving(app, lifespan="on") as served:
        yield World(app.state.service, served.url, clock, database_url)


@pytest.fixture
async def api(world: World) -> AsyncIterator[Api]:
    async with Api(world.url) as api:
        yield api


def state_of(service: Service, fleet_id: str) -> Message:
    """All that a hub knows of a fleet."""
    feed = service.hub.fleets.feeds[fleet_id]
    assert feed.loaded
    fences = service.monitor.fences.by_fleet[fleet_id].by_id
    return {
        "fleet": feed.fleet,
        "fences": {geofence_id: fence.geofence for geofence_id, fence in fences.items()},
        "vehicles": {
            live.vehicle.vehicle_id: (
                live.vehicle,
                live.number,
                live.joined_at,
                live.trip,
                live.position is not None,
                {i: (stay.since, stay.dwelt) for i, stay in service.monitor.states[live].inside.items()},
                service.monitor.states[live].silent,
                service.hub.fleets.by_number[live.number] is live,
            )
            for live in feed.vehicles
        },
    }


class Pause:
    """Holds up the next reading of a part of a fleet, before it or after it, until `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        self.reached = asyncio.Event()
        self._may_go_on = asyncio.Event()
        self._in_thread = threading.Event()
        read, build = module.Loader._read, built

        async def paused_read(self_: module.Loader, *arguments: Any) -> Any:
            if where == "before" and not self.reached.is_set():
                await self._stop()
            part = await read(self_, *arguments)
            if where == "after" and not self.reached.is_set():
                await self._stop()
            return part

        loop = asyncio.get_running_loop()

        def paused_build(rows: Sequence[Any]) -> Fences:
            if where == "fences" and not self.reached.is_set():
                loop.call_soon_threadsafe(self.reached.set)
                assert self._in_thread.wait(30)
            return build(rows)

        monkeypatch.setattr(module.Loader, "_read", paused_read)
        monkeypatch.setattr(module, "built", paused_build)

    async def _stop(self) -> None:
        self.reached.set()
        await self._may_go_on.wait()

    def go_on(self) -> None:
        self._may_go_on.set()
        self._in_thread.set()


@pytest.mark.parametrize("where", ["before", "after", "fences"])
async def test_what_changes_while_a_fleet_is_loaded_is_as_a_hub_that_begins_anew_finds_it(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fleet_id, other = await api.fleet(), await api.fleet()
    names = ["quiet", "renamed", "erased", "anew", "leaves", "driven", "gets a trip", "loses its trip", "other trip"]
    vehicle_of = {name: await api.vehicle(fleet_id, name=name) for name in names}
    comes = await api.vehicle(other)
    trip_of = {name: await api.trip(fleet_id, vehicle_of[name]) for name in ("driven", "loses its trip", "other trip")}
    await api.advance(trip_of["driven"]["trip_id"], "enroute_to_pickup")
    for geofence_id in ("stays", "changed", "removed"):
        await put_fence(api, fleet_id, geofence_id=geofence_id)
    assert not world.service.hub.fleets.holds(fleet_id)

    pause = Pause(monkeypatch, where)
    loading = asyncio.create_task(world.service.loader.load(fleet_id))
    await pause.reached.wait()
    # Each is answered when it is applied; a change of a geofence waits for the fleet, and is answered all the same.
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Changed", "speed_limit": 20})
    await api.call("PUT", f"/vehicles/{vehicle_of['renamed']}", {"fleet_id": fleet_id, "name": "Changed"})
    await api.call("DELETE", f"/vehicles/{vehicle_of['erased']}")
    await api.call("DELETE", f"/vehicles/{vehicle_of['anew']}")
    await api.call("PUT", f"/vehicles/{vehicle_of['anew']}", {"fleet_id": fleet_id, "name": "Another"})
    await api.call("PUT", f"/vehicles/{vehicle_of['leaves']}", {"fleet_id": other})
    await api.call("PUT", f"/vehicles/{comes}", {"fleet_id": fleet_id})
    new = await api.vehicle(fleet_id)
    await api.trip(fleet_id, new)
    await api.trip(fleet_id, vehicle_of["gets a trip"])
    await api.advance(trip_of["driven"]["trip_id"], "canceled")
    await api.call("PATCH", f"/trips/{trip_of['loses its trip']['trip_id']}", {"vehicle_id": None, "version": 1})
    await api.call("DELETE", f"/trips/{trip_of['other trip']['trip_id']}")
    await asyncio.gather(
        put_fence(api, fleet_id, geofence_id="changed", speed_limit=7.0),
        put_fence(api, fleet_id, geofence_id="new"),
        api.call("DELETE", f"/fleets/{fleet_id}/geofences/removed"),
    )
    pause.go_on()
    assert await loading is world.feed(fleet_id)
    expected = await world.as_read_anew(fleet_id)
    await until(lambda: state_of(world.service, fleet_id)["fences"] == expected["fences"], "the fences are as they are now")
    assert state_of(world.service, fleet_id) == expected
    assert set(expected["vehicles"]) == {*vehicle_of.values(), comes, new} - {vehicle_of["erased"], vehicle_of["leaves"]}
    assert expected["fleet"].speed_limit == 20


async def test_what_is_made_while_a_dispatcher_waits_is_shown_and_told(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    pause = Pause(monkeypatch, "after")
    async with Dispatcher(world.url, fleet_id) as screen:
        await pause.reached.wait()
        trip = await api.trip(fleet_id, vehicle_id)
        pause.go_on()
        feed = await world.service.loader.load(fleet_id)
        assert feed is not None
        await until(lambda: bool(feed.queues), "it is let in")
        live = world.service.hub.fleets.vehicles[vehicle_id]
        assert live.trip is not None and live.trip.trip_id == trip["trip_id"]
        await put_fence(api, fleet_id)
        assert (await screen.expect("geofence"))["geofence"]["id"] == "yard"


async def test_a_driver_does_not_wait_for_its_fleet_and_its_moves_do(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Quiet", "signal_lost_after": 1e6, "idle_after": 1e6})
    vehicle_id = await api.vehicle(fleet_id)
    await put_fence(api, fleet_id)
    pause = Pause(monkeypatch, "after")
    begin = world.clock() - 600_000
    async with Driver(world.url, vehicle_id) as driver:
        await pause.reached.wait()
        await driver.report(fix(1, fix_time=begin, **OUTSIDE), fix(2, fix_time=begin + 60_000, **INSIDE))
        await driver.acknowledged(2)
        live = world.service.hub.fleets.vehicles[vehicle_id]
        assert live.position is not None and live.position.seq == 2
        assert world.service.hub.fleets.waiting == 2
        assert await listed(api, fleet_id) == []
        pause.go_on()
        await until(lambda: listed(api, fleet_id), "the moves are judged")
        await driver.report(fix(3, fix_time=begin + 120_000, **OUTSIDE))
        await until(lambda: _count(api, fleet_id, 2), "the exit is told")
    assert world.service.hub.fleets.vehicles[vehicle_id] is live
    assert [event["kind"] for event in await listed(api, fleet_id)] == ["enter", "exit"]
    assert world.service.hub.fleets.waiting == 0


async def test_a_move_that_waited_goes_on_from_where_the_vehicle_was_stored(world: World, api: Api) -> None:
    """It drove through the yard between the last stored position and the first of the new connection."""
    fleet_id = await api.fleet()
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Quiet", "signal_lost_after": 1e6, "idle_after": 1e6})
    vehicle_id = await api.vehicle(fleet_id)
    await put_fence(api, fleet_id)
    before = world.clock() - 60_000
    west, east = 9.515, 9.535
    async with world.service.database.transaction() as connection:
        stored = await vehicles.get(connection, vehicle_id)
        assert stored is not None
        seen = position_of(Seen(vehicle_id, before, west, INSIDE["latitude"], 5.0), before, vehicle=stored.number)
        await positions.move_latest(connection, [seen])
    live = world.service.hub.fleets.know(stored.vehicle, stored.joined_at, stored.number)
    # Held up, so that it comes before the fleet is loaded.
    async with world.service.monitor.fences.turn(fleet_id):
        next_seen = Seen(vehicle_id, before + 50_000, east, INSIDE["latitude"], 5.0)
        world.service.hub.fleets.publish(position_of(next_seen, world.clock(), vehicle=stored.number))
        assert world.service.hub.fleets.holds(fleet_id)
    await until(lambda: _count(api, fleet_id, 2), "both are told")
    assert [event["kind"] for event in await listed(api, fleet_id)] == ["enter", "exit"]
    assert world.service.monitor.states[live].inside == {}


async def _count(api: Api, fleet_id: str, count: int) -> bool:
    return len(await listed(api, fleet_id)) >= count


# --- one loading at a time ----------------------------------------------------------------------------------------------


async def test_all_who_come_at_once_cause_one_loading_and_few_are_under_way(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_ids = [await api.fleet() for _ in range(3 * module.AT_ONCE)]
    load_once = module.Loader._load_once
    begun: list[str] = []
    now = most = 0

    async def counted(self: module.Loader, fleet_id: str) -> FleetFeed | None:
        nonlocal now, most
        begun.append(fleet_id)
        now += 1
        most = max(most, now)
        feed = await load_once(self, fleet_id)
        now -= 1
        return feed

    monkeypatch.setattr(module.Loader, "_load_once", counted)
    loader = world.service.loader
    for _ in range(1_000):
        loader.want(fleet_ids[0])
    feeds = await asyncio.gather(*(loader.load(fleet_id) for fleet_id in fleet_ids for _ in range(50)))
    assert sorted(begun) == sorted(fleet_ids)
    assert most == module.AT_ONCE
    assert len(set(map(id, feeds))) == len(fleet_ids)
    for fleet_id in fleet_ids:
        loader.want(fleet_id)
        await loader.load(fleet_id)
    assert len(begun) == len(fleet_ids)


async def test_a_fleet_that_does_not_exist_leaves_nothing_and_one_that_is_made_is_there_at_once(world: World, api: Api) -> None:
    name = new_id("fleet")
    assert await world.service.loader.load(name) is None
    await asyncio.sleep(0)
    assert (world.service.hub.fleets.holds(name), world.feed(name), world.service.loader._loads) == (False, None, {})
    await api.call("PUT", f"/fleets/{name}", {"name": "New"})
    feed = await world.service.loader.load(name)
    assert feed is not None and feed.fleet.name == "New"


async def test_a_fleet_that_cannot_be_read_is_read_again_and_takes_no_other_with_it(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    read = module.Loader._read
    failures = iter([ValueError("not as this version knows it")] * 2)

    async def failing(self: module.Loader, *arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return await read(self, *arguments)

    monkeypatch.setattr(module.Loader, "_read", failing)
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    assert await world.service.loader.load(fleet_id) is not None
    assert vehicle_id in world.service.hub.fleets.vehicles


async def test_who_waits_for_a_fleet_when_the_hub_ends_is_told_that_it_can_not_be_had(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    pause = Pause(monkeypatch, "before")
    await api.vehicle(fleet_id)
    loader = world.service.loader
    waiting = asyncio.create_task(loader.load(fleet_id))
    await pause.reached.wait()
    ending = asyncio.create_task(loader.run())
    await asyncio.sleep(0)
    ending.cancel()
    # Not a cancellation, which would be taken for that of whoever asked.
    with pytest.raises(StoreUnavailable):
        await waiting


async def test_a_geofence_that_cannot_be_read_takes_no_other_with_it(world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    for geofence_id in ("yard", "broken", "later"):
        await put_fence(api, fleet_id, geofence_id=geofence_id)
    broken = "UPDATE geofences SET shape = ST_GeomFromText('POLYGON EMPTY', 4326) WHERE fleet_id = $1 AND geofence_id = $2"
    async with world.service.database.transaction() as connection:
        await connection.execute(broken, fleet_id, "broken")
    await world.service.loader.load(fleet_id)
    known = world.service.monitor.fences.by_fleet[fleet_id].by_id
    assert set(known) == {"yard", "later"}
    async with world.service.database.transaction() as connection:
        await connection.execute(broken, fleet_id, "later")
    await world.service.monitor.geofence_at(fleet_id, "later")
    assert set(known) == {"yard"}


async def test_a_fleet_of_which_a_change_cannot_be_applied_is_read_again(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    await put_fence(api, fleet_id)
    await world.service.loader.load(fleet_id)
    apply = LiveState._apply_vehicle

    def fail_once(self: LiveState, *arguments: Any) -> None:
        monkeypatch.setattr(LiveState, "_apply_vehicle", apply)
        raise ValueError("not as this version knows it")

    monkeypatch.setattr(LiveState, "_apply_vehicle", fail_once)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Changed"})
    assert await world.service.loader.load(fleet_id) is world.feed(fleet_id)
    assert world.service.hub.fleets.vehicles[vehicle_id].vehicle.name == "Changed"
    assert state_of(world.service, fleet_id) == await world.as_read_anew(fleet_id)


def test_notes_of_what_changes_while_something_is_read_are_bounded_and_none_is_lost() -> None:
    loading: Loading[int] = Loading()
    with loading.reading():
        for key in range(3 * notes.MOST):
            with loading.reading():
                loading.changed(key, key + 1)
                assert len(loading._changed) <= notes.MOST
                assert not loading.is_current(0, 0) and loading.is_current(key, key + 1)
        # What was read since is current, whether it is noted or not.
        assert all(loading.is_current(key, 3 * notes.MOST) for key in (0, notes.MOST, 4 * notes.MOST))
    assert not loading._changed and loading.is_current(0, 0)


def fail_once(monkeypatch: pytest.MonkeyPatch, thing: type, name: str) -> None:
    """The next call fails, as a fault of ours would have it."""
    real = getattr(thing, name)

    def fail(*_: Any) -> None:
        monkeypatch.setattr(thing, name, real)
        raise ValueError("not as this version knows it")

    monkeypatch.setattr(thing, name, fail)


@pytest.mark.parametrize("goes", ["for good", "to a fleet that is not in memory"])
async def test_a_vehicle_that_left_a_fleet_is_not_shown_in_it_though_that_could_not_be_applied(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch, goes: str
) -> None:
    fleet_id, other = await api.fleet(), await api.fleet()
    vehicle_id, stays = await api.vehicle(fleet_id), await api.vehicle(fleet_id)
    async with Driver(world.url, vehicle_id) as driver:
        await world.service.loader.load(fleet_id)
        if goes == "for good":
            fail_once(monkeypatch, LiveState, "_vehicle_gone")
            await api.call("DELETE", f"/vehicles/{vehicle_id}")
        else:
            fail_once(monkeypatch, LiveState, "_apply_vehicle")
            await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": other})
        assert await driver.closed() == 1012
    await world.service.loader.load(fleet_id)
    assert list(state_of(world.service, fleet_id)["vehicles"]) == [stays]
    assert world.service.ingest_vehicles.get(vehicle_id) is None


async def test_what_was_half_applied_to_a_vehicle_is_read_again(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    await world.service.loader.load(fleet_id)
    fail_once(monkeypatch, fleets_module.Fleets, "set_trip")
    trip = await api.trip(fleet_id, vehicle_id)
    await world.service.loader.load(fleet_id)
    known = world.service.hub.fleets.vehicles[vehicle_id].trip
    assert known is not None and known.trip_id == trip["trip_id"]


async def test_screens_come_back_when_a_change_of_a_geofence_cannot_be_applied(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    async with Dispatcher(world.url, fleet_id) as screen:
        await world.service.loader.load(fleet_id)
        fail_once(monkeypatch, Monitor, "change_geofence")
        await put_fence(api, fleet_id)
        assert await screen.closed() == 1012
    await world.service.loader.load(fleet_id)
    assert list(state_of(world.service, fleet_id)["fences"]) == ["yard"]


async def test_who_is_revoked_is_sent_out_though_a_fault_came_between(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    vehicle_id = await api.vehicle(await api.fleet())
    issued = await api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id, "expires_in": 3600})
    async with Driver(world.url, vehicle_id, bearer=issued["token"]) as driver:
        fail_once(monkeypatch, LiveState, "_revoked")
        await api.call("DELETE", f"/tokens/{issued['jti']}")
        assert await driver.closed() == 4503
    async with Socket(f"{world.url}/v1/driver", issued["token"]) as driver:
        assert await driver.closed() == 4503


async def test_a_row_that_cannot_even_be_read_anew_does_not_end_the_follower(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    await world.service.loader.load(fleet_id)
    for name in ("_apply_vehicle", "give_up"):
        fail_once(monkeypatch, LiveState, name)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Changed"})
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Changed again"})
    assert world.service.hub.fleets.vehicles[vehicle_id].vehicle.name == "Changed again"


async def test_nobody_is_sent_away_for_an_event_that_cannot_be_told(world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    store = await asyncpg.connect(world.database_url)
    try:
        number = await store.fetchval("SELECT vehicle FROM vehicles WHERE vehicle_id = $1", vehicle_id)
        async with Dispatcher(world.url, fleet_id), Driver(world.url, vehicle_id) as driver:
            feed = await world.service.loader.load(fleet_id)
            assert feed is not None
            # As a newer version would tell one; and one whose row says another kind than the event.
            for kind in ("event.levitating", "event.enter"):
                event = await store.fetchval(
                    "INSERT INTO events (fleet_id, vehicle, kind, server_time) VALUES ($1, $2, 'levitating', now())"
                    " RETURNING event",
                    *(fleet_id, number),
                )
                await store.execute(
                    "INSERT INTO pending_changes (kind, subject, fleet_id, vehicle, internal)"
                    " VALUES ($1, $2::bigint::text, $3, $4, jsonb_build_object('event', $2::bigint))",
                    *(kind, event, fleet_id, number),
                )
            await api.fleet()
            assert feed.loaded
            trip = await api.trip(fleet_id, vehicle_id)
            assert (await driver.expect("trip"))["trip"] == trip
    finally:
        await store.close()


@pytest.mark.parametrize("known", ["with its number", "without it"])
async def test_a_driver_is_not_told_an_older_state_than_it_came_with(world: World, api: Api, known: str) -> None:
    vehicle_id, trip_id = await api.under_way()
    service = world.service
    live = service.follower._live
    async with Driver(world.url, vehicle_id) as driver:
        vehicle = service.ingest_vehicles.get(vehicle_id)
        assert vehicle is not None
        row = Row(1, 0, 0, 0, None, vehicle.number, ChangeKind.VEHICLE_TRIPS, trip_id, None, None)
        async with service.database.connection() as connection:
            state = await live.read(connection, [row])
        assert state.trips[trip_id].version == 2
        newer = await api.advance(trip_id, "arrived_at_pickup")
        assert (await driver.expect("trip"))["trip"] == newer
        # As if the driver had come since then, and had been told what was committed while its vehicle was read.
        if known == "without it":
            service.hub.drivers[vehicle_id].as_of = 0
        live.apply(row, state, 1)
        newest = await api.advance(trip_id, "enroute_to_dropoff")
        assert (await driver.expect("trip"))["trip"] == newest


async def test_a_start_reads_nothing_of_fleets_however_many_vehicles_there_are(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    hub = own_hub()
    _, seconds = await _used(hub)
    hub.stop()
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO fleets (fleet_id, name) SELECT 'fleet-' || n, 'Fleet' FROM generate_series(0, 49) n")
    await connection.execute(
        """
        INSERT INTO vehicles (vehicle_id, fleet_id, name, kind, plate)
        SELECT 'van-' || n, 'fleet-' || n % 50, 'Van', 'van', 'FL ' || n FROM generate_series(1, 50000) n
        """
    )
    await connection.execute(
        """
        INSERT INTO latest_positions (vehicle, fleet, fix_time, server_time, point)
        SELECT vehicle, fleet, now(), now(), ST_SetSRID(ST_MakePoint(9.5, 47.1), 4326)
        FROM vehicles JOIN fleets USING (fleet_id)
        """
    )
    await connection.close()
    hub.start()
    async with Api(hub.url) as api:
        megabytes, of_many = await _used(hub)
        assert megabytes <= 150
        # Of 50,000 vehicles that were read it would be seconds.
        assert of_many <= seconds + 1.0
        async with Dispatcher(hub.url, "fleet-1") as screen:
            await screen.look(9.4, 47.0, 9.6, 47.2)
            await screen.until(lambda: len(screen.vehicles) == 1000)
        assert (await api.call("GET", "/vehicles/van-2"))["status"] in ("available", "lost")
        assert (await _used(hub))[0] <= megabytes + 30


async def _used(hub: HubProcess) -> tuple[float, float]:
    """Memory (MB) and processor time (s) of the hub, once it serves."""
    async with httpx.AsyncClient(verify=PLAIN) as client:
        await until(lambda: _is_ready(client, hub), "the hub is ready")
    assert hub.process is not None
    of_process = Path(f"/proc/{hub.process.pid}")
    [rss] = [line.split()[1] for line in (of_process / "status").read_text().splitlines() if line.startswith("VmRSS")]
    times = (of_process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return int(rss) / 1024, sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


async def _is_ready(client: httpx.AsyncClient, hub: HubProcess) -> bool:
    return (await client.get(f"{hub.url}/readyz")).status_code == 200


def test_moves_that_wait_for_their_fleets_are_bounded_and_the_longest_row_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets_module, "MAX_MOVES", 100)
    known = fleets_module.Fleets()
    needed: list[str] = []
    known.on_needed = needed.append
    for vehicle_id, fleet_id in (("few", "small"), ("many", "large")):
        known.know(Vehicle(vehicle_id, fleet_id))
    known.held.add("small")
    for seconds in range(200):
        if seconds < 10:
            known.publish(position_of(Seen("few", BEGIN + seconds, 9.5, 47.0), BEGIN))
        known.publish(position_of(Seen("many", BEGIN + seconds, 9.5, 47.0), BEGIN))
    assert set(needed) == {"large"}
    assert known.waiting == sum(len(feed.waiting) for feed in known.feeds.values()) <= 100
    assert len(known.feeds["small"].waiting) == 10
    assert known.feeds["large"].waiting[-1][1].fix_time == BEGIN + 199
    known.loaded("small")
    known.loaded("large")
    assert known.waiting == 0
    assert [position.fix_time for vehicle, position in known.moves if vehicle.vehicle.vehicle_id == "few"] == [
        BEGIN + seconds for seconds in range(10)
    ]


def test_a_change_of_a_fleet_that_came_into_memory_since_is_read_by_itself(world_of: LiveState, monitored: Monitored) -> None:
    row = Row(7, 1, 0, 1, FLEET, None, ChangeKind.FLEET_CHANGED, FLEET, None, None)
    with pytest.raises(NotRead):
        world_of.apply(row, State(), 7)
    monitored.fleets.feeds[FLEET].as_of = 7
    world_of.apply(row, State(), 7)
    asked = State()
    asked.asked_fleets.add(FLEET)
    asked.fleets[FLEET] = Fleet(FLEET, "Newer")
    world_of.apply(row, asked, 7)
    assert monitored.fleets.feeds[FLEET].fleet.name == "Fleet"
    world_of.apply(row, asked, 8)
    assert monitored.fleets.feeds[FLEET].fleet.name == "Newer"


def test_a_name_is_read_for_whoever_watches_a_trip_though_its_fleet_is_not_in_memory(world_of: LiveState, hub_of: Hub) -> None:
    place = Place(47.0, 9.5)
    trip = Trip(1, "trip", "other", Vehicle("taxi", "other"), TripStatus.NEW, 1, place, place, (), None, BEGIN, None, None)
    row = Row(7, 1, 0, 1, "other", 5, ChangeKind.VEHICLE_CHANGED, "taxi", None, None)
    state = State(hub_of.begun)
    world_of.apply(row, state, 7)
    # The feed was begun after what the row concerns was read.
    feed = hub_of.feed(trip, 6)
    with pytest.raises(NotRead):
        world_of.apply(row, state, 7)
    feed.as_of = 7
    world_of.apply(row, state, 7)


@pytest.fixture
def monitored() -> Monitored:
    return Monitored()


@pytest.fixture
def service_of(monitored: Monitored) -> Service:
    settings = load(database_url="postgresql://nowhere", **SETTINGS)
    service = assemble(settings, "postgresql://nowhere", Auth(settings, lambda: BEGIN), lambda: BEGIN)
    service.hub.fleets = monitored.fleets
    return service


@pytest.fixture
def hub_of(service_of: Service) -> Hub:
    return service_of.hub


@pytest.fixture
def world_of(service_of: Service, monitored: Monitored) -> LiveState:
    return LiveState(
        service_of.ingest_vehicles,
        service_of.hub,
        monitored.monitor,
        monitored.events,
        service_of.auth,
        lambda: BEGIN,
        NothingElse(),
        NothingElse(),
    )


# --- letting go -----------------------------------------------------------------------------------------------------------


class Yard:
    """A fleet with a yard, and a vehicle that drove into it."""

    def __init__(self, world: World, api: Api) -> None:
        self.world, self.api = world, api
        self.fleet_id = self.vehicle_id = ""

    async def enter(self) -> Driver:
        self.fleet_id = await self.api.fleet()
        await self.api.call("PUT", f"/fleets/{self.fleet_id}", {"name": "Yard", "idle_after": 1e6, "dwell_after": 1e6})
        self.vehicle_id = await self.api.vehicle(self.fleet_id)
        await put_fence(self.api, self.fleet_id)
        async with Driver(self.world.url, self.vehicle_id) as driver:
            now = self.world.clock()
            await driver.report(fix(1, fix_time=now - 60_000, **OUTSIDE), fix(2, fix_time=now, **INSIDE))
            await driver.acknowledged(2)
            await self.told("enter")
        await until(lambda: not self.world.service.hub.drivers, "the driver has gone")
        await self.world.service.latest.flush()
        return driver

    async def kinds(self) -> list[str]:
        return [event["kind"] for event in await listed(self.api, self.fleet_id)]

    async def told(self, *expected: str) -> None:
        async def are_told() -> bool:
            return await self.kinds() == list(expected)

        await until(are_told, f"{expected} are told")

    async def fall_silent(self) -> None:
        # In steps: a clock that jumps is one that was set.
        for _ in range(14):
            self.world.clock.ahead += 5_000
            self.world.service.monitor.look()
        await self.told("enter", "signal_lost")


@pytest.fixture
def yard(world: World, api: Api) -> Yard:
    return Yard(world, api)


async def test_a_fleet_that_was_let_go_is_loaded_anew_and_nothing_is_told_twice_or_missed(world: World, yard: Yard) -> None:
    driver = await yard.enter()
    await yard.fall_silent()
    hub_fleets, monitor, loader = world.service.hub.fleets, world.service.monitor, world.service.loader
    await loader.let_go()
    assert world.feed(yard.fleet_id) is not None
    world.clock.ahead += module.UNUSED_MS
    await loader.let_go()
    assert (world.feed(yard.fleet_id), hub_fleets.vehicles, hub_fleets.by_number) == (None, {}, {})
    assert (hub_fleets.holds(yard.fleet_id), monitor.fences.by_fleet, await monitor.listing(yard.fleet_id)) == (False, {}, None)
    for _ in range(10):
        world.clock.ahead += 10_000
        assert not await world.service.silences.sweep()
    async with Driver(world.url, yard.vehicle_id, driver.session) as driver:
        await driver.report(fix(3, fix_time=world.clock(), **OUTSIDE))
        await driver.acknowledged(3)
        await yard.told("enter", "signal_lost", "signal_back", "exit")
        live = hub_fleets.vehicles[yard.vehicle_id]
        assert not monitor.states[live].silent and monitor.states[live].inside == {}


async def test_a_fleet_is_kept_for_whoever_looks_drives_or_is_not_silent(world: World, yard: Yard) -> None:
    driver = await yard.enter()
    loader = world.service.loader

    async def is_kept() -> bool:
        world.clock.ahead += module.UNUSED_MS
        await loader.let_go()
        return world.feed(yard.fleet_id) is not None

    feed = world.feed(yard.fleet_id)
    assert feed is not None
    [live] = feed.vehicles
    # Not silent yet: it is to be told of.
    feed.used_at = 0
    await loader.let_go()
    assert world.feed(yard.fleet_id) is feed
    await yard.fall_silent()
    async with Dispatcher(world.url, yard.fleet_id):
        await until(lambda: bool(feed.queues), "somebody looks")
        assert await is_kept()
    await until(lambda: not feed.queues, "nobody looks")
    async with Driver(world.url, yard.vehicle_id, driver.session):
        await until(lambda: bool(world.service.hub.drivers), "somebody drives")
        assert await is_kept()
    await until(lambda: not world.service.hub.drivers, "nobody drives")
    world.service.events._group = [
        Emitted(feed, yard.fleet_id, live, live.number, Event(0, EventKind.IDLE, yard.vehicle_id, 0))
    ]
    assert await is_kept()
    world.service.events._group = []
    assert not await is_kept()


async def test_who_wants_a_fleet_that_is_being_let_go_finds_all_of_it(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 2)
    fleet_id = await api.fleet()
    names = {await api.vehicle(fleet_id) for _ in range(10)}
    await put_fence(api, fleet_id)
    loader, known = world.service.loader, world.service.hub.fleets
    await loader.load(fleet_id)
    expected = state_of(world.service, fleet_id)
    world.clock.ahead += module.UNUSED_MS
    let_go = known.let_go

    def let_go_and_want(live: Any) -> None:
        let_go(live)
        if len(known.vehicles) == 4:
            loader.want(fleet_id)

    monkeypatch.setattr(known, "let_go", let_go_and_want)
    await loader.let_go()
    assert 0 < len(known.vehicles) < 10
    assert await loader.load(fleet_id) is not None
    assert set(known.vehicles) == names
    assert state_of(world.service, fleet_id) == expected


async def test_a_vehicle_that_went_to_a_fleet_which_nobody_uses_is_let_go(world: World, api: Api) -> None:
    fleet_id, other = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    await world.service.loader.load(fleet_id)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": other})
    assert world.service.hub.fleets.vehicles[vehicle_id].feed is world.feed(other)
    await world.service.loader.let_go()
    assert world.service.hub.fleets.vehicles == {}
    assert world.feed(other) is None
    assert (await api.call("GET", f"/vehicles/{vehicle_id}"))["status"] == "lost"


# --- silences of fleets that are not in memory ------------------------------------------------------------------------------


class Parked:
    """Vehicles of fleets that nobody uses, heard of so many seconds ago."""

    def __init__(self, world: World, api: Api) -> None:
        self.world, self.api = world, api

    async def park(self, fleet_id: str, seconds: float) -> str:
        vehicle_id = await self.api.vehicle(fleet_id)
        heard = self.world.clock() - int(seconds * 1000)
        async with self.world.service.database.transaction() as connection:
            stored = await vehicles.get(connection, vehicle_id)
            assert stored is not None
            await positions.move_latest(
                connection, [position_of(Seen(vehicle_id, heard, 9.5, 47.1), heard, vehicle=stored.number)]
            )
        return vehicle_id

    async def sweep(self, seconds: int) -> None:
        for _ in range(seconds // 10):
            self.world.clock.ahead += 10_000
            await self.world.service.silences.sweep()

    async def silent(self, *fleet_ids: str) -> list[str]:
        told = [event for fleet_id in fleet_ids for event in await listed(self.api, fleet_id)]
        assert {event["kind"] for event in told} <= {"signal_lost"}
        return [event["vehicle_id"] for event in told]


@pytest.fixture
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """But those that the test makes."""
    monkeypatch.setattr(silence.Silences, "run", lambda _: asyncio.Event().wait())


@pytest.fixture
async def parked(no_sweeps: None, world: World, api: Api) -> Parked:
    return Parked(world, api)


async def test_signal_lost_is_told_once_of_who_is_silent_though_nobody_looks(parked: Parked, world: World, api: Api) -> None:
    quick, slow = await api.fleet(), await api.fleet()
    await api.call("PUT", f"/fleets/{slow}", {"name": "Slow", "signal_lost_after": 120})
    silent, later = await parked.park(quick, 30), await parked.park(slow, 30)
    await parked.park(quick, world.service.settings.gone_after + 60)
    await world.service.silences.sweep()
    await parked.sweep(50)
    # They could not be heard of for so long yet.
    assert await parked.silent(quick, slow) == []
    await parked.sweep(20)
    assert await parked.silent(quick, slow) == [silent]
    await parked.sweep(80)
    assert await parked.silent(quick, slow) == [silent, later]
    assert world.service.hub.fleets.held == set()
    [event] = await listed(api, quick)
    assert (event["latitude"], event["longitude"]) == (47.1, 9.5)
    # Whoever looks now finds it silent, and the next position is its signal's coming back, once.
    await world.service.loader.load(quick)
    assert world.service.monitor.states[world.service.hub.fleets.vehicles[silent]].silent
    async with Driver(world.url, silent) as driver:
        await driver.report(fix(1, fix_time=world.clock()))
        await driver.acknowledged(1)
        await until(lambda: _count(api, quick, 2), "the signal is back")
    assert [event["kind"] for event in await listed(api, quick)] == ["signal_lost", "signal_back"]


async def test_of_a_fleet_in_memory_the_watch_tells_and_the_sweep_does_not(parked: Parked, world: World, api: Api) -> None:
    held, other = await api.fleet(), await api.fleet()
    in_memory, silent = await parked.park(held, 30), await parked.park(other, 30)
    await world.service.loader.load(held)
    live = world.service.hub.fleets.vehicles[in_memory]
    await parked.sweep(40)
    world.service.monitor.states[live].heard = world.clock()
    await parked.sweep(40)
    assert await parked.silent(other) == [silent]
    assert not world.service.monitor.states[live].silent


async def test_two_hubs_that_sweep_at_once_tell_of_each_once(parked: Parked, world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    names = [await parked.park(fleet_id, 100) for _ in range(20)]
    async with world.another() as other:
        for one in (world.service, other):
            one.silences._could_hear_since = one.silences._swept = world.clock()
            one.silences._could_hear_since -= 100_000
        found = await asyncio.gather(*(one.silences.sweep() for one in (world.service, other, world.service)))
    assert found == [False] * 3
    assert sorted(await parked.silent(fleet_id)) == sorted(names)


async def test_many_are_told_of_in_parts(parked: Parked, world: World, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "MOST", 2)
    fleet_id = await api.fleet()
    for _ in range(5):
        await parked.park(fleet_id, 100)
    swept = world.service.silences
    swept._could_hear_since, swept._swept = world.clock() - 100_000, world.clock()
    counts = []
    for more in (True, True, False, False):
        assert await swept.sweep() is more
        counts.append(len(await parked.silent(fleet_id)))
    assert counts == [2, 4, 5, 5]


async def test_a_fleet_that_is_loaded_during_a_sweep_finds_what_that_told(parked: Parked, world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    silent = await parked.park(fleet_id, 100)
    swept = world.service.silences
    swept._could_hear_since, swept._swept = world.clock() - 100_000, world.clock()
    # A row lock keeps the sweep in its transaction.
    async with world.service.housekeeping.transaction() as connection:
        await connection.execute("SELECT FROM vehicles FOR UPDATE")
        sweeping = asyncio.create_task(swept.sweep())
        await until(lambda: swept.sweeping.locked(), "the sweep is under way")
        loading = asyncio.create_task(world.service.loader.load(fleet_id))
        await until(lambda: world.service.hub.fleets.holds(fleet_id), "the fleet is wanted")
    await asyncio.gather(sweeping, loading)
    assert await parked.silent(fleet_id) == [silent]
    assert world.service.monitor.states[world.service.hub.fleets.vehicles[silent]].silent


async def test_while_nobody_could_be_heard_nobody_falls_silent(parked: Parked, world: World, api: Api) -> None:
    fleet_id = await api.fleet()
    silent = await parked.park(fleet_id, 30)
    await parked.sweep(50)
    # As after a stop of the process, or while the database was away.
    world.clock.ahead += silence.PAUSE_MS
    await world.service.silences.sweep()
    await parked.sweep(50)
    assert await parked.silent(fleet_id) == []
    await parked.sweep(20)
    assert await parked.silent(fleet_id) == [silent]
