"""Who did what, and who watched: the audit has it, tells only a service, and knows no places and nothing that was erased."""

import asyncio
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, fix, new_id, now_ms, token
from tests.support.clocks import ShiftedClock
from tests.support.devices import until
from tests.support.hub_process import ROOT, SECRET, HubProcess, free_port
from tests.support.serving import serving
from tests.trust.test_erasure import no_notice
from tracking.app import create_app
from tracking.audit import GAP_MS, MAX_WAITING, Audit, Doer, Kind
from tracking.auth import Principal, Role
from tracking.config import load
from tracking.demo.postgres import ROLE
from tracking.errors import StoreUnavailable
from tracking.metrics import AUDIT_LOST
from tracking.service import Service
from tracking.store import audit as store
from tracking.store.audit import Ending, Row
from tracking.store.pool import Database


class Books:
    """A hub in this process with a clock to turn, and its audit as a service reads it."""

    def __init__(self, service: Service, url: str, clock: ShiftedClock, api: Api) -> None:
        self.service, self.url, self.clock, self.api = service, url, clock, api

    async def of(self, subject: str, *actions: str) -> list[Message]:
        entries: list[Message] = (await self.api.call("GET", "/audit", subject=subject, after=0))["entries"]
        return [entry for entry in entries if not actions or entry["action"] in actions]

    async def watches(self, trip_id: str, count: int, *, ended: bool = False) -> list[Message]:
        """The watches of a trip, as soon as so many are written, with their ends if they are to have them."""
        async with asyncio.timeout(10):
            while True:
                await self.service.audit.write()
                found: list[Message] = (await self.api.call("GET", f"/trips/{trip_id}/audit"))["watches"]
                if len(found) == count and (not ended or all("to" in watch for watch in found)):
                    return found
                await asyncio.sleep(0.02)

    async def gone(self) -> None:
        """Waits until nobody watches any more."""
        await until(lambda: not any(span.connections for span in self.service.audit._spans.values()), "all have left")

    async def with_bearer(self, bearer: str, method: str, path: str) -> httpx.Response:
        return await self.api.http.request(method, path, headers={"Authorization": f"Bearer {bearer}"})


@pytest.fixture
async def books(database_url: str) -> Any:
    clock = ShiftedClock()
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, ack_interval=0), clock=clock)
    async with serving(app, lifespan="on") as served, Api(served.url, token("service", expires_in=90 * 86_400)) as api:
        yield Books(app.state.service, served.url, clock, api)


async def test_a_token_is_recorded_with_who_issued_and_who_revoked_it(books: Books) -> None:
    before = now_ms()
    vehicle_id = new_id("van")
    issued = await books.api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id}, expect=201)
    other = await books.api.call("POST", "/tokens", {"role": "operator"}, expect=201)
    await books.api.call("DELETE", f"/tokens/{issued['jti']}", expect=204)
    [made] = await books.of(vehicle_id)
    assert (made["action"], made["kind"], made["address"]) == ("token_issued", "vehicle", "127.0.0.1")
    assert made["principal"]["role"] == "service" and len(made["principal"]["jti"]) > 20
    assert before <= made["time"] <= now_ms()
    assert made["detail"] == {"jti": issued["jti"], "role": "driver", "expires_at": issued["expires_at"]}
    # By its id both are found, and never the token itself.
    assert [entry["action"] for entry in await books.of(issued["jti"])] == ["token_issued", "token_revoked"]
    assert [entry["action"] for entry in await books.of(other["jti"])] == ["token_issued"]
    assert issued["token"] not in (await books.api.http.get("/audit")).text


async def test_a_share_is_recorded_with_the_dispatcher_who_made_and_revoked_it(books: Books) -> None:
    fleet_id = await books.api.fleet()
    trip_id = (await books.api.trip(fleet_id, None))["trip_id"]
    async with Api(books.url, token("dispatcher", fleet_id)) as dispatcher:
        share = await dispatcher.call("POST", f"/trips/{trip_id}/shares", {}, expect=201)
        await dispatcher.call("DELETE", f"/shares/{share['share_id']}", expect=204)
    made, revoked = await books.of(trip_id)
    assert [entry["action"] for entry in (made, revoked)] == ["share_made", "share_revoked"]
    for entry in (made, revoked):
        assert entry["principal"]["role"] == "dispatcher" and entry["principal"]["subject"] == fleet_id
        assert (entry["kind"], entry["detail"]["share_id"]) == ("trip", share["share_id"])


