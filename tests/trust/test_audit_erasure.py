"""An erasure is recorded in the audit, which then no longer names what was erased."""

import asyncpg

from tests.support.clients import Api, Driver, Passenger, fix, token
from tests.support.devices import until
from tests.trust.audit_hub import AuditHub
from tests.trust.removals import is_no_notice
from tracking.audit import GAP_MS


async def everything(database_url: str) -> str:
    """All rows of all tables as text, without the change log's notices of removals."""
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        rows = [
            await connection.fetch(f'SELECT t::text FROM "{table[0]}" t WHERE {is_no_notice(table[0])}')
            for table in tables
            if table[0] != "spatial_ref_sys"
        ]
    finally:
        await connection.close()
    return "\n".join(row[0] for found in rows for row in found)


async def is_named_nowhere(id_: str, database_url: str) -> None:
    """Wait until no row has this id. Rows are deleted in batches."""

    async def named_nowhere() -> bool:
        return id_ not in await everything(database_url)

    await until(named_nowhere, f"{id_} is in no table")


async def test_the_erasure_of_a_vehicle_is_recorded_and_no_row_names_it(audit_hub: AuditHub, database_url: str) -> None:
    fleet_id = await audit_hub.api.fleet()
    vehicle_id = await audit_hub.api.vehicle(fleet_id)
    await audit_hub.api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id})
    await audit_hub.api.call("GET", f"/vehicles/{vehicle_id}/track")
    async with Api(audit_hub.url, token("dispatcher", fleet_id)) as dispatcher:
        await dispatcher.call("DELETE", f"/vehicles/{vehicle_id}")
    await audit_hub.service.audit.write()
    await is_named_nowhere(vehicle_id, database_url)
    # A reader who knows the id still finds the entries.
    found = await audit_hub.of(vehicle_id)
    assert [entry["action"] for entry in found] == ["token_issued", "exported", "export_ended", "vehicle_erased"] or [
        entry["action"] for entry in found
    ] == ["token_issued", "exported", "vehicle_erased", "export_ended"]
    [erased] = [entry for entry in found if entry["action"] == "vehicle_erased"]
    assert erased["principal"]["subject"] == fleet_id
    assert {entry["subject"][0] for entry in found} == {"~"} and len({entry["subject"] for entry in found}) == 1
    assert await audit_hub.of(vehicle_id + "x") == []


async def test_no_row_names_an_erased_trip_that_was_watched_at_that_moment(audit_hub: AuditHub, database_url: str) -> None:
    """The watch had begun but was not written yet. It ends after the erasure."""
    trip_id = (await audit_hub.api.trip(await audit_hub.api.fleet(), None))["trip_id"]
    async with Passenger(audit_hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await audit_hub.api.call("DELETE", f"/trips/{trip_id}", expect=204)
        await passenger.closed()
    await audit_hub.gone()
    audit_hub.clock.ahead += GAP_MS
    await audit_hub.service.audit.write()
    await is_named_nowhere(trip_id, database_url)
    assert sorted(entry["action"] for entry in await audit_hub.of(trip_id)) == ["trip_erased", "watch_ended", "watched"]
    assert audit_hub.service.audit._erased == {}


async def test_the_audit_holds_no_places(audit_hub: AuditHub, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        kinds = await connection.fetch(
            "SELECT column_name, udt_name FROM information_schema.columns WHERE table_name LIKE 'audit%' ORDER BY 1"
        )
    finally:
        await connection.close()
    assert {kind["udt_name"] for kind in kinds} == {"int8", "timestamptz", "text", "uuid", "jsonb", "bool", "bytea"}
    vehicle_id, trip_id = await audit_hub.api.under_way()
    async with Driver(audit_hub.url, vehicle_id) as driver, Passenger(audit_hub.url, trip_id) as watcher:
        await watcher.expect("snapshot")
        await driver.report(fix(1))
        await watcher.expect("position")
    await audit_hub.api.call("GET", f"/trips/{trip_id}/track")
    await audit_hub.service.audit.write()
    details = [entry.get("detail", {}) for entry in (await audit_hub.api.call("GET", "/audit"))["entries"]]
    assert {name for detail in details for name in detail} <= {"format", "bytes", "complete", "jti", "role", "expires_at"}
