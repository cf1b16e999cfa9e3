"""The change log has rows that this version does not understand, goes back, or is in a database whose clock is wrong."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.faults.conftest import MakeHub, Mortal
from tests.faults.writer import CHANGE, change
from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, Socket, fix, token
from tests.support.devices import until
from tests.support.geofence_drives import ELSEWHERE, put_fence
from tests.support.hub_process import HubProcess
from tests.support.metrics import metrics
from tests.support.watched_trip import watched

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection


@pytest.fixture
def hub(database: Mortal, tmp_path: Path) -> Iterator[HubProcess]:
    """A hub whose log may have tracebacks, of rows that cannot be applied."""
    hub = HubProcess(database.url, tmp_path / "hub.log")
    yield hub.start()
    hub.kill()


@pytest.fixture
async def store(database: Mortal) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database.url)
    yield connection
    await connection.close()


async def _shows(hub: HubProcess, trip_id: str, version: int) -> bool:
    """Whether a passenger that connects now gets this version of the trip."""
    async with Passenger(hub.url, trip_id) as passenger:
        message = await passenger.expect("snapshot")
        return bool(message["trip"]["version"] == version)


TRIP, VEHICLE = "the trip", "the vehicle"
HUGE = "1" + "0" * 400
STRANGE: list[tuple[str, str | None, str | None]] = [
    # kind, subject, internal
    ("trip.split", TRIP, '{"into": 3}'),
    ("vehicle.painted", VEHICLE, None),
    ("trip.changed", None, None),
    ("vehicle.changed", None, None),
    ("message.posted", TRIP, None),
    ("message.posted", TRIP, "{}"),
    ("message.posted", TRIP, '{"message": "7"}'),
    ("message.posted", TRIP, f'{{"message": {HUGE}}}'),
    ("message.posted", TRIP, "[7]"),
    ("event.enter", "7", None),
    ("event.levitating", "7", '{"event": 1e300}'),
    ("trip.changed", TRIP, f'{{"colour": {HUGE}.5, "deep": {"[" * 2000}{"]" * 2000}}}'),
    ("token.revoked", None, None),
    ("geofence.changed", "nowhere", '"text"'),
]


async def test_rows_of_another_version_are_counted_and_all_others_are_told(
    hub: HubProcess, database: Mortal, store: Connection
) -> None:
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        trip = await api.call("GET", f"/trips/{trip_id}")
        version = trip["version"]
        query = "SELECT vehicle FROM vehicles WHERE vehicle_id = $1"
        number = await store.fetchval(query, vehicle_id)
        names = {TRIP: trip_id, VEHICLE: vehicle_id}
        for kind, subject, internal in STRANGE:
            async with Passenger(hub.url, trip_id), Driver(hub.url, vehicle_id):
                await store.execute(
                    "INSERT INTO pending_changes (kind, subject, fleet_id, vehicle, internal) VALUES ($1, $2, $3, $4, $5)",
                    kind,
                    names.get(subject or "", subject),
                    trip["fleet_id"],
                    number,
                    internal,
                )
                await change(database.url, trip_id)
                version += 1
                await until(lambda v=version: _shows(hub, trip_id, v), f"what follows a {kind} with {str(internal)[:50]}")  # type: ignore[misc]
        failed = (await metrics(api))["tracking_changes_failed_total"]
    # Not those that say too much, or that of a geofence nobody has.
    assert failed == len(STRANGE) - 3
    assert "trip.split) is not understood" in hub.log.read_text()


async def test_what_cannot_be_applied_is_read_anew_and_all_else_goes_on(
    hub: HubProcess, database: Mortal, store: Connection
) -> None:
    async with Api(hub.url) as api, watched(api) as (good, good_passenger, version):
        vehicle_id, bad = await api.under_way()
        fleet_id = (await api.call("GET", f"/trips/{bad}"))["fleet_id"]
        await store.execute("ALTER TABLE trips DROP CONSTRAINT trips_status_check")
        number = await store.fetchval("SELECT vehicle FROM vehicles WHERE vehicle_id = $1", vehicle_id)
        async with Passenger(hub.url, bad) as passenger, Driver(hub.url, vehicle_id) as driver:
            await passenger.expect("snapshot")
            await store.execute(
                "WITH t AS (UPDATE trips SET status = 'teleporting', version = version + 1 WHERE trip_id = $1)"
                " INSERT INTO pending_changes (kind, subject, fleet_id, vehicle) VALUES ('trip.changed', $1, $2, $3)",
                bad,
                fleet_id,
                number,
            )
            assert await passenger.closed() == 1012
            assert await driver.closed() == 1012
        assert (await metrics(api))["tracking_changes_failed_total"] == 1
        await change(database.url, good)
        assert (await good_passenger.expect("trip"))["trip"]["version"] == version + 1
        await store.execute(
            "WITH t AS (UPDATE trips SET status = 'arrived_at_pickup' WHERE trip_id = $1)"
            " INSERT INTO pending_changes (kind, subject, fleet_id, vehicle) VALUES ('trip.changed', $1, $2, $3)",
            bad,
            fleet_id,
            number,
        )
        async with Passenger(hub.url, bad) as passenger:
            assert (await passenger.expect("snapshot"))["trip"]["status"] == "arrived_at_pickup"
        async with Driver(hub.url, vehicle_id) as driver:
            assert driver.welcome["trip"]["status"] == "arrived_at_pickup"


async def test_a_geofence_whose_shape_is_broken_is_counted_and_others_are_told(hub: HubProcess, store: Connection) -> None:
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        await api.vehicle(fleet_id)
        await put_fence(api, fleet_id)
        async with Dispatcher(hub.url, fleet_id) as screen:
            await store.execute(
                "WITH g AS (UPDATE geofences SET shape = 'SRID=4326;POLYGON EMPTY' WHERE fleet_id = $1)"
                " INSERT INTO pending_changes (kind, subject, fleet_id) VALUES ('geofence.changed', 'yard', $1)",
                fleet_id,
            )
            await until(lambda: _failed(api), "the broken one is counted")
            await put_fence(api, fleet_id, ELSEWHERE, "other")
            assert (await screen.expect("geofence"))["geofence"]["id"] == "other"
            listed = (await api.call("GET", f"/fleets/{fleet_id}/geofences"))["features"]
            # The broken one is in force no more.
            assert [feature["id"] for feature in listed] == ["other"]


async def _failed(api: Api) -> bool:
    return (await metrics(api))["tracking_changes_failed_total"] == 1


# --- it goes back -------------------------------------------------------------------------------------------------------

_BACK = {
    "the newest row is gone": "DELETE FROM changes WHERE number = (SELECT max(number) FROM changes)",
    "the newest row is another": "UPDATE changes SET mark = mark + 1 WHERE number = (SELECT max(number) FROM changes)",
    "the log is empty": "DELETE FROM changes",
    "numbers are given out again": """
        DELETE FROM changes WHERE number > (SELECT max(number) - 2 FROM changes);
        SELECT setval('change_numbers', (SELECT max(number) FROM changes));
        INSERT INTO pending_changes (kind, subject) SELECT 'heartbeat', '' FROM generate_series(1, 5)
    """,
}


@pytest.mark.parametrize("how", list(_BACK))
async def test_trust_68_a_log_that_went_back_is_noticed_by_its_marks_and_all_is_read_anew(
    hubs: MakeHub, store: Connection, how: str
) -> None:
    hub = hubs()
    async with Api(hub.url) as api, watched(api) as (trip_id, passenger, version):
        trip = await api.call("GET", f"/trips/{trip_id}")
        vehicle_id = trip["vehicle"]["vehicle_id"]
        async with Dispatcher(hub.url, trip["fleet_id"]) as screen, Driver(hub.url, vehicle_id) as driver:
            # What is so in the database that it went back to; and no mark of the hub's own says so.
            async with store.transaction():
                await store.execute("UPDATE trips SET version = $2 WHERE trip_id = $1", trip_id, version - 1)
                await store.execute("UPDATE vehicles SET plate = 'FL 1' WHERE vehicle_id = $1", vehicle_id)
                await store.execute(_BACK[how])
            for line in (passenger, screen, driver):
                assert await line.closed() == 1012
        async with Passenger(hub.url, trip_id) as passenger:
            shown = (await passenger.expect("snapshot"))["trip"]
            assert (shown["version"], shown["vehicle"]["plate"]) == (version - 1, "FL 1")
        async with Socket(f"{hub.url}/v1/driver", token("driver", vehicle_id)) as driver:
            assert (await driver.expect("welcome"))["trip"]["version"] == version - 1
        assert (await metrics(api))["tracking_store_went_back_total"] == 1
        # And it goes on.
        async with Passenger(hub.url, trip_id) as passenger:
            await passenger.expect("snapshot")
            await store.execute(CHANGE, trip_id)
            assert (await passenger.expect("trip"))["trip"]["version"] == version


# --- its clock ----------------------------------------------------------------------------------------------------------


async def _set_clock(store: Connection, name: str, ahead: str) -> None:
    """From now on, the database's clock is ahead by this much for each new connection."""
    await store.execute("CREATE SCHEMA IF NOT EXISTS skewed")
    for clock in ("clock_timestamp", "now", "statement_timestamp", "transaction_timestamp"):
        await store.execute(
            f"CREATE OR REPLACE FUNCTION skewed.{clock}() RETURNS timestamptz LANGUAGE sql VOLATILE"
            f" AS $$ SELECT pg_catalog.{clock}() + interval '{ahead}' $$"
        )
    # pg_catalog comes first unless it is named.
    await store.execute(f"ALTER DATABASE {name} SET search_path = skewed, pg_catalog, public")


