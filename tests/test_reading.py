"""How the watch takes up what is stored: what happens meanwhile, and how long it holds the database."""

import asyncio
import contextlib
import json
import math
import threading
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.clients import Api, Message
from tests.faults.devices import until
from tests.hub.geofence_truth import Seen
from tests.hub.watching import BEGIN, FLEET, Watching, position_of
from tests.hub_process import HubProcess
from tests.test_events import YARD, put_fence
from tracking import watch as module
from tracking.hub.geofences import Fences
from tracking.model import Fleet, Geofence, Place, Vehicle
from tracking.store import fleets, geofences, positions, trips, vehicles
from tracking.store.pool import Database

HERE = Place(47.0, 9.5)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    async with database.transaction() as connection:
        await fleets.put(connection, Fleet(FLEET, "Fleet", idle_after=11.0))
        await geofences.put(connection, Geofence(FLEET, "yard", YARD, {}))
    yield database
    await database.close()


@contextlib.asynccontextmanager
async def read(watching: Watching) -> AsyncIterator[None]:
    """While the watch runs."""
    running = asyncio.create_task(watching.watch.run())
    yield
    running.cancel()


async def test_what_is_told_meanwhile_is_newer_than_what_was_read(database: Database) -> None:
    watching = Watching(database, idle_after=22.0)
    watching.watch.ready.clear()
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
            await positions.move_latest(connection, [seen])
            assert stored.number == number
    # None of it is in the store: as what is committed just after its row was read.
    watching.fleets.set_trip("ended", None)
    watching.fleets.forget("erased")
    watching.fleets.forget("anew")
    watching.vehicle("anew")
    async with read(watching):
        await watching.watch.ready.wait()
    known = watching.fleets.vehicles
    assert watching.fleets.feeds[FLEET].fleet.idle_after == 22.0
    assert set(known) == {"waits", "ended", "anew"}
    assert {i: v.trip.trip_id for i, v in known.items() if v.trip is not None} == {"waits": "trip of waits"}
    assert {i for i, v in known.items() if v.position is not None} == {"waits", "ended"}


async def test_no_transaction_is_open_while_fences_are_built(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_build = threading.Event()
    built = module._built
    asked: list[int] = []

    def build(rows: list[geofences.Row]) -> dict[str, Fences]:
        asked.append(len(rows))
        assert may_build.wait(20)
        return built(rows)

    monkeypatch.setattr(module, "_built", build)
    monkeypatch.setattr(module, "MAX_MEANWHILE", 10)
    watching = Watching(database)
    watching.watch.ready.clear()
    witness = await asyncpg.connect(database_url)
    async with read(watching):
        await until(lambda: asked != [], "the fences are built")
        idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        assert await witness.fetchval(idle) == 0
        # More than is kept in mind: all is read again.
        for number in range(25):
            watching.watch.geofence_gone(FLEET, f"fence-{number}")
            assert len(watching.watch._changed_meanwhile) <= 10
        may_build.set()
        await watching.watch.ready.wait()
    assert asked == [1, 1]
    assert watching.watch.knows_geofence(FLEET, "yard")
    await witness.close()


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
    watching = Watching()
    watching.change_fleet("other")

    async def listed(fleet_id: str = FLEET) -> list[str]:
        listing = await watching.watch.listing(fleet_id)
        assert listing is not None
        return [feature["id"] for feature in json.loads(listing)["features"]]

    for geofence_id in ("b", "c", "a"):
        watching.put(geofence_id, YARD)
        watching.put("elsewhere", YARD, "other")
    assert await listed() == ["a", "b", "c"]
    one, same = await watching.watch.listing(FLEET), await watching.watch.listing(FLEET)
    assert one is same
    watching.put("c", YARD, name="Changed")
    assert b"Changed" in (await watching.watch.listing(FLEET) or b"")
    watching.watch.geofence_gone(FLEET, "b")
    assert (await listed(), await listed("other"), await listed("nobody")) == (["a", "c"], ["elsewhere"], [])
    for number in range(100):
        await listed(f"fleet-{number}")
    assert len(watching.watch._listings) == module.MOST_LISTINGS
    watching.watch.ready.clear()
    assert await watching.watch.listing(FLEET) is None


async def test_geofences_are_listed_from_memory_as_they_are_stored(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    path = f"/fleets/{fleet_id}/geofences"
    holes = {"type": "Polygon", "coordinates": [_circle(9), [[9.4, 47.0], [9.5, 47.1], [9.6, 47.0], [9.4, 47.0]]]}
    parts = {"type": "MultiPolygon", "coordinates": [YARD["coordinates"]]}
    for geofence_id, geometry in (("b", holes), ("a", parts)):
        await put_fence(api, fleet_id, geometry, geofence_id, name="Höfe", speed_limit=13.9, own={"deep": [1, None]})
    listing = await api.call("GET", path)
    assert listing == {"type": "FeatureCollection", "features": [await api.call("GET", f"{path}/{i}") for i in ("a", "b")]}
    connection = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    await connection.execute("DELETE FROM geofences WHERE fleet_id = $1", fleet_id)
    await connection.close()
    assert await api.call("GET", path) == listing


def _circle(count: int) -> list[list[float]]:
    ring = [[9.5 + math.cos(2 * math.pi * i / count), 47 + math.sin(2 * math.pi * i / count)] for i in range(count)]
    return [*ring, ring[0]]