async def test_what_was_not_done_is_not_recorded(books: Books) -> None:
    fleet_id = await books.api.fleet()
    vehicle_id = await books.api.vehicle(fleet_id)
    trip_id = (await books.api.trip(fleet_id, vehicle_id))["trip_id"]
    await books.api.advance(trip_id, "enroute_to_pickup")
    last = (await books.api.call("GET", "/audit", limit=1))["entries"]
    await books.api.call("DELETE", f"/trips/{trip_id}", expect=409)
    await books.api.call("DELETE", f"/vehicles/{vehicle_id}", expect=409)
    await books.api.call("DELETE", "/shares/none", expect=404)
    await books.api.call("POST", "/tokens", {"role": "driver"}, expect=422)
    await books.api.call("GET", f"/trips/{trip_id}/track", format="none", expect=422)
    for path in (f"/trips/{trip_id}/shares", f"/vehicles/{vehicle_id}/track"):
        assert (await books.with_bearer(token("operator"), "GET", path)).status_code == 403
    assert (await books.api.call("GET", "/audit", limit=1))["entries"] == last


async def test_an_export_is_recorded_with_what_went_out(books: Books) -> None:
    vehicle_id, trip_id = await books.api.under_way()
    async with Driver(books.url, vehicle_id) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
    passenger = token("passenger", trip_id)
    answer = await books.with_bearer(passenger, "GET", f"/trips/{trip_id}/track?format=csv")
    await books.api.call("GET", f"/vehicles/{vehicle_id}/track")
    await books.service.audit.write()
    begin, end = await books.of(trip_id)
    assert (begin["action"], begin["detail"]) == ("exported", {"format": "csv"})
    assert begin["principal"]["role"] == "passenger" and begin["principal"]["subject"] == trip_id
    assert (end["action"], end["detail"]) == ("export_ended", {"bytes": len(answer.content), "complete": True})
    assert end["principal"] == begin["principal"]
    assert [entry["action"] for entry in await books.of(vehicle_id)] == ["exported", "export_ended"]


async def test_who_watched_a_trip_from_when_to_when(books: Books) -> None:
    _, trip_id = await books.api.under_way()
    share = await books.api.call("POST", f"/trips/{trip_id}/shares", {})
    began = books.clock()
    async with (
        Passenger(books.url, trip_id, share["token"]) as one,
        Passenger(books.url, trip_id, share["token"]) as tab,
        Passenger(books.url, trip_id, token("service")) as other,
    ):
        for watcher in (one, tab, other):
            await watcher.expect("snapshot")
        shared, looked = sorted(await books.watches(trip_id, 2), key=lambda watch: watch["principal"]["role"])
        # Two tabs of one link are one watch; nobody's end is told before it has come.
        assert shared["principal"] == {
            "role": "passenger",
            "subject": trip_id,
            "jti": shared["principal"]["jti"],
            "share_id": share["share_id"],
        }
        assert looked["principal"]["role"] == "service"
        assert began <= shared["from"] <= books.clock() and "to" not in shared and "to" not in looked
    await books.gone()
    left = books.clock()
    # Back within the gap, it was a watch all the while.
    books.clock.ahead += GAP_MS // 2
    async with Passenger(books.url, trip_id, share["token"]) as again:
        await again.expect("snapshot")
    await books.gone()
    back = books.clock()
    books.clock.ahead += GAP_MS
    shared, looked = sorted(await books.watches(trip_id, 2, ended=True), key=lambda watch: watch["principal"]["role"])
    assert looked["to"] <= left and left < shared["to"] <= back
    assert "uncertain" not in shared
    # After the gap it is another one.
    async with Passenger(books.url, trip_id, share["token"]) as later:
        await later.expect("snapshot")
        await books.watches(trip_id, 3)