@pytest.mark.parametrize(("ahead", "seconds"), [("1 hour", 3600.0), ("-1 hour", -3600.0)])
async def test_a_database_whose_clock_is_wrong_files_fixes_with_the_trip_under_way(
    hubs: MakeHub, database: Mortal, store: Connection, ahead: str, seconds: float
) -> None:
    await _set_clock(store, database.name, ahead)
    hub = hubs()
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        seen: dict[str, list[int]] = {}
        async with Driver(hub.url, vehicle_id) as driver:
            for first in (1, 4):
                trip = await api.trip(fleet_id, vehicle_id)
                trip_id = trip["trip_id"]
                await api.advance(trip_id, "enroute_to_pickup")
                async with Passenger(hub.url, trip_id) as passenger:
                    await passenger.expect("snapshot")
                    for seq in range(first, first + 3):
                        await driver.report(fix(seq))
                        position = await passenger.expect("position")
                        seen.setdefault(trip_id, []).append(position["fix_time"])
                        await driver.acknowledged(seq)
                    await api.call("PATCH", f"/trips/{trip_id}", {"status": "canceled", "version": 2})
                    assert await passenger.closed() == 4506
        stored = await store.fetch(
            "SELECT t.trip_id, count(*) FROM positions p JOIN trips t USING (trip) GROUP BY t.trip_id ORDER BY min(p.fix_time)"
        )
        assert [tuple(row) for row in stored] == [(trip_id, 3) for trip_id in seen]
        overlaps = await store.fetchval(
            "SELECT count(*) FROM trip_spans a JOIN trip_spans b ON a.vehicle = b.vehicle AND a.trip <> b.trip"
            " AND b.started_at >= a.started_at AND (a.ended_at IS NULL OR a.ended_at > b.started_at)"
        )
        assert overlaps == 0
        assert abs((await metrics(api))["tracking_database_clock_offset_seconds"] - seconds) < 1.5
        assert "set the one that is wrong" in hub.log.read_text()
        assert await _degraded(hub, "clock")


async def _degraded(hub: Any, word: str) -> bool:
    async with Api(hub.url) as api:
        answer = await api.http.get(f"{hub.url}/readyz")
    body: Message = json.loads(answer.text)
    assert (answer.status_code, body["status"]) == (200, "ready")
    return any(word in reason for reason in body["degraded"])
