"""Erasure, over HTTP and sockets against a real hub: rows 40, 73 and 87."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import asyncpg
import httpx

from tests.support.clients import Api, Dispatcher, Driver, Passenger, Socket, fix, now_ms, token
from tests.support.devices import until
from tests.support.hub_process import HubProcess
from tests.trust.removals import is_no_notice
from tracking.model import Event, EventKind
from tracking.store import events as event_store
from tracking.store.pool import Database

VADUZ = (9.5, 47.1, 9.6, 47.2)
MANY, SOME = 200_000, 3_000
"""Rows of a vehicle: more than is buffered between the hub and a slow reader, and a few for each day."""


async def _handed_over(api: Api, hub: HubProcess) -> tuple[str, str, str]:
    """`(first, second, trip)`: two vehicles drove the trip, one after the other, each with a fix."""
    first, trip_id = await api.under_way()
    fleet_id = (await api.call("GET", f"/vehicles/{first}"))["fleet_id"]
    second = await api.vehicle(fleet_id)
    async with Driver(hub.url, first) as driver:
        await driver.report(fix(1, latitude=47.11))
        await driver.acknowledged(1)
    trip = await api.call("GET", f"/trips/{trip_id}")
    await api.call("PATCH", f"/trips/{trip_id}", {"vehicle_id": second, "version": trip["version"]})
    async with Driver(hub.url, second) as driver:
        await driver.report(fix(1, latitude=47.12))
        await driver.acknowledged(1)
    return first, second, trip_id


def _latitudes(track: list[list[float]]) -> list[float]:
    return [latitude for _, latitude, _ in track]


async def test_trust_87_watchers_of_a_trip_are_told_that_one_of_its_vehicles_was_erased(hub: HubProcess, api: Api) -> None:
    first, second, trip_id = await _handed_over(api, hub)
    # A feed that began after the hand-over knows the first vehicle only from the store.
    async with Passenger(hub.url, trip_id) as watcher, Driver(hub.url, second) as driver:
        before = await watcher.expect("snapshot")
        assert _latitudes(before["track"]) == [47.11, 47.12]
        await api.call("DELETE", f"/vehicles/{first}", expect=204)
        snapshot = await watcher.expect("snapshot")
        assert snapshot["epoch"] != before["epoch"]
        assert 47.11 not in _latitudes(snapshot["track"])
        assert snapshot["position"]["latitude"] == 47.12
        revised = await watcher.expect("track_revised")
        assert revised["offset"] == snapshot["offset"] + 1
        assert _latitudes(revised["track"]) == [47.12]
        # The feed continues, and nobody can resume the old epoch.
        await driver.report(fix(2, latitude=47.12001))
        assert (await watcher.expect("position"))["offset"] == revised["offset"] + 1
        for query in ("", f"?epoch={before['epoch']}&offset={before['offset']}"):
            async with Passenger(hub.url, trip_id, query=query) as comer:
                assert 47.11 not in _latitudes((await comer.receive())["track"])
        query = f"?epoch={snapshot['epoch']}&offset={snapshot['offset']}"
        async with Passenger(hub.url, trip_id, query=query) as comer:
            first_message = await comer.receive()
            if hub.alone or first_message["epoch"] == snapshot["epoch"]:
                assert first_message["type"] == "resumed"
                assert _latitudes((await comer.expect("track_revised"))["track"]) == [47.12]
            else:  # An epoch belongs to one hub.
                assert _latitudes(first_message["track"]) == [47.12, 47.12001]
    assert {row["vehicle_id"] for row in await api.track(f"/trips/{trip_id}/track")} == {second}


async def test_trust_87_a_vehicle_that_never_drove_the_trip_changes_nothing_in_its_feed(hub: HubProcess, api: Api) -> None:
    _, second, trip_id = await _handed_over(api, hub)
    fleet_id = (await api.call("GET", f"/vehicles/{second}"))["fleet_id"]
    bystander = await api.vehicle(fleet_id)
    async with Passenger(hub.url, trip_id) as watcher, Driver(hub.url, second) as driver:
        await watcher.expect("snapshot")
        await api.call("DELETE", f"/vehicles/{bystander}", expect=204)
        await driver.report(fix(2, latitude=47.12001))
        assert (await watcher.receive())["type"] == "position"


async def test_trust_40_screens_of_its_fleet_are_told_and_its_driver_is_closed(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
        await screen.look(*VADUZ)
        await driver.report(fix(1))
        await driver.acknowledged(1)
        await screen.until(lambda: vehicle_id in screen.vehicles)
        await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
        assert (await screen.expect("vehicle_gone"))["vehicle_id"] == vehicle_id
        assert await driver.closed() == 4502
    for path in ("", "/track", "/days", "/erasure"):
        await api.call("GET", f"/vehicles/{vehicle_id}{path}", expect=404)
    assert (await api.call("GET", f"/fleets/{fleet_id}/vehicles"))["vehicles"] == []
    assert (await api.call("GET", f"/fleets/{fleet_id}/vehicles", near="47.14,9.52"))["vehicles"] == []


async def test_trust_40_no_resend_restores_it(hub: HubProcess, api: Api) -> None:
    vehicle_id = await api.vehicle(await api.fleet())
    database = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    number = await database.fetchval("SELECT vehicle FROM vehicles WHERE vehicle_id = $1", vehicle_id)
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
        # Locked, so that these fixes wait for the database while the vehicle is erased.
        async with database.transaction():
            await database.execute("SELECT FROM sessions WHERE vehicle = $1 FOR UPDATE", number)
            await driver.report(fix(2))
            erasing = asyncio.create_task(api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204))
            await until(lambda: _waiting(hub, 2), "the recorder and the erasure wait for the lock")
        await erasing
        assert await driver.closed() == 4502
    async with Socket(f"{hub.url}/v1/driver", token("driver", vehicle_id)) as again:
        assert await again.closed() == 4502
    assert await _left(database, number) == 0
    await database.close()


async def _waiting(hub: HubProcess, many: int) -> bool:
    """Whether so many queries of the hub wait for a lock."""
    witness = await asyncpg.connect(hub.environment["TRACKING_DATABASE_URL"])
    found = await witness.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'tracking'"
    )
    await witness.close()
    return bool(found >= many)


async def _with_many(database: "asyncpg.Connection[asyncpg.Record]", vehicle_id: str, rows: int) -> int:
    """Store positions over three days, and events, for a vehicle. Returns its number."""
    number: int = await database.fetchval("SELECT vehicle FROM vehicles WHERE vehicle_id = $1", vehicle_id)
    session = await database.fetchval("INSERT INTO sessions (vehicle, name) VALUES ($1, 'many') RETURNING session", number)
    for days in range(4):
        await database.execute("SELECT ensure_positions_partition(current_date - $1::int)", days)
    await database.execute(
        f"""
        INSERT INTO positions (vehicle, session, seq, fix_time, server_time, point)
        SELECT $1, $2, n, t, t, ST_SetSRID(ST_MakePoint(9.5, 47.1), 4326)
        FROM generate_series(1, {rows}) n, LATERAL (SELECT now() - n * interval '3 days' / {rows}) AS at (t)
        """,
        number,
        session,
    )
    await database.execute(
        """
        INSERT INTO events (fleet_id, vehicle, kind, server_time)
        SELECT v.fleet_id, v.vehicle, 'idle', now() FROM vehicles v, generate_series(1, 1000) WHERE v.vehicle = $1
        """,
        number,
    )
    return number


async def _left(database: "asyncpg.Connection[asyncpg.Record]", number: int) -> int:
    left: int = await database.fetchval("SELECT count(*) FROM positions WHERE vehicle = $1", number)
    return left


@contextlib.asynccontextmanager
async def _held_up(database_url: str) -> AsyncIterator[None]:
    """Yesterday's positions can't be deleted, so an erasure stops at that day."""
    holder = await asyncpg.connect(database_url)
    yesterday = await holder.fetchval("SELECT to_char(current_date - 1, 'YYYYMMDD')")
    async with holder.transaction():
        await holder.execute(f"LOCK TABLE positions_{yesterday} IN SHARE MODE")
        yield
    await holder.close()


async def test_trust_40_a_long_erasure_is_reported_and_continues_after_a_kill(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    hub = own_hub()
    database = await asyncpg.connect(database_url)
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        number = await _with_many(database, vehicle_id, SOME)
        began = now_ms()
        async with _held_up(database_url):
            told = await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=202)
            assert told["vehicle_id"] == vehicle_id and abs(told["asked_at"] - began) < 5_000

            async def has_begun() -> bool:
                told = await api.call("GET", f"/vehicles/{vehicle_id}/erasure")
                return bool(told["removed"] > 0 and told["days_left"] == 2)

            await until(has_begun, "the days before yesterday are gone")
            # Nobody sees the vehicle any more, and its id is free.
            for path in ("", "/track", "/days"):
                await api.call("GET", f"/vehicles/{vehicle_id}{path}", expect=404)
            assert (await api.call("GET", f"/fleets/{fleet_id}/events"))["events"] == []
            async with Api(hub.url, token("dispatcher", "another")) as stranger:
                await stranger.call("GET", f"/vehicles/{vehicle_id}/erasure", expect=404)
            # A repeated request, after a lost answer, gets the same answer.
            assert (await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=202))["asked_at"] == told["asked_at"]
            await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id}, expect=201)
            async with Driver(hub.url, vehicle_id) as driver:
                await driver.report(fix(1))
                await driver.acknowledged(1)
            hub.kill()
            assert 0 < await _left(database, number) < SOME
        hub.start()
        await until(lambda: _is_erased(api, vehicle_id), "the erasure ends after the kill")
        assert await _left(database, number) == 0
        assert await database.fetchval("SELECT count(*) FROM events WHERE vehicle = $1", number) == 0
        # The vehicle with this id is now another one.
        assert len(await api.track(f"/vehicles/{vehicle_id}/track")) == 1
    await database.close()


async def _is_erased(api: Api, vehicle_id: str) -> bool:
    try:
        return (await api.http.get(f"/vehicles/{vehicle_id}/erasure")).status_code == 404
    except httpx.TransportError:
        return False


async def test_trust_40_an_erasure_continues_when_the_database_comes_back(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    hub = own_hub()
    database = await asyncpg.connect(database_url)
    async with Api(hub.url) as api:
        vehicle_id = await api.vehicle(await api.fleet())
        number = await _with_many(database, vehicle_id, SOME)
        async with _held_up(database_url):
            await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=202)
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'tracking' AND datname = current_database()"
            )
            assert await _left(database, number) > 0
        await until(lambda: _is_erased(api, vehicle_id), "the erasure goes on")
        assert await _left(database, number) == 0
    await database.close()


async def test_trust_40_a_download_ends_when_its_vehicle_is_erased(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    hub = own_hub()
    database = await asyncpg.connect(database_url)
    async with Api(hub.url) as api:
        vehicle_id = await api.vehicle(await api.fleet())
        await _with_many(database, vehicle_id, MANY)
        rows = 0
        async with api.http.stream("GET", f"/vehicles/{vehicle_id}/track", params={"format": "csv"}) as response:
            pieces = response.aiter_bytes()
            rows += (await anext(pieces)).count(b"\n")
            await api.call("DELETE", f"/vehicles/{vehicle_id}")
            try:
                async for piece in pieces:
                    rows += piece.count(b"\n")
            except httpx.TransportError:
                pass  # a reset connection is fine as well
        # Only what was in flight arrives.
        assert rows < MANY
    await database.close()


# --- trips --------------------------------------------------------------------------------------------------------------


async def _everything_of(database: "asyncpg.Connection[asyncpg.Record]", text: str) -> list[str]:
    """The tables with this text in any column. Notices of removals in the change log do not count."""
    tables = await database.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    )
    return [
        name
        for (name,) in tables
        if await database.fetchval(
            f"SELECT EXISTS (SELECT FROM {name} t WHERE position($1 IN t::text) > 0 AND {is_no_notice(name)})", text
        )
    ]


async def test_trust_73_no_table_has_the_id_of_a_removed_trip_and_no_position_its_number(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    hub = own_hub()
    database = await asyncpg.connect(database_url)
    async with Api(hub.url) as api:
        seen = now_ms()
        first, second, trip_id = await _handed_over(api, hub)
        number = await database.fetchval("SELECT trip FROM trips WHERE trip_id = $1", trip_id)
        await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 3600})
        fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
        async with Passenger(hub.url, trip_id) as passenger, Dispatcher(hub.url, fleet_id) as screen:
            await passenger.send({"type": "message", "text": "Where?", "client_id": "1"})
            await passenger.expect("done")
            await screen.look(*VADUZ)
            await screen.until(lambda: second in screen.vehicles)
        await database.execute(
            """
            INSERT INTO events (fleet_id, vehicle, kind, trip_id, server_time)
            SELECT $1, vehicle, 'idle', $2, now() FROM vehicles WHERE vehicle_id = ANY($3)
            """,
            fleet_id,
            trip_id,
            [first, second],
        )
        await api.call("DELETE", f"/trips/{trip_id}", expect=409)
        await api.advance(trip_id, "canceled")
        await database.execute("UPDATE latest_positions SET trip = $1", number)
        await api.call("DELETE", f"/trips/{trip_id}", expect=204)
        events = (await api.call("GET", f"/fleets/{fleet_id}/events"))["events"]
        assert len(events) == 2 and all("trip_id" not in event for event in events)

        async def gone() -> bool:
            return await _everything_of(database, trip_id) == []

        await until(gone, "the id of the trip is in no table")
        assert await database.fetchval("SELECT count(*) FROM positions WHERE trip = $1", number) == 0
        assert await database.fetchval("SELECT count(*) FROM latest_positions WHERE trip = $1", number) == 0
        # Later fixes of that time, from either vehicle, belong to no trip.
        for vehicle_id, latitude in ((first, 47.11001), (second, 47.12001)):
            async with Driver(hub.url, vehicle_id) as driver:
                await driver.report(fix(1, fix_time=seen, latitude=latitude))
                await driver.acknowledged(1)
            assert [row["trip_id"] for row in await api.track(f"/vehicles/{vehicle_id}/track")] == ["", ""]
    await database.close()


async def test_trust_73_spans_of_a_removed_trip_are_deleted_when_they_bound_nothing(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    hub = own_hub()
    database = await asyncpg.connect(database_url)
    async with Api(hub.url) as api:
        _, trip_id = await api.under_way()
        await api.advance(trip_id, "canceled")
        number = await database.fetchval("SELECT trip FROM trips WHERE trip_id = $1", trip_id)
        await database.execute(
            "UPDATE trip_spans SET started_at = started_at - interval '9 days', ended_at = ended_at - interval '9 days'"
        )
        await api.call("DELETE", f"/trips/{trip_id}", expect=204)

        async def gone() -> bool:
            query = "SELECT (SELECT count(*) FROM trip_spans WHERE trip = $1) + (SELECT count(*) FROM trip_erasures)"
            return bool(await database.fetchval(query, number) == 0)

        await until(gone, "its spans are gone")
    await database.close()


async def test_trust_73_an_event_that_waited_is_stored_without_a_trip_that_was_removed(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
    await api.advance(trip_id, "canceled")
    await api.call("DELETE", f"/trips/{trip_id}", expect=204)
    database = Database(hub.environment["TRACKING_DATABASE_URL"])
    await database.open()
    async with database.transaction() as connection:
        [number] = await event_store.reserve(connection, 1)
        event = Event(number, EventKind.IDLE, vehicle_id, now_ms(), trip_id=trip_id)
        assert await event_store.insert(connection, [fleet_id], [None], [event]) == {number}
    await database.close()
    [stored] = (await api.call("GET", f"/fleets/{fleet_id}/events"))["events"]
    assert "trip_id" not in stored
