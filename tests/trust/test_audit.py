"""The audit records who did what and who watched, and tells it only to a service."""

import asyncpg
import pytest

from tests.support.clients import Api, Dispatcher, Driver, Passenger, fix, new_id, now_ms, token
from tests.trust.audit_hub import AuditHub
from tracking.audit import GAP_MS, Audit
from tracking.auth import Principal, Role
from tracking.store.pool import Database


async def test_a_token_is_recorded_with_who_issued_and_who_revoked_it(audit_hub: AuditHub) -> None:
    before = now_ms()
    vehicle_id = new_id("van")
    issued = await audit_hub.api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id}, expect=201)
    other = await audit_hub.api.call("POST", "/tokens", {"role": "operator"}, expect=201)
    await audit_hub.api.call("DELETE", f"/tokens/{issued['jti']}", expect=204)
    [made] = await audit_hub.of(vehicle_id)
    assert (made["action"], made["kind"], made["address"]) == ("token_issued", "vehicle", "127.0.0.1")
    assert made["principal"]["role"] == "service" and len(made["principal"]["jti"]) > 20
    assert before <= made["time"] <= now_ms()
    assert made["detail"] == {"jti": issued["jti"], "role": "driver", "expires_at": issued["expires_at"]}
    # The id of the token finds both entries. The token itself is not in them.
    assert [entry["action"] for entry in await audit_hub.of(issued["jti"])] == ["token_issued", "token_revoked"]
    assert [entry["action"] for entry in await audit_hub.of(other["jti"])] == ["token_issued"]
    assert issued["token"] not in (await audit_hub.api.http.get("/audit")).text


async def test_a_share_is_recorded_with_the_dispatcher_who_made_and_revoked_it(audit_hub: AuditHub) -> None:
    fleet_id = await audit_hub.api.fleet()
    trip_id = (await audit_hub.api.trip(fleet_id, None))["trip_id"]
    async with Api(audit_hub.url, token("dispatcher", fleet_id)) as dispatcher:
        share = await dispatcher.call("POST", f"/trips/{trip_id}/shares", {}, expect=201)
        await dispatcher.call("DELETE", f"/shares/{share['share_id']}", expect=204)
    made, revoked = await audit_hub.of(trip_id)
    assert [entry["action"] for entry in (made, revoked)] == ["share_made", "share_revoked"]
    for entry in (made, revoked):
        assert entry["principal"]["role"] == "dispatcher" and entry["principal"]["subject"] == fleet_id
        assert (entry["kind"], entry["detail"]["share_id"]) == ("trip", share["share_id"])


async def test_what_was_not_done_is_not_recorded(audit_hub: AuditHub) -> None:
    fleet_id = await audit_hub.api.fleet()
    vehicle_id = await audit_hub.api.vehicle(fleet_id)
    trip_id = (await audit_hub.api.trip(fleet_id, vehicle_id))["trip_id"]
    await audit_hub.api.advance(trip_id, "enroute_to_pickup")
    last = (await audit_hub.api.call("GET", "/audit", limit=1))["entries"]
    await audit_hub.api.call("DELETE", f"/trips/{trip_id}", expect=409)
    await audit_hub.api.call("DELETE", f"/vehicles/{vehicle_id}", expect=409)
    await audit_hub.api.call("DELETE", "/shares/none", expect=404)
    await audit_hub.api.call("POST", "/tokens", {"role": "driver"}, expect=422)
    await audit_hub.api.call("GET", f"/trips/{trip_id}/track", format="none", expect=422)
    for path in (f"/trips/{trip_id}/shares", f"/vehicles/{vehicle_id}/track"):
        assert (await audit_hub.with_bearer(token("operator"), "GET", path)).status_code == 403
    assert (await audit_hub.api.call("GET", "/audit", limit=1))["entries"] == last


async def test_an_export_is_recorded_with_what_went_out(audit_hub: AuditHub) -> None:
    vehicle_id, trip_id = await audit_hub.api.under_way()
    async with Driver(audit_hub.url, vehicle_id) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
    passenger = token("passenger", trip_id)
    answer = await audit_hub.with_bearer(passenger, "GET", f"/trips/{trip_id}/track?format=csv")
    await audit_hub.api.call("GET", f"/vehicles/{vehicle_id}/track")
    await audit_hub.service.audit.write()
    begin, end = await audit_hub.of(trip_id)
    assert (begin["action"], begin["detail"]) == ("exported", {"format": "csv"})
    assert begin["principal"]["role"] == "passenger" and begin["principal"]["subject"] == trip_id
    assert (end["action"], end["detail"]) == ("export_ended", {"bytes": len(answer.content), "complete": True})
    assert end["principal"] == begin["principal"]
    assert [entry["action"] for entry in await audit_hub.of(vehicle_id)] == ["exported", "export_ended"]


