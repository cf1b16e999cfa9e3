"""How a fleet is read from the store: what happens meanwhile, and how long it holds the database."""

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from tests.support.clients import Api, Dispatcher, Message
from tests.support.devices import until
from tests.support.geofence_drives import YARD, put_fence
from tests.support.geofence_truth import Seen
from tests.support.hub_process import HubProcess
from tests.support.monitoring import BEGIN, FLEET, Monitored, position_of
from tracking.model import Fleet, Geofence, Place, Vehicle
from tracking.monitor import fences as module
from tracking.monitor import loader
from tracking.monitor.fences import built
from tracking.monitor.geofences import Fences
from tracking.monitor.loader import Loader
from tracking.store import changes, erasures, fleets, geofences, latest_positions, trips, vehicles
from tracking.store.pool import Connection, Database
from tracking.store.vehicles import Stored

HERE = Place(47.0, 9.5)
AROUND = (9.4, 46.9, 9.6, 47.1)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    async with database.transaction() as connection:
        await fleets.put(connection, Fleet(FLEET, "Fleet", idle_after=11.0))
        await geofences.put(connection, Geofence(FLEET, "yard", YARD, {}))
    yield database
    await database.close()


def loader_of(monitored: Monitored, database: Database) -> Loader:
    async def follow() -> None:
        pass

    return Loader(
        database,
        monitored.fleets,
        monitored.monitor,
        follow,
        lambda: monitored.clock,
        sweeping=asyncio.Lock(),
        connected=(),
        gone_after=86_400,
    )


async def test_what_is_applied_meanwhile_is_newer_than_what_was_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitored = Monitored()
    monitored.fleets.feeds.clear()
    async with database.transaction() as connection:
        for number, vehicle_id in enumerate(("waits", "ended", "erased", "anew"), start=1):
            stored, _ = await vehicles.put(connection, Vehicle(vehicle_id, FLEET))
            await trips.insert(
                connection,
                trip_id=f"trip of {vehicle_id}",
                fleet_id=FLEET,
                vehicle=stored.number,
                pickup=HERE,
                dropoff=HERE,
                stops=(),
                route=None,
                now=BEGIN,
            )
            seen = position_of(Seen(vehicle_id, BEGIN, 9.5, 47.0), BEGIN, vehicle=stored.number)
            await latest_positions.move(connection, [seen])
            assert stored.number == number
    read = Loader._read
    readings: list[list[int]] = []

    async def read_and_change(self: Loader, connection: Connection, as_of: int, stored: Sequence[Stored]) -> Any:
        part = await read(self, connection, as_of, stored)
        readings.append(sorted(one.number for one in stored))
        if len(readings) == 1:
            # Committed just after the rows were read, and applied.
            async with database.transaction() as writing:
                await fleets.put(writing, Fleet(FLEET, "Fleet", idle_after=22.0))
                await writing.execute("UPDATE trips SET status = 'canceled' WHERE trip_id = 'trip of ended'")
                await writing.execute("UPDATE trips SET vehicle = NULL WHERE vehicle IN (3, 4)")
                await erasures.begin(writing, 3)
                await erasures.begin(writing, 4)
                await vehicles.put(writing, Vehicle("anew", FLEET))
            keys: list[int | str] = [2, 3, 4, 5, "anew", FLEET]
            for number, key in enumerate(keys, start=as_of + 1):
                self._fleets.loading.changed(key, number)
            async with database.transaction() as writing:
                # The log is as long by then.
                for _ in range(6):
                    await changes.heartbeat(writing)
            monitored.fleets.know(Vehicle("anew", FLEET), 0, 5)
        return part

    monkeypatch.setattr(Loader, "_read", read_and_change)
    assert await loader_of(monitored, database).load(FLEET) is monitored.fleets.feeds[FLEET]
    # What was overtaken, and nothing else, is read again.
    assert readings[0] == [1, 2, 3, 4]
    assert set().union(*readings[1:]) <= {2, 3, 4}
    known = monitored.fleets.vehicles
    assert monitored.fleets.feeds[FLEET].fleet.idle_after == 22.0
    assert {i: v.number for i, v in known.items()} == {"waits": 1, "ended": 2, "anew": 5}
    assert {i: v.trip.trip_id for i, v in known.items() if v.trip is not None} == {"waits": "trip of waits"}
    assert {i for i, v in known.items() if v.position is not None} == {"waits", "ended"}


