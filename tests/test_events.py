"""Events of a real hub, over real sockets and HTTP, from a real PostGIS."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from tests.support.clients import Api, Dispatcher, Driver, Message, Socket, fix, new_id, now_ms, token
from tests.support.devices import until
from tests.support.geofence_drives import ELSEWHERE, INSIDE, OUTSIDE, YARD, Drive, hour_ago, listed, put_fence, quiet_fleet
from tests.support.geofence_truth import Seen
from tests.support.hub_process import HubProcess
from tests.support.monitoring import BEGIN, FLEET, Monitored
from tracking.model import Fleet, Geofence, Vehicle
from tracking.store import erasures, fleets, geofences, vehicles
from tracking.store.pool import Database


async def settled(screen: Dispatcher, driver: Drive) -> None:
    """Waits for a speeding after everything that was reported. All events of it came before."""
    seen = len(screen.news())
    await driver.to(OUTSIDE, speed=45.0)
    await screen.until(lambda: any(event["kind"] == "speeding" for event in screen.news()[seen:]))


async def test_a_vehicle_driven_through_a_fence(hub: HubProcess, api: Api) -> None:
    fleet_id = await quiet_fleet(api)
    vehicle_id = await api.vehicle(fleet_id)
    await put_fence(api, fleet_id)
    connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        drive = Drive(driver, hour_ago())
        await drive.to(OUTSIDE)
        entered = await drive.to(INSIDE)
        [enter] = await screen.events(1)
        # It was told after COMMIT, so it can be found.
        stored = await connection.fetchval("SELECT kind FROM events WHERE event = $1", enter["event_id"])
        assert stored == "enter"
        left = await drive.to(OUTSIDE)
        _, exited = await screen.events(2)
        assert await connection.fetchval("SELECT kind FROM events WHERE event = $1", exited["event_id"]) == "exit"
    await connection.close()
    for event, kind, fix_time, place in ((enter, "enter", entered, INSIDE), (exited, "exit", left, OUTSIDE)):
        wanted = {"type": "event", "kind": kind, "vehicle_id": vehicle_id, "geofence_id": "yard", "fix_time": fix_time}
        wanted |= {"latitude": place["latitude"], "longitude": place["longitude"]}
        assert {**event, **wanted} == event
        assert abs(event["server_time"] - now_ms()) < 60_000
    assert enter["event_id"] < exited["event_id"]
    assert [{"type": "event", **event} for event in await listed(api, fleet_id)] == [enter, exited]


async def test_a_speed_that_the_places_contradict_is_no_speeding_and_no_top_speed(hub: HubProcess, api: Api) -> None:
    fleet_id = new_id("fleet")
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Limited", "speed_limit": 14, "idle_after": 1e6})
    vehicle_id = await api.vehicle(fleet_id)
    begin = now_ms() - 120_000

    def at(seq: int, metres: float, speed: float) -> Message:
        return fix(seq, fix_time=begin + seq * 1_000, latitude=47.0 + metres / 111_195, speed=speed, accuracy=5.0)

    async with Driver(hub.url, vehicle_id) as driver:
        # First 3 m/s by the places, whatever it reports. Then as fast as it reports, which the second place shows.
        await driver.report(*(at(seq, 3.0 * seq, [3.0, 60.0, 140.0][seq % 3]) for seq in range(1, 61)))
        await driver.report(*(at(61 + n, 183.0 + 15.0 * n, 15.0) for n in range(5)))
        assert await driver.acknowledged(65) == []

        async def told() -> bool:
            return bool(await listed(api, fleet_id, kind="speeding"))

        await until(told, "its speeding is told")
    [speeding] = await listed(api, fleet_id, kind="speeding")
    assert (speeding["speed"], speeding["fix_time"]) == (15.0, begin + 62_000)
    rows = await api.track(f"/vehicles/{vehicle_id}/track")
    assert [row["speed"] for row in rows[:6]] == ["", "", "3.0", "", "", "3.0"]
    days = (await api.call("GET", f"/vehicles/{vehicle_id}/days"))["days"]
    assert max(day["top_speed"] for day in days) == 15.0


async def test_a_fence_over_a_parked_vehicle(hub: HubProcess, api: Api) -> None:
    fleet_id = await quiet_fleet(api)
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Quiet", "idle_after": 1e6, "dwell_after": 1e6, "speed_limit": 40})
    vehicle_id = await api.vehicle(fleet_id)
    connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        drive = Drive(driver, hour_ago())
        await drive.to(INSIDE)
        for geometry in (YARD, ELSEWHERE, YARD):
            await put_fence(api, fleet_id, geometry)
        told = await screen.events(3)
        assert [event["kind"] for event in told] == ["enter", "exit", "enter"]
        stays = "SELECT count(*) FROM geofence_stays WHERE fleet_id = $1"
        assert await connection.fetchval(stays, fleet_id) == 1
        # Nobody leaves a geofence that was removed.
        await api.call("DELETE", f"/fleets/{fleet_id}/geofences/yard", expect=204)
        assert (await screen.expect("geofence_gone"))["geofence_id"] == "yard"
        await settled(screen, drive)
        assert [event["kind"] for event in screen.news()] == ["enter", "exit", "enter", "speeding"]
        assert await connection.fetchval(stays, fleet_id) == 0
    await connection.close()


async def test_a_hub_killed_between_enter_and_exit(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        fleet_id = await quiet_fleet(api)
        vehicle_id = await api.vehicle(fleet_id)
        await put_fence(api, fleet_id)
        begin = hour_ago()
        async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
            drive = Drive(driver, begin)
            await drive.to(OUTSIDE)
            await drive.to(INSIDE)
            await screen.events(1)
            hub.kill()
        hub.start()
        async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id, driver.session) as driver:
            drive = Drive(driver, begin, seq=2)
            await drive.to(INSIDE, latitude=47.1455)
            await drive.to(OUTSIDE)
            assert [event["kind"] for event in await screen.events(1)] == ["exit"]
        assert [event["kind"] for event in await listed(api, fleet_id)] == ["enter", "exit"]


async def test_a_hub_that_goes_down_stores_what_it_saw(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        fleet_id = await quiet_fleet(api)
        vehicle_id = await api.vehicle(fleet_id)
        await put_fence(api, fleet_id)
        begin = hour_ago()
        async with Driver(hub.url, vehicle_id) as driver:
            connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
            await connection.execute("BEGIN; LOCK TABLE events IN SHARE MODE")
            ways = [OUTSIDE, INSIDE] * 20 + [OUTSIDE]
            await driver.report(*(fix(i + 1, fix_time=begin + i * 60_000, **place) for i, place in enumerate(ways)))
            await driver.acknowledged(len(ways))
            stopping = asyncio.create_task(asyncio.to_thread(hub.stop))
            assert await driver.closed() == 1012
            waits = "events are still being stored"
            await until(lambda: stopping.done() or waits in hub.log.read_text(), "it waits, or is down")
            assert not stopping.done()
            await connection.execute("COMMIT")
            await connection.close()
            await stopping
        hub.start()
        assert [event["kind"] for event in await listed(api, fleet_id)] == ["enter", "exit"] * 20


async def test_what_is_asked_for_is_listed(hub: HubProcess, api: Api) -> None:
    fleet_id = await quiet_fleet(api)
    vehicles = [await api.vehicle(fleet_id) for _ in range(2)]
    for geofence_id in ("yard", "also"):
        await put_fence(api, fleet_id, geofence_id=geofence_id)
    async with Dispatcher(hub.url, fleet_id) as screen:
        for number, vehicle_id in enumerate(vehicles):
            async with Driver(hub.url, vehicle_id) as driver:
                drive = Drive(driver, hour_ago())
                for place in (OUTSIDE, INSIDE, OUTSIDE):
                    await drive.to(place)
                await screen.events(4 * (number + 1))
    every = await listed(api, fleet_id)
    ids = [event["event_id"] for event in every]
    assert len(ids) == 8
    assert ids == sorted(set(ids))

    async def found(**params: Any) -> list[int]:
        return [event["event_id"] for event in await listed(api, fleet_id, **params)]

    def those(**fields: Any) -> list[int]:
        return [event["event_id"] for event in every if all(event[field] == value for field, value in fields.items())]

    assert await found(kind="exit") == those(kind="exit")
    assert await found(vehicle_id=vehicles[1]) == those(vehicle_id=vehicles[1])
    assert await found(geofence_id="also", kind="enter") == those(geofence_id="also", kind="enter")
    assert await found(limit=3) == ids[-3:]
    assert await found(after=ids[2]) == ids[3:]
    assert await found(after=0, limit=2) == ids[:2]
    instants = [event["server_time"] for event in every]
    middle = instants[4]
    assert await found(since=middle) == [i for i, t in zip(ids, instants, strict=True) if t >= middle]
    assert await found(until=middle) == [i for i, t in zip(ids, instants, strict=True) if t < middle]
    assert await found(since=instants[0], until=instants[-1] + 1, limit=1) == ids[:1]
    assert await found(after=ids[-1]) == await found(since=now_ms() + 60_000) == await found(vehicle_id="nobody") == []
    bad = {
        "late": "yes",
        "kind": "exits",
        "limit": "0",
        "since": "yesterday",
        "after": "-1",
        "until": "1.5",
        "vehicle_id": "x" * 65,
    }
    for parameter, value in bad.items():
        error = await api.call("GET", f"/fleets/{fleet_id}/events", expect=422, **{parameter: value})
        assert error["error"]["field"] == parameter


async def test_what_a_backlog_tells_is_listed_and_pressed_on_nobody(hub: HubProcess, api: Api) -> None:
    fleet_id = await quiet_fleet(api)
    vehicle_id = await api.vehicle(fleet_id)
    await put_fence(api, fleet_id)
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        begin = now_ms() - 86_400_000
        ways = [OUTSIDE, INSIDE] * 100 + [OUTSIDE]
        await driver.report(*(fix(i + 1, fix_time=begin + i * 60_000, **place) for i, place in enumerate(ways)))
        # Fixes of the last hour give events that are marked as late.
        recent = now_ms() - 1_800_000
        await driver.report(fix(202, fix_time=recent, **INSIDE), fix(203, fix_time=recent + 60_000, **OUTSIDE))
        # This happens now.
        await driver.report(fix(204, **INSIDE))
        await screen.until(lambda: any("late" not in event for event in screen.news()))
    told = [(event["kind"], event.get("late")) for event in screen.news()]
    assert told == [("enter", True), ("exit", True), ("enter", None)]
    every = await listed(api, fleet_id, limit=1000)
    assert [event["kind"] for event in every] == ["enter", "exit"] * 101 + ["enter"]
    assert [event.get("late") for event in every] == [True] * 202 + [None]
    assert await listed(api, fleet_id, late="false") == every[-1:]
    assert await listed(api, fleet_id, late="true", limit=1000) == every


async def test_events_go_with_their_vehicle(hub: HubProcess, api: Api) -> None:
    fleet_id = await quiet_fleet(api)
    vehicle_id = await api.vehicle(fleet_id)
    await put_fence(api, fleet_id)
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        drive = Drive(driver, hour_ago())
        await drive.to(OUTSIDE)
        await drive.to(INSIDE)
        await screen.events(1)
        await api.call("DELETE", f"/vehicles/{vehicle_id}")
    assert await listed(api, fleet_id) == []


async def test_trust_38_39_events_and_fences_are_the_fleets_own(hub: HubProcess, api: Api) -> None:
    fleet_id, other = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    await put_fence(api, fleet_id)
    feature = {"type": "Feature", "geometry": YARD}
    asked: list[tuple[str, str, Any]] = [
        ("GET", "events", None),
        ("GET", "geofences", None),
        ("GET", "geofences/yard", None),
        ("PUT", "geofences/yard", feature),
        ("DELETE", "geofences/yard", None),
    ]
    for method, path, body in asked:
        async with Api(hub.url, token("dispatcher", other)) as stranger:
            answers = [await stranger.call(method, f"/fleets/{f}/{path}", body, expect=404) for f in (fleet_id, new_id("no"))]
        for bearer in (token("passenger", trip["trip_id"]), token("driver", vehicle_id), token("operator")):
            async with Api(hub.url, bearer) as nobody:
                answers.append(await nobody.call(method, f"/fleets/{fleet_id}/{path}", body, expect=404))
        assert all(answer == answers[0] for answer in answers)
    async with Api(hub.url, token("dispatcher", fleet_id)) as own:
        await own.call("GET", f"/fleets/{fleet_id}/events")
        await own.call("DELETE", f"/fleets/{fleet_id}/geofences/yard", expect=204)
        await own.call("GET", f"/fleets/{fleet_id}/geofences/yard", expect=404)
        await own.call("DELETE", f"/fleets/{fleet_id}/geofences/yard", expect=404)
    async with Socket(f"{hub.url}/v1/fleets/{fleet_id}/live", token("dispatcher", other)) as socket:
        assert await socket.closed() == 4502


@pytest.mark.parametrize("back", [False, True], ids=["once", "and back"])
async def test_a_vehicle_that_changes_fleets_takes_no_stay_along(own_hub: Callable[..., HubProcess], back: bool) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        old, new = await quiet_fleet(api), await quiet_fleet(api)
        vehicle_id = await api.vehicle(old)
        await put_fence(api, old)
        await put_fence(api, new, ELSEWHERE)
        begin = hour_ago()
        async with Dispatcher(hub.url, old) as screen, Driver(hub.url, vehicle_id) as driver:
            drive = Drive(driver, begin)
            await drive.to(INSIDE)
            await screen.events(1)
        for fleet_id in (new, old) if back else (new,):
            await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id})
        hub.kill()
        hub.start()
        here = old if back else new
        async with Dispatcher(hub.url, here) as screen, Driver(hub.url, vehicle_id, driver.session) as driver:
            await api.call("PUT", f"/fleets/{here}", {"name": "Limited", "speed_limit": 40, "idle_after": 1e6})
            # This fleet may not know where it was before it came.
            await settled(screen, Drive(driver, now_ms() - 120_000, seq=1))
            assert [event["kind"] for event in screen.news()] == ["speeding"]


async def test_an_event_that_the_database_refuses_takes_no_others_with_it(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        fleet_id = await quiet_fleet(api)
        vehicle_id = await api.vehicle(fleet_id)
        await put_fence(api, fleet_id)
        connection = await asyncpg.connect(database_url)
        await connection.execute("ALTER TABLE events ADD CHECK (kind <> 'exit')")
        async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
            begin = hour_ago()
            # The lock delays the events, so that they are one group.
            async with connection.transaction():
                await connection.execute("LOCK TABLE events IN SHARE MODE")
                ways = [OUTSIDE, INSIDE, OUTSIDE, INSIDE]
                await driver.report(*(fix(i + 1, fix_time=begin + i * 60_000, **place) for i, place in enumerate(ways)))
                await driver.acknowledged(len(ways))
            told = await screen.events(2)
        await connection.close()
        assert [event["kind"] for event in told] == ["enter", "enter"]
        assert [{"type": "event", **event} for event in await listed(api, fleet_id)] == told
    log = hub.log.read_text()
    assert log.count("an event is given up") == 1
    assert f"refuses the exit of vehicle {vehicle_id}" in log


@pytest.mark.parametrize("told", [True, False], ids=["the hub knows", "the hub was not told"])
async def test_trust_40_events_that_waited_do_not_go_to_a_namesake(database_url: str, told: bool) -> None:
    database = Database(database_url)
    await database.open()
    monitored = Monitored(database)
    async with database.transaction() as connection:
        await fleets.put(connection, Fleet(FLEET, "Fleet"))
        await geofences.put(connection, Geofence(FLEET, "yard", YARD, {}))
        stored = [(await vehicles.put(connection, Vehicle(name, FLEET)))[0] for name in ("van", "other")]
    monitored.put("yard", YARD)
    for number, vehicle, *_ in stored:
        monitored.numbers[vehicle.vehicle_id] = number
        for seconds, place in ((0, OUTSIDE), (60, INSIDE)):
            monitored.publish(Seen(vehicle.vehicle_id, BEGIN + seconds * 1000, place["longitude"], place["latitude"], 5.0))
    monitored.monitor.look()
    async with database.transaction() as connection:
        await erasures.begin(connection, stored[0].number)
        await vehicles.put(connection, stored[0].vehicle)
    if told:
        monitored.fleets.forget("van")
        monitored.vehicle("van")
    delivering = asyncio.create_task(monitored.events.deliver())
    await monitored.monitor.flush()
    delivering.cancel()
    async with database.connection() as connection:
        kept = await connection.fetch("SELECT vehicle, kind FROM events")
        stays = await connection.fetch("SELECT vehicle FROM geofence_stays")
    await database.close()
    assert [tuple(row) for row in kept] == [(stored[1].number, "enter")]
    assert [tuple(row) for row in stays] == [(stored[1].number,)]
