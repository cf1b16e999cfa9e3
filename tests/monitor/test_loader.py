"""Fleets come into memory when they are needed, whatever changes meanwhile."""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.clients import PLAIN, Api, Dispatcher, Driver, fix, new_id
from tests.support.devices import until
from tests.support.geofence_drives import INSIDE, OUTSIDE, listed, put_fence
from tests.support.geofence_truth import Seen
from tests.support.hub_in_process import World, has_events, state_of
from tests.support.hub_process import HubProcess
from tests.support.monitoring import BEGIN, position_of
from tracking.errors import StoreUnavailable
from tracking.live import fleets as fleets_module
from tracking.live import loading as notes
from tracking.live.fleet import FleetFeed
from tracking.live.loading import Loading
from tracking.model import Vehicle
from tracking.monitor import loader as module
from tracking.monitor.fences import built
from tracking.monitor.geofences import Fences
from tracking.store import latest_positions, vehicles


class Pause:
    """Delays the next reading of a part of a fleet, before or after it, until `go_on`."""

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
        await until(lambda: has_events(api, fleet_id, 2), "the exit is told")
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
        await latest_positions.move(connection, [seen])
    live = world.service.hub.fleets.know(stored.vehicle, stored.joined_at, stored.number)
    # Held up, so that it comes before the fleet is loaded.
    async with world.service.monitor.fences.turn(fleet_id):
        next_seen = Seen(vehicle_id, before + 50_000, east, INSIDE["latitude"], 5.0)
        world.service.hub.fleets.publish(position_of(next_seen, world.clock(), vehicle=stored.number))
        assert world.service.hub.fleets.holds(fleet_id)
    await until(lambda: has_events(api, fleet_id, 2), "both are told")
    assert [event["kind"] for event in await listed(api, fleet_id)] == ["enter", "exit"]
    assert world.service.monitor.states[live].inside == {}


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


@pytest.mark.one_hub("it looks at the process of the hub")
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
