"""A hub that lags reads rows that are already blank. It must reach the same state as a hub that did not lag."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.changes import Hub, a_hub
from tests.support.changes import changes as changes_of
from tests.support.clients import now_ms
from tests.support.hub_process import SECRET
from tracking.assembly import assemble
from tracking.auth import Auth
from tracking.config import load
from tracking.service import Service
from tracking.store import changes


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[Hub]:
    async with a_hub(database_url) as hub:
        yield hub


@contextlib.asynccontextmanager
async def _a_hub_that_lags(database_url: str) -> AsyncIterator[Service]:
    """A hub without its tasks. It reads the log when the test calls for it."""
    settings = load(database_url=database_url, jwt_secret=SECRET)
    service = assemble(settings, database_url, Auth(settings), now_ms)
    for database in (service.database, service.following):
        await database.open()
    await service.follower.begin()
    service.auth.know_revoked(set())
    yield service
    for database in (service.database, service.following):
        await database.close()


async def _blank(hub: Hub, vehicle: int) -> int:
    async with hub.service.database.transaction() as connection:
        return (await changes.blank_vehicle(connection, vehicle, 0, 1_000)).rows


async def test_a_blank_row_has_its_vehicle_read_anew(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    vehicle_id = await hub.api.vehicle(fleet_id)
    async with _a_hub_that_lags(hub.service.settings.database_url) as lagging:
        vehicle = await lagging.ingest_vehicles.load(vehicle_id)
        assert vehicle is not None
        await hub.api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "New name"})
        assert await _blank(hub, vehicle.number) >= 1
        while await lagging.follower._read_on():
            pass
        assert lagging.follower.applied == hub.service.follower.applied
        assert vehicle.vehicle.name == "New name"


async def test_trust_73_a_hub_that_lags_forgets_what_was_erased_and_never_shows_it(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    begin = (await changes_of(hub, fleet_id))["last"]
    vehicle_id = await hub.api.vehicle(fleet_id, plate="FL 666")
    async with _a_hub_that_lags(hub.service.settings.database_url) as lagging:
        vehicle = await lagging.ingest_vehicles.load(vehicle_id)
        assert vehicle is not None
        feed = lagging.change_feed
        await feed.begin()
        await hub.api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "x", "plate": "FL 667"})
        await lagging.follower._read_on()
        [held] = (await feed.page(fleet_id, lagging.follower.applied - 1, 10, "test")).entries
        assert b"FL 667" in held.change
        await hub.api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "y", "plate": "FL 668"})
        assert (await hub.api.http.delete(f"/vehicles/{vehicle_id}")).status_code in (202, 204)
        await _blank(hub, vehicle.number)
        # It has not heard of the removal. What it reads from the store is gone already.
        page = await feed.page(fleet_id, begin, 10, "test")
        assert not [entry for entry in page.entries if b"FL 66" in entry.change]
        await lagging.follower._read_on()
        assert lagging.ingest_vehicles.get(vehicle_id) is None
        page = await feed.page(fleet_id, begin, 10, "test")
        assert [entry.kind for entry in page.entries] == ["vehicle.deleted"]
        assert held.frame is None


async def test_a_driver_is_told_of_a_removed_trip_by_a_hub_that_lags(hub: Hub) -> None:
    """The row that tells its vehicle is not blank, however early the erasure is."""
    fleet_id = await hub.api.fleet()
    vehicle_id = await hub.api.vehicle(fleet_id)
    trip = await hub.api.trip(fleet_id, vehicle_id)
    begin = hub.service.follower.applied
    await hub.api.call("DELETE", f"/trips/{trip['trip_id']}", expect=204)
    async with hub.service.database.transaction() as connection:
        while await changes.blank_trip(connection, trip["trip_id"], 2):
            pass
        rows = await connection.fetch("SELECT number, kind, subject, public FROM changes ORDER BY number")
    of_trip = [(row["kind"], row["number"] > begin) for row in rows if row["subject"] == trip["trip_id"]]
    assert of_trip == [("vehicle.trips", True), ("trip.deleted", True)]
    assert [row for row in rows if row["kind"] == "erased"] and all(
        row["public"] is None for row in rows if row["kind"] == "erased"
    )