async def test_no_transaction_is_open_while_fences_are_built(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_build = threading.Event()
    asked: list[int] = []

    def build(rows: Sequence[geofences.Row]) -> Fences:
        asked.append(len(rows))
        assert may_build.wait(20)
        return built(rows)

    monkeypatch.setattr(loader, "built", build)
    monitored = Monitored(database)
    monitored.fleets.feeds.clear()
    witness = await asyncpg.connect(database_url)
    loading = asyncio.create_task(loader_of(monitored, database).load(FLEET))
    await until(lambda: asked != [], "the fences are built")
    idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    assert await witness.fetchval(idle) == 0
    # What changes meanwhile is read after it, one after the other, however much it is.
    async with database.transaction() as connection:
        await geofences.put(connection, Geofence(FLEET, "new", YARD, {}))
        await geofences.delete(connection, FLEET, "yard")
    changing = [asyncio.create_task(monitored.monitor.geofence_at(FLEET, name)) for name in ("yard", "new", *["none"] * 25)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in changing)
    may_build.set()
    await loading
    await asyncio.gather(*changing)
    assert asked == [1]
    assert set(monitored.monitor.fences.by_fleet[FLEET].by_id) == {"new"}
    await witness.close()


async def test_of_a_fleet_that_is_not_held_no_geofence_is_read(database: Database) -> None:
    monitored = Monitored(database)
    monitored.fleets.held.clear()
    monitored.monitor.fences.take_up("other", Fences())
    await monitored.monitor.geofence_at(FLEET, "yard")
    assert FLEET not in monitored.monitor.fences.by_fleet


async def test_a_fleet_has_so_many_fences_and_vertices(hub: HubProcess, api: Api) -> None:
    connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    many = """
        INSERT INTO geofences (fleet_id, geofence_id, shape, properties)
        SELECT $1, 'fence-' || n, ST_Buffer(ST_SetSRID(ST_MakePoint(9.5, 47), 4326), 0.01, $3::int), '{}'
        FROM generate_series(1, $2::int) n
    """
    feature = {"type": "Feature", "geometry": YARD}

    async def refused(fleet_id: str, body: Message) -> Message:
        answer = await api.call("PUT", f"/fleets/{fleet_id}/geofences/another", body, expect=409)
        error: Message = answer["error"]
        return error

    fleet_id = await api.fleet()
    await connection.execute(many, fleet_id, 1_000, 1)
    error = await refused(fleet_id, feature)
    assert error["code"] == "conflict"
    assert "delete one" in error["detail"]
    await put_fence(api, fleet_id, geofence_id="fence-1000")

    fleet_id = await api.fleet()
    await connection.execute(many, fleet_id, 25, 4_999)  # 19,997 vertices each
    error = await refused(fleet_id, {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [_circle(100)]}})
    assert (error["code"], error["field"]) == ("conflict", "geometry")
    assert "simplify" in error["detail"]
    await put_fence(api, fleet_id)
    await put_fence(api, fleet_id, geofence_id="fence-25")
    await put_fence(api, fleet_id, {"type": "Polygon", "coordinates": [_circle(100)]}, geofence_id="another")
    await connection.close()


async def test_a_listing_is_made_once_and_again_after_each_change() -> None:
    monitored = Monitored()
    monitored.change_fleet("other")

    async def listed(fleet_id: str = FLEET) -> list[str]:
        listing = await monitored.monitor.listing(fleet_id)
        assert listing is not None
        return [feature["id"] for feature in json.loads(listing)["features"]]

    for geofence_id in ("b", "c", "a"):
        monitored.put(geofence_id, YARD)
        monitored.put("elsewhere", YARD, "other")
    assert await listed() == ["a", "b", "c"]
    one, same = await monitored.monitor.listing(FLEET), await monitored.monitor.listing(FLEET)
    assert one is same
    monitored.put("c", YARD, name="Changed")
    assert b"Changed" in (await monitored.monitor.listing(FLEET) or b"")
    monitored.monitor.geofence_gone(FLEET, "b")
    monitored.change_fleet("nobody")
    assert (await listed(), await listed("other"), await listed("nobody")) == (["a", "c"], ["elsewhere"], [])
    for number in range(100):
        monitored.change_fleet(f"fleet-{number}")
        await listed(f"fleet-{number}")
    assert len(monitored.monitor.fences._listings) == module.MAX_LISTINGS
    monitored.fleets.feeds[FLEET].loaded = False
    assert await monitored.monitor.listing(FLEET) is None


async def test_geofences_are_listed_from_memory_as_they_are_stored(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    path = f"/fleets/{fleet_id}/geofences"
    holes = {"type": "Polygon", "coordinates": [_circle(9), [[9.4, 47.0], [9.5, 47.1], [9.6, 47.0], [9.4, 47.0]]]}
    parts = {"type": "MultiPolygon", "coordinates": [YARD["coordinates"]]}
    for geofence_id, geometry in (("b", holes), ("a", parts)):
        await put_fence(api, fleet_id, geometry, geofence_id, name="Höfe", speed_limit=13.9, own={"deep": [1, None]})
    from_store = await api.call("GET", path)
    # Whoever looks at the fleet has it in memory.
    async with Dispatcher(hub.url, fleet_id) as screen:
        await screen.look(*AROUND)
        await screen.expect("fleet_snapshot")
    listing = await api.call("GET", path)
    assert listing == from_store
    assert listing == {"type": "FeatureCollection", "features": [await api.call("GET", f"{path}/{i}") for i in ("a", "b")]}
    connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    await connection.execute("DELETE FROM geofences WHERE fleet_id = $1", fleet_id)
    await connection.close()
    assert await api.call("GET", path) == listing


def _circle(count: int) -> list[list[float]]:
    ring = [[9.5 + math.cos(2 * math.pi * i / count), 47 + math.sin(2 * math.pi * i / count)] for i in range(count)]
    return [*ring, ring[0]]