async def test_a_fleets_map_is_a_watch_of_the_fleet(books: Books) -> None:
    fleet_id = await books.api.fleet()
    async with Dispatcher(books.url, fleet_id) as dispatcher:
        await dispatcher.look(9, 47, 10, 48)
        await dispatcher.expect("fleet_snapshot")
    await books.gone()
    books.clock.ahead += GAP_MS
    await books.service.audit.write()
    assert [(entry["action"], entry["kind"]) for entry in await books.of(fleet_id)] == [
        ("watched", "fleet"),
        ("watch_ended", "fleet"),
    ]


async def test_only_a_service_reads_it(books: Books) -> None:
    fleet_id = await books.api.fleet()
    trip_id = (await books.api.trip(fleet_id, None))["trip_id"]
    for bearer in (token("dispatcher", fleet_id), token("passenger", trip_id), token("operator"), token("driver", "van")):
        for path in ("/audit", f"/trips/{trip_id}/audit", "/trips/none/audit"):
            assert (await books.with_bearer(bearer, "GET", path)).status_code == 403
    await books.api.call("GET", "/trips/none/audit", expect=404)
    for query, field in (("action=nonsense", "action"), ("limit=0", "limit"), ("after=x", "after"), ("subject=%00", "subject")):
        refusal = await books.api.call("GET", f"/audit?{query}", expect=422)
        assert refusal["error"]["field"] == field


async def test_pages_are_turned_by_after_and_narrowed_by_action(books: Books) -> None:
    for _ in range(5):
        await books.api.call("POST", "/tokens", {"role": "operator"})
    jti = (await books.api.call("POST", "/tokens", {"role": "service"}))["jti"]
    await books.api.call("DELETE", f"/tokens/{jti}")
    read: list[int] = []
    while page := (await books.api.call("GET", "/audit", after=read[-1] if read else 0, limit=3))["entries"]:
        read += [entry["entry"] for entry in page]
    assert len(read) == 7 and read == sorted(read)
    last = (await books.api.call("GET", "/audit", limit=2))["entries"]
    assert [entry["entry"] for entry in last] == read[-2:]
    [revoked] = (await books.api.call("GET", "/audit", action="token_revoked"))["entries"]
    assert (revoked["subject"], revoked["entry"]) == (jti, read[-1])


async def test_who_turns_pages_misses_no_entry_whose_commit_is_late(books: Books, database_url: str) -> None:
    """A number is given out when a row is written, and seen when its transaction ends: what follows it waits for it."""
    await books.api.call("POST", "/tokens", {"role": "operator"})
    connection = await asyncpg.connect(database_url)
    try:
        copied = "role, holder, jti, kind, subject, at, recorded_at"
        late = connection.transaction()
        await late.start()
        await connection.execute(f"INSERT INTO audit (action, {copied}) SELECT 'late', {copied} FROM audit LIMIT 1")
        await books.api.call("POST", "/tokens", {"role": "operator"})
        first = (await books.api.call("GET", "/audit", after=0))["entries"]
        assert [entry["action"] for entry in first] == ["token_issued"]
        await late.commit()
        rest = (await books.api.call("GET", "/audit", after=first[-1]["entry"]))["entries"]
        assert [entry["action"] for entry in rest] == ["late", "token_issued"]
        # One that never comes holds nothing up for long.
        never = connection.transaction()
        await never.start()
        await connection.execute(f"INSERT INTO audit (action, {copied}) SELECT 'never', {copied} FROM audit LIMIT 1")
        await never.rollback()
        await books.api.call("POST", "/tokens", {"role": "operator"})
        assert (await books.api.call("GET", "/audit", after=rest[-1]["entry"]))["entries"] == []
        books.clock.ahead += 61_000
        assert len((await books.api.call("GET", "/audit", after=rest[-1]["entry"]))["entries"]) == 1
    finally:
        await connection.close()


# --- erasure --------------------------------------------------------------------------------------------------------


async def everything(database_url: str) -> str:
    """All rows of all tables, as text, but for the change log's notices that something was removed."""
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        rows = [
            await connection.fetch(f'SELECT t::text FROM "{table[0]}" t WHERE {no_notice(table[0])}')
            for table in tables
            if table[0] != "spatial_ref_sys"
        ]
    finally:
        await connection.close()
    return "\n".join(row[0] for found in rows for row in found)