async def test_who_watched_a_trip_from_when_to_when(audit_hub: AuditHub) -> None:
    _, trip_id = await audit_hub.api.under_way()
    share = await audit_hub.api.call("POST", f"/trips/{trip_id}/shares", {})
    began = audit_hub.clock()
    async with (
        Passenger(audit_hub.url, trip_id, share["token"]) as one,
        Passenger(audit_hub.url, trip_id, share["token"]) as tab,
        Passenger(audit_hub.url, trip_id, token("service")) as other,
    ):
        for watcher in (one, tab, other):
            await watcher.expect("snapshot")
        shared, looked = sorted(await audit_hub.watches(trip_id, 2), key=lambda watch: watch["principal"]["role"])
        # Two tabs of one link are one watch. It has no end while somebody watches.
        assert shared["principal"] == {
            "role": "passenger",
            "subject": trip_id,
            "jti": shared["principal"]["jti"],
            "share_id": share["share_id"],
        }
        assert looked["principal"]["role"] == "service"
        assert began <= shared["from"] <= audit_hub.clock() and "to" not in shared and "to" not in looked
    await audit_hub.gone()
    left = audit_hub.clock()
    # Who comes back within the gap continues the same watch.
    audit_hub.clock.ahead += GAP_MS // 2
    async with Passenger(audit_hub.url, trip_id, share["token"]) as again:
        await again.expect("snapshot")
    await audit_hub.gone()
    back = audit_hub.clock()
    audit_hub.clock.ahead += GAP_MS
    shared, looked = sorted(await audit_hub.watches(trip_id, 2, ended=True), key=lambda watch: watch["principal"]["role"])
    assert looked["to"] <= left and left < shared["to"] <= back
    assert "uncertain" not in shared
    # After the gap a new watch begins.
    async with Passenger(audit_hub.url, trip_id, share["token"]) as later:
        await later.expect("snapshot")
        await audit_hub.watches(trip_id, 3)


async def test_a_fleets_map_is_a_watch_of_the_fleet(audit_hub: AuditHub) -> None:
    fleet_id = await audit_hub.api.fleet()
    async with Dispatcher(audit_hub.url, fleet_id) as dispatcher:
        await dispatcher.look(9, 47, 10, 48)
        await dispatcher.expect("fleet_snapshot")
    await audit_hub.gone()
    audit_hub.clock.ahead += GAP_MS
    await audit_hub.service.audit.write()
    assert [(entry["action"], entry["kind"]) for entry in await audit_hub.of(fleet_id)] == [
        ("watched", "fleet"),
        ("watch_ended", "fleet"),
    ]


async def test_only_a_service_reads_the_audit(audit_hub: AuditHub) -> None:
    fleet_id = await audit_hub.api.fleet()
    trip_id = (await audit_hub.api.trip(fleet_id, None))["trip_id"]
    for bearer in (token("dispatcher", fleet_id), token("passenger", trip_id), token("operator"), token("driver", "van")):
        for path in ("/audit", f"/trips/{trip_id}/audit", "/trips/none/audit"):
            assert (await audit_hub.with_bearer(bearer, "GET", path)).status_code == 403
    await audit_hub.api.call("GET", "/trips/none/audit", expect=404)
    for query, field in (("action=nonsense", "action"), ("limit=0", "limit"), ("after=x", "after"), ("subject=%00", "subject")):
        refusal = await audit_hub.api.call("GET", f"/audit?{query}", expect=422)
        assert refusal["error"]["field"] == field


async def test_entries_are_paged_by_after_and_filtered_by_action(audit_hub: AuditHub) -> None:
    for _ in range(5):
        await audit_hub.api.call("POST", "/tokens", {"role": "operator"})
    jti = (await audit_hub.api.call("POST", "/tokens", {"role": "service"}))["jti"]
    await audit_hub.api.call("DELETE", f"/tokens/{jti}")
    read: list[int] = []
    while page := (await audit_hub.api.call("GET", "/audit", after=read[-1] if read else 0, limit=3))["entries"]:
        read += [entry["entry"] for entry in page]
    assert len(read) == 7 and read == sorted(read)
    last = (await audit_hub.api.call("GET", "/audit", limit=2))["entries"]
    assert [entry["entry"] for entry in last] == read[-2:]
    [revoked] = (await audit_hub.api.call("GET", "/audit", action="token_revoked"))["entries"]
    assert (revoked["subject"], revoked["entry"]) == (jti, read[-1])


async def test_a_reader_of_pages_misses_no_entry_that_is_committed_late(audit_hub: AuditHub, database_url: str) -> None:
    """An entry gets its number before its transaction commits. Later entries are held back until then."""
    await audit_hub.api.call("POST", "/tokens", {"role": "operator"})
    connection = await asyncpg.connect(database_url)
    try:
        copied = "role, holder, jti, kind, subject, at, recorded_at"
        late = connection.transaction()
        await late.start()
        await connection.execute(f"INSERT INTO audit (action, {copied}) SELECT 'late', {copied} FROM audit LIMIT 1")
        await audit_hub.api.call("POST", "/tokens", {"role": "operator"})
        first = (await audit_hub.api.call("GET", "/audit", after=0))["entries"]
        assert [entry["action"] for entry in first] == ["token_issued"]
        await late.commit()
        rest = (await audit_hub.api.call("GET", "/audit", after=first[-1]["entry"]))["entries"]
        assert [entry["action"] for entry in rest] == ["late", "token_issued"]
        # A number that is never committed delays the others for a minute only.
        never = connection.transaction()
        await never.start()
        await connection.execute(f"INSERT INTO audit (action, {copied}) SELECT 'never', {copied} FROM audit LIMIT 1")
        await never.rollback()
        await audit_hub.api.call("POST", "/tokens", {"role": "operator"})
        assert (await audit_hub.api.call("GET", "/audit", after=rest[-1]["entry"]))["entries"] == []
        audit_hub.clock.ahead += 61_000
        assert len((await audit_hub.api.call("GET", "/audit", after=rest[-1]["entry"]))["entries"]) == 1
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", None),
        ("x" * 5_000, None),
    ],
)
def test_what_is_not_an_address_is_left_out(host: str, shown: str | None) -> None:
    audit = Audit(Database("postgresql:///none"), now_ms)
    assert audit.doer(Principal(Role.SERVICE, "", "j\0\ud800", 0), host) == ("service", "", "j?", None, shown)
