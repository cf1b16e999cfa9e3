"""The audit when the hub is killed or the database is away."""

import asyncio
import uuid
from collections.abc import Callable

import asyncpg
import pytest

from tests.support.clients import Api, Message, Passenger, now_ms, token
from tests.support.devices import until
from tests.support.hub_process import SECRET, HubProcess, free_port
from tests.support.serving import serving
from tests.trust.audit_hub import AuditHub
from tracking.app import create_app
from tracking.audit import GAP_MS, MAX_WAITING, Audit, Doer, Kind
from tracking.config import load
from tracking.errors import StoreUnavailable
from tracking.metrics import AUDIT_LOST
from tracking.service import Service
from tracking.store import audit as store
from tracking.store.audit import Ending, Row
from tracking.store.pool import Database


async def test_watches_of_a_killed_hub_end_uncertainly(own_hub: Callable[..., HubProcess]) -> None:
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
        # A hub that is stopped knows when they ended.
        async with Passenger(hub.url, trip_id, token("service")) as passenger:
            await passenger.expect("snapshot")
            await watches(lambda found: len(found) == 2)
            before = now_ms()
            hub.stop()
        hub.start()
        _, ended = await watches(lambda found: len(found) == 2)
        assert "uncertain" not in ended and before <= ended["to"] <= now_ms()


async def test_a_new_watch_does_not_end_with_those_that_a_killed_hub_left_open(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub first ends the old watches, even if the database is away at first. Only then it writes new ones."""
    end, tries = Audit._end_what_was_cut_off, 0

    async def away_at_first(audit: Audit, ours: list[str]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("away")
        await end(audit, ours)

    monkeypatch.setattr(Audit, "_end_what_was_cut_off", away_at_first)
    app = create_app(load(database_url=database_url, jwt_secret=SECRET))
    app.state.service.audit.began(passenger(1), Kind.TRIP, "trip")
    async with serving(app, lifespan="on"):
        await until(lambda: tries > 1 and not app.state.service.audit._waiting, "it is written")
        connection = await asyncpg.connect(database_url)
        assert [tuple(row) for row in await connection.fetch("SELECT action FROM audit")] == [("watched",)]
        await connection.close()


async def test_waiting_entries_are_written_if_the_hub_starts_anew_after_the_store_went_back(database_url: str) -> None:
    app = create_app(load(database_url=database_url, jwt_secret=SECRET))
    async with serving(app, lifespan="on"):
        former: Service = app.state.service
        former.audit.began(passenger(1), Kind.TRIP, "trip")
        former.marks.went_back.set()
        await until(lambda: app.state.service is not former, "the hub starts anew")
        connection = await asyncpg.connect(database_url)
        query = "SELECT action FROM audit WHERE subject = 'trip' ORDER BY entry"

        async def are_written() -> bool:
            return [row["action"] for row in await connection.fetch(query)] == ["watched", "watch_ended"]

        await until(are_written, "they are written")
        await connection.close()


def passenger(number: int) -> Doer:
    return Doer("passenger", "t", f"jti-{number}", None, None)


async def test_entries_that_wait_for_the_database_are_bounded_and_lost_ones_counted(audit_hub: AuditHub) -> None:
    audit = audit_hub.service.audit
    lost = AUDIT_LOST._value.get()
    # In one step of the event loop, so that nothing is written meanwhile.
    spans = [audit.began(passenger(number), Kind.TRIP, "t") for number in range(MAX_WAITING + 7)]
    for span in spans:
        audit.left(span)
    assert AUDIT_LOST._value.get() - lost == 7
    await audit.flush()
    assert not audit._waiting and not audit._spans
    async with audit_hub.service.database.connection() as reader:
        counts = await reader.fetch("SELECT action, count(*) FROM audit GROUP BY 1")
        assert {row["action"]: row["count"] for row in counts} == {"watched": MAX_WAITING, "watch_ended": MAX_WAITING}
        assert await reader.fetchval("SELECT count(*) FROM audit_open") == 0


async def test_watches_begin_end_and_wait_while_the_database_is_away(audit_hub: AuditHub, database_url: str) -> None:
    away = Database(f"postgresql://127.0.0.1:{free_port()}/none", timeout=0.5)
    await away.open()
    audit = Audit(away, audit_hub.clock)
    audit.left(audit.began(passenger(1), Kind.TRIP, "t"))
    audit_hub.clock.ahead += GAP_MS
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await audit.write()
    await away.close()
    # The database is back.
    audit._database = audit_hub.service.database
    await audit.write()
    assert [entry["action"] for entry in await audit_hub.of("t")] == ["watched", "watch_ended"]


async def test_a_group_whose_commit_is_repeated_is_written_once(audit_hub: AuditHub) -> None:
    begin = Row(audit_hub.clock(), "watched", *passenger(1), "trip", "t", uuid.uuid4(), None)
    assert begin.span is not None
    end = Ending(begin.span, audit_hub.clock(), "watch_ended", None)
    for _ in range(2):
        async with audit_hub.service.database.transaction() as connection:
            await store.insert(connection, [begin], audit_hub.clock())
            await store.open_spans(connection, [begin.span], "")
            await store.end_spans(connection, [end], audit_hub.clock())
    assert [entry["action"] for entry in await audit_hub.of("t")] == ["watched", "watch_ended"]


async def test_erasures_and_the_writer_do_not_wait_for_each_other(database_url: str) -> None:
    """Erasures hold all connections and wait for the writer, which has none yet."""
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
