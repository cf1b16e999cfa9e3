"""Nobody changes the audit: database roles, how long it is kept, and what it leaves out."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from tests.support.clients import Api, Driver, Passenger, fix, new_id, now_ms, token
from tests.support.clocks import ShiftedClock
from tests.support.hub_process import ROOT, SECRET, HubProcess
from tests.support.serving import serving
from tests.trust.audit_hub import AuditHub
from tracking.app import create_app
from tracking.config import load
from tracking.demo.postgres import ROLE


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET address = NULL",
        "UPDATE audit SET subject = 'another'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "SELECT disguise_in_audit('token', subject, 'no pseudonym') FROM audit",
    ],
)
async def test_nobody_changes_what_was_recorded(audit_hub: AuditHub, database_url: str, change: str) -> None:
    await audit_hub.api.call("POST", "/tokens", {"role": "operator"})
    before = (await audit_hub.api.call("GET", "/audit"))["entries"]
    connection = await asyncpg.connect(database_url)
    try:
        with pytest.raises(asyncpg.PostgresError, match="only ever added to"):
            await connection.execute(change)
    finally:
        await connection.close()
    assert (await audit_hub.api.call("GET", "/audit"))["entries"] == before


async def test_a_hub_runs_as_the_role_that_the_security_model_makes(database_url: str, tmp_path: Path) -> None:
    """Such a role can't even drop the trigger that protects the audit."""
    [made] = re.findall(r"(?:^    .*\n)+", (ROOT / "docs" / "SECURITY-MODEL.md").read_text(), re.MULTILINE)
    role = new_id("hub").replace("-", "_")
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(made.replace("tracking_hub", role))
        hub = HubProcess(database_url.replace(f"//{ROLE}@", f"//{role}@"), tmp_path / "hub.log").start()
        try:
            async with Api(hub.url) as api:
                vehicle_id, trip_id = await api.under_way()
                async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id):
                    # A day that has no partition yet.
                    await driver.report(fix(1, fix_time=now_ms() - 5 * 86_400_000))
                    await driver.acknowledged(1)
                await api.advance(trip_id, "canceled")
                await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
                # Watches are written within a second.
                async with asyncio.timeout(10):
                    actions: set[str] = set()
                    while not {"watched", "vehicle_erased"} <= actions:
                        actions = {entry["action"] for entry in (await api.call("GET", "/audit"))["entries"]}
                        await asyncio.sleep(0.02)
        finally:
            hub.kill()
        await connection.execute(f"SET ROLE {role}")
        assert await connection.fetchval("SELECT removed FROM purge_audit(0, now() + interval '1 day', 1)") == 1
        # Old positions are dropped like this.
        await connection.execute("SELECT ensure_positions_partition('2001-01-01')")
        await connection.execute("ALTER TABLE positions DETACH PARTITION positions_20010101; DROP TABLE positions_20010101")
        for change in (
            "DELETE FROM audit",
            "UPDATE audit SET subject = '~t'",
            "ALTER TABLE audit DISABLE TRIGGER ALL",
            "TRUNCATE audit",
            "DROP TABLE audit",
            "UPDATE audit_key SET key = ''",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(change)
    finally:
        await connection.execute(
            f"RESET ROLE; REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
        )
        await connection.close()


async def test_a_role_without_rights_neither_shortens_nor_changes_the_audit(database_url: str) -> None:
    """Two functions do that as the owner of the table. The role may not call them."""
    connection = await asyncpg.connect(database_url)
    role = new_id("reader").replace("-", "_")
    try:
        await connection.execute(f"CREATE ROLE {role}; GRANT SELECT ON audit TO {role}; SET ROLE {role}")
        for change in ("purge_audit(0, 'infinity', 1000)", "disguise_in_audit('trip', 't', '~t')"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT {change}")
    finally:
        await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()


async def test_a_role_that_may_call_the_two_functions_gets_no_rights_of_the_owner(database_url: str) -> None:
    """A temporary table named `audit` could have triggers, which a function would run as the owner."""
    connection = await asyncpg.connect(database_url)
    role = new_id("hub").replace("-", "_")
    try:
        await connection.execute(
            "INSERT INTO audit (recorded_at, at, action, role, holder, jti, kind, subject)"
            " SELECT now(), now(), 'exported', 'service', '', 'j', 'trip', 't'"
        )
        await connection.execute(
            f"CREATE ROLE {role}; GRANT SELECT, INSERT ON audit TO {role};"
            f"GRANT EXECUTE ON FUNCTION purge_audit, disguise_in_audit TO {role}; SET ROLE {role};"
            "CREATE TEMPORARY TABLE audit (LIKE public.audit); GRANT ALL ON pg_temp.audit TO PUBLIC"
        )
        await connection.execute("INSERT INTO pg_temp.audit SELECT * FROM public.audit")
        await connection.execute("SELECT disguise_in_audit('trip', 't', '~t')")
        assert await connection.fetchval("SELECT subject FROM pg_temp.audit") == "t"
        assert await connection.fetchval("SELECT subject FROM public.audit") == "~t"
        assert await connection.fetchval("SELECT removed FROM purge_audit(0, now() + interval '1 day', 3)") == 1
        assert await connection.fetchval("SELECT count(*) FROM pg_temp.audit") == 1
        assert await connection.fetchval("SELECT count(*) FROM public.audit") == 0
    finally:
        await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()


async def test_entries_are_kept_as_long_as_the_setting_says(database_url: str) -> None:
    clock = ShiftedClock()
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, audit_days=19), clock=clock)
    async with serving(app, lifespan="on") as served, Api(served.url, token("service", expires_in=90 * 86_400)) as api:
        audit_hub = AuditHub(app.state.service, served.url, clock, api)
        first = (await api.call("POST", "/tokens", {"role": "operator"}))["jti"]
        clock.ahead += 19 * 86_400_000
        await audit_hub.service.retention.work()
        assert len(await audit_hub.of(first)) == 1
        clock.ahead += 86_400_000
        second = (await api.call("POST", "/tokens", {"role": "operator"}))["jti"]
        await audit_hub.service.retention.work()
        assert await audit_hub.of(first) == [] and len(await audit_hub.of(second)) == 1


async def test_addresses_may_be_left_out(database_url: str) -> None:
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, audit_addresses=False))
    async with serving(app, lifespan="on") as served, Api(served.url) as api:
        await api.call("POST", "/tokens", {"role": "operator"})
        [entry] = (await api.call("GET", "/audit"))["entries"]
    assert "address" not in entry