async def is_named_nowhere(id_: str, database_url: str) -> None:
    """Waits for it: rows go in batches."""

    async def named_nowhere() -> bool:
        return id_ not in await everything(database_url)

    await until(named_nowhere, f"{id_} is in no table")


async def test_an_erased_vehicle_is_proved_to_be_erased_and_named_nowhere(books: Books, database_url: str) -> None:
    fleet_id = await books.api.fleet()
    vehicle_id = await books.api.vehicle(fleet_id)
    await books.api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id})
    await books.api.call("GET", f"/vehicles/{vehicle_id}/track")
    async with Api(books.url, token("dispatcher", fleet_id)) as dispatcher:
        await dispatcher.call("DELETE", f"/vehicles/{vehicle_id}")
    await books.service.audit.write()
    await is_named_nowhere(vehicle_id, database_url)
    # Who knows the id finds what was done to it still.
    found = await books.of(vehicle_id)
    assert [entry["action"] for entry in found] == ["token_issued", "exported", "export_ended", "vehicle_erased"] or [
        entry["action"] for entry in found
    ] == ["token_issued", "exported", "vehicle_erased", "export_ended"]
    [erased] = [entry for entry in found if entry["action"] == "vehicle_erased"]
    assert erased["principal"]["subject"] == fleet_id
    assert {entry["subject"][0] for entry in found} == {"~"} and len({entry["subject"] for entry in found}) == 1
    assert await books.of(vehicle_id + "x") == []


async def test_an_erased_trip_is_named_nowhere_though_it_was_watched_when_it_went(books: Books, database_url: str) -> None:
    """Its watch had begun and was not written yet, and ends after the erasure."""
    trip_id = (await books.api.trip(await books.api.fleet(), None))["trip_id"]
    async with Passenger(books.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await books.api.call("DELETE", f"/trips/{trip_id}", expect=204)
        await passenger.closed()
    await books.gone()
    books.clock.ahead += GAP_MS
    await books.service.audit.write()
    await is_named_nowhere(trip_id, database_url)
    assert sorted(entry["action"] for entry in await books.of(trip_id)) == ["trip_erased", "watch_ended", "watched"]
    assert books.service.audit._erased == {}


async def test_it_knows_no_places(books: Books, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        kinds = await connection.fetch(
            "SELECT column_name, udt_name FROM information_schema.columns WHERE table_name LIKE 'audit%' ORDER BY 1"
        )
    finally:
        await connection.close()
    assert {kind["udt_name"] for kind in kinds} == {"int8", "timestamptz", "text", "uuid", "jsonb", "bool", "bytea"}
    vehicle_id, trip_id = await books.api.under_way()
    async with Driver(books.url, vehicle_id) as driver, Passenger(books.url, trip_id) as watcher:
        await watcher.expect("snapshot")
        await driver.report(fix(1))
        await watcher.expect("position")
    await books.api.call("GET", f"/trips/{trip_id}/track")
    await books.service.audit.write()
    details = [entry.get("detail", {}) for entry in (await books.api.call("GET", "/audit"))["entries"]]
    assert {name for detail in details for name in detail} <= {"format", "bytes", "complete", "jti", "role", "expires_at"}


# --- kept, and let go -----------------------------------------------------------------------------------------------


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
async def test_nobody_changes_what_was_recorded(books: Books, database_url: str, change: str) -> None:
    await books.api.call("POST", "/tokens", {"role": "operator"})
    before = (await books.api.call("GET", "/audit"))["entries"]
    connection = await asyncpg.connect(database_url)
    try:
        with pytest.raises(asyncpg.PostgresError, match="only ever added to"):
            await connection.execute(change)
    finally:
        await connection.close()
    assert (await books.api.call("GET", "/audit"))["entries"] == before


async def test_a_hub_runs_as_the_role_that_the_security_model_makes(database_url: str, tmp_path: Path) -> None:
    """So it can be run with one that could not even drop the guard."""
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
                    # A day without a partition yet.
                    await driver.report(fix(1, fix_time=now_ms() - 5 * 86_400_000))
                    await driver.acknowledged(1)
                await api.advance(trip_id, "canceled")
                await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
                # Who watched is written within a second.
                async with asyncio.timeout(10):
                    actions: set[str] = set()
                    while not {"watched", "vehicle_erased"} <= actions:
                        actions = {entry["action"] for entry in (await api.call("GET", "/audit"))["entries"]}
                        await asyncio.sleep(0.02)
        finally:
            hub.kill()
        await connection.execute(f"SET ROLE {role}")
        assert await connection.fetchval("SELECT removed FROM purge_audit(0, now() + interval '1 day', 1)") == 1
        # As positions go that are old enough.
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


async def test_a_role_without_rights_neither_shortens_nor_changes_it(database_url: str) -> None:
    """Though two functions do that as the owner of the table."""
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


async def test_whose_role_may_call_the_two_functions_does_not_become_the_owner_by_them(database_url: str) -> None:
    """By a temporary table in the audit's place, whose trigger they would run."""
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


async def test_it_is_kept_as_long_as_the_setting_says(database_url: str) -> None:
    clock = ShiftedClock()
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, audit_days=19), clock=clock)
    async with serving(app, lifespan="on") as served, Api(served.url, token("service", expires_in=90 * 86_400)) as api:
        books = Books(app.state.service, served.url, clock, api)
        first = (await api.call("POST", "/tokens", {"role": "operator"}))["jti"]
        clock.ahead += 19 * 86_400_000
        await books.service.retention.work()
        assert len(await books.of(first)) == 1
        clock.ahead += 86_400_000
        second = (await api.call("POST", "/tokens", {"role": "operator"}))["jti"]
        await books.service.retention.work()
        assert await books.of(first) == [] and len(await books.of(second)) == 1


async def test_addresses_may_be_left_out(database_url: str) -> None:
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, audit_addresses=False))
    async with serving(app, lifespan="on") as served, Api(served.url) as api:
        await api.call("POST", "/tokens", {"role": "operator"})
        [entry] = (await api.call("GET", "/audit"))["entries"]
    assert "address" not in entry


# --- a hub that is killed, a database that is away ------------------------------------------------------------------


async def test_a_hub_that_was_killed_leaves_watches_that_ended_nobody_knows_when(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        _, trip_id = await api.under_way()

        async def watches(done: Callable[[list[Message]], bool]) -> list[Message]:
            async with asyncio.timeout(10):
                while not done(found := (await api.call("GET", f"/trips/{trip_id}/audit"))["watches"]):
                    await asyncio.sleep(0.05)
            return found  # type: ignore[no-any-return]

        async with Passenger(hub.url, trip_id) as passenger:
            await passenger.expect("snapshot")
            await watches(lambda found: len(found) == 1)
            hub.kill()
            killed = now_ms()
        hub.start()
        [cut] = await watches(lambda found: "to" in found[0])
        assert cut["uncertain"] is True and killed <= cut["to"] <= now_ms()
        # One that goes down by itself knows when they ended.
        async with Passenger(hub.url, trip_id, token("service")) as passenger:
            await passenger.expect("snapshot")
            await watches(lambda found: len(found) == 2)
            before = now_ms()
            hub.stop()
        hub.start()
        _, ended = await watches(lambda found: len(found) == 2)
        assert "uncertain" not in ended and before <= ended["to"] <= now_ms()


async def test_who_watches_already_is_not_ended_with_what_the_hub_before_left_open(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody writes before that is ended, though the database was away when it was to be."""
    end, tries = Audit._end_what_was_cut_off, 0

    async def away_at_first(audit: Audit) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("away")
        await end(audit)

    monkeypatch.setattr(Audit, "_end_what_was_cut_off", away_at_first)
    app = create_app(load(database_url=database_url, jwt_secret=SECRET))
    app.state.service.audit.began(passenger(1), Kind.TRIP, "trip")
    async with serving(app, lifespan="on"):
        await until(lambda: tries > 1 and not app.state.service.audit._waiting, "it is written")
        connection = await asyncpg.connect(database_url)
        assert [tuple(row) for row in await connection.fetch("SELECT action FROM audit")] == [("watched",)]
        await connection.close()


async def test_what_waits_is_written_where_the_hub_goes_on_when_the_store_went_back(database_url: str) -> None:
    app = create_app(load(database_url=database_url, jwt_secret=SECRET))
    async with serving(app, lifespan="on"):
        former: Service = app.state.service
        former.audit.began(passenger(1), Kind.TRIP, "trip")
        former.marks.went_back.set()
        await until(lambda: app.state.service is not former, "it begins anew")
        connection = await asyncpg.connect(database_url)
        query = "SELECT action FROM audit WHERE subject = 'trip' ORDER BY entry"

        async def are_written() -> bool:
            return [row["action"] for row in await connection.fetch(query)] == ["watched", "watch_ended"]

        await until(are_written, "they are written")
        await connection.close()


def passenger(number: int) -> Doer:
    return Doer("passenger", "t", f"jti-{number}", None, None)


async def test_what_waits_for_the_database_is_bounded_and_counted(books: Books) -> None:
    audit = books.service.audit
    lost = AUDIT_LOST._value.get()
    # In one step of the loop, so that nothing is written meanwhile.
    spans = [audit.began(passenger(number), Kind.TRIP, "t") for number in range(MAX_WAITING + 7)]
    for span in spans:
        audit.left(span)
    assert AUDIT_LOST._value.get() - lost == 7
    await audit.flush()
    assert not audit._waiting and not audit._spans
    async with books.service.database.connection() as reader:
        counts = await reader.fetch("SELECT action, count(*) FROM audit GROUP BY 1")
        assert {row["action"]: row["count"] for row in counts} == {"watched": MAX_WAITING, "watch_ended": MAX_WAITING}
        assert await reader.fetchval("SELECT count(*) FROM audit_open") == 0


async def test_while_the_database_is_away_watches_begin_and_end_and_wait(books: Books, database_url: str) -> None:
    away = Database(f"postgresql://127.0.0.1:{free_port()}/none", timeout=0.5)
    await away.open()
    audit = Audit(away, books.clock)
    audit.left(audit.began(passenger(1), Kind.TRIP, "t"))
    books.clock.ahead += GAP_MS
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await audit.write()
    await away.close()
    # It is back.
    audit._database = books.service.database
    await audit.write()
    assert [entry["action"] for entry in await books.of("t")] == ["watched", "watch_ended"]


async def test_a_group_whose_commit_was_not_answered_is_written_once(books: Books) -> None:
    begin = Row(books.clock(), "watched", *passenger(1), "trip", "t", uuid.uuid4(), None)
    assert begin.span is not None
    end = Ending(begin.span, books.clock(), "watch_ended", None)
    for _ in range(2):
        async with books.service.database.transaction() as connection:
            await store.insert(connection, [begin], books.clock())
            await store.open_spans(connection, [begin.span])
            await store.end_spans(connection, [end], books.clock())
    assert [entry["action"] for entry in await books.of("t")] == ["watched", "watch_ended"]


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
def test_an_address_is_an_address_or_is_left_out(host: str, shown: str | None) -> None:
    audit = Audit(Database("postgresql:///none"), now_ms)
    assert audit.doer(Principal(Role.SERVICE, "", "j\0\ud800", 0), host) == ("service", "", "j?", None, shown)


async def test_many_who_erase_and_the_writer_do_not_wait_for_each_other(database_url: str) -> None:
    """They have all the connections, and wait for the writer; which has none yet."""
    database = Database(database_url, size=2)
    await database.open()
    audit = Audit(database, now_ms)
    by = Doer("service", "", "a token", None, None)
    audit.began(by, Kind.TRIP, "another trip")
    async with asyncio.timeout(5):
        async with database.transaction() as one, database.transaction() as two:
            writing = asyncio.create_task(audit.write())
            await asyncio.sleep(0.1)
            for number, connection in enumerate((one, two)):
                await audit.record_erasure(connection, by, Kind.TRIP, f"trip {number}")
        await writing
    await database.close()
