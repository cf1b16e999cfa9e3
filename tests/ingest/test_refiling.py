"""The trip that is stored of fixes which race a change of their vehicle's trips, on real PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.ingest.direct import VAN, MakeService, a_fix, asked, nothing_is_stored, opened, take
from tests.ingest.racing import a_trip, apply, commit, latest_trip, settled, stored_trips
from tests.support.clients import now_ms
from tests.support.devices import until
from tracking.ingest.vehicles import IngestVehicle, Session, read_states
from tracking.model import TripStatus, Vehicle
from tracking.store import erasures, trip_erasures, vehicles


@contextlib.asynccontextmanager
async def no_commit_ends(database_url: str) -> AsyncIterator[None]:
    """Makes transactions wait after they have written fixes, inside this context."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        """
        CREATE FUNCTION wait_for_it() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END
        $$;
        CREATE TRIGGER wait_for_it AFTER INSERT ON positions FOR EACH STATEMENT EXECUTE FUNCTION wait_for_it();
        SELECT pg_advisory_lock(4711);
        """
    )
    try:
        yield
    finally:
        await connection.close()


async def written(database_url: str) -> None:
    """Waits until a transaction in `no_commit_ends` has written its rows."""
    connection = await asyncpg.connect(database_url)
    try:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
        while not await connection.fetchval(query):
            await asyncio.sleep(0)
    finally:
        await connection.close()


def _noting(work: Callable[..., Awaitable[Any]], calls: list[object]) -> Callable[..., Awaitable[Any]]:
    async def noting(*arguments: object) -> Any:
        calls.append(arguments)
        return await work(*arguments)

    return noting


@pytest.mark.parametrize("stage", ["stored", "stored, and the latest", "written", "in the group", "waiting"])
async def test_a_fix_between_the_start_of_a_trip_and_its_application_belongs_to_the_trip(
    make_service: MakeService, database_url: str, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    service = await make_service(latest_interval=3600)
    vehicle, session = await opened(service)
    service.hub.fleets.know(vehicle.vehicle)
    trip = await a_trip(service, vehicle)
    before = take(service, vehicle, session, a_fix(1))
    await service.intake.committed(before)
    came_at = now_ms()
    await until(lambda: now_ms() > came_at + 1, "the clock goes on")
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP)
    if stage.startswith("stored"):
        await service.intake.committed(take(service, vehicle, session, a_fix(2)))
        if "latest" in stage:
            await service.latest.flush()
            assert await latest_trip(database_url) is None
        assert not service.recorder.queue.pending_of(vehicle.number)
        await apply(service, vehicle, trip)
    elif stage == "written":
        async with no_commit_ends(database_url):
            take(service, vehicle, session, a_fix(2))
            await written(database_url)
            asked_for: list[object] = []
            monkeypatch.setattr(service.refiling, "_accepted", _noting(service.refiling._accepted, asked_for))
            await apply(service, vehicle, trip)
            for _ in range(20):
                await service.database.ping()
            assert not asked_for, "what is not committed yet can't be seen"
            assert [position.seq for position in service.recorder.queue.pending("trip")] == [2]
    else:
        async with nothing_is_stored(database_url):
            if stage == "waiting":
                take(service, vehicle, session, a_fix(2, latitude=0.0, longitude=0.0))
                await asked(service)
                take(service, vehicle, session, a_fix(3))
                assert len(service.recorder.queue.waiting) == 1
            else:
                take(service, vehicle, session, a_fix(2))
                await asked(service)
            # Pending positions are read before the change and again after it.
            assert not service.recorder.queue.pending("trip")
            await apply(service, vehicle, trip)
            assert [position.seq for position in service.recorder.queue.pending("trip")] == (
                [2, 3] if stage == "waiting" else [2]
            )
    assert vehicle.newest is not None
    assert vehicle.newest.trip_id == "trip"
    live = service.hub.fleets.vehicles[VAN].position
    assert live is not None
    assert live.trip == trip.number
    await settled(service)
    expected = {1: None, 2: trip.number} | ({3: trip.number} if stage == "waiting" else {})
    assert await stored_trips(database_url) == expected
    assert await latest_trip(database_url) == trip.number


async def test_a_fix_that_was_accepted_before_a_change_keeps_its_trip(make_service: MakeService, database_url: str) -> None:
    """This holds even if its fix time is within the trip, because drivers tap late."""
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    now = now_ms()
    old = service.intake.take(vehicle, session, [a_fix(1, fix_time=now - 10_000)], now - 10_000)
    await service.intake.committed(old)
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP, now)
    # The spans alone decide here. By the database's clock this fix may have arrived after the change.
    await service.intake.committed(take(service, vehicle, session, a_fix(2, fix_time=now - 2_000)))
    assert await apply(service, vehicle, trip) == vehicle.windows[0].start
    await settled(service)
    assert await stored_trips(database_url) == {1: None, 2: trip.number}


async def test_a_trip_that_was_removed_meanwhile_does_not_come_back(make_service: MakeService, database_url: str) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP)
    await service.intake.committed(take(service, vehicle, session, a_fix(1)))
    trip = await commit(service, vehicle, trip, TripStatus.CANCELED, now_ms() + 60_000)
    await apply(service, vehicle)
    service.refiling._due.clear()  # The correction has not run yet.
    async with service.housekeeping.transaction() as connection:
        await trip_erasures.begin(connection, trip, now_ms())
    since = vehicle.windows[-1].start
    service.refiling.refile(vehicle, since)
    await settled(service)
    assert await stored_trips(database_url) == {1: None}
    # Fixes that this hub filed to the removed trip lose it once the hub applies the removal.
    await service.intake.committed(take(service, vehicle, session, a_fix(2)))
    assert await stored_trips(database_url) == {1: None, 2: trip.number}
    await apply(service, vehicle)
    await settled(service)
    assert await stored_trips(database_url) == {1: None, 2: None}
    assert await latest_trip(database_url) is None


async def test_a_vehicle_that_was_erased_meanwhile_does_not_come_back(make_service: MakeService, database_url: str) -> None:
    service = await make_service(latest_interval=3600)
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP)
    await service.intake.committed(take(service, vehicle, session, a_fix(1)))
    async with service.housekeeping.connection() as connection:
        _, _, spans_of = await read_states(connection, [vehicle.number], now_ms())
        spans = spans_of[vehicle.number]
    async with service.housekeeping.transaction() as connection:
        await vehicles.lock(connection, VAN)
        await erasures.begin(connection, vehicle.number)
    vehicle.set_spans(spans)
    service.refiling.refile(vehicle, vehicle.windows[-1].start)
    await service.refiling.flush()
    assert await stored_trips(database_url) in ({1: None}, {})
    # After `forget` nothing is checked any more.
    service.refiling.refile(vehicle, vehicle.windows[-1].start)
    service.refiling.forget({vehicle.number})
    assert not service.refiling._due


async def test_a_locked_vehicle_is_tried_again_and_delays_no_other(make_service: MakeService, database_url: str) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    async with service.housekeeping.transaction() as connection:
        await vehicles.put(connection, Vehicle("other", "fleet"))
    other = await service.ingest_vehicles.load("other")
    assert other is not None
    other_session = await service.intake.open_session(other, "session")
    assert other_session is not None
    pairs: list[tuple[IngestVehicle, Session, str]] = [(vehicle, session, "trip"), (other, other_session, "other-trip")]
    made = {}
    for one, of, trip_id in pairs:
        made[trip_id] = await commit(service, one, await a_trip(service, one, trip_id), TripStatus.ENROUTE_TO_PICKUP)
        await service.intake.committed(take(service, one, of, a_fix(one.number)))
    blocker = await asyncpg.connect(database_url)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT FROM trips WHERE trip_id = 'trip' FOR UPDATE")
    for one, _, _ in pairs:
        await apply(service, one)
    await until(lambda: list(service.refiling._due) == [vehicle.number], "the other one is done")
    assert await stored_trips(database_url) == {vehicle.number: None, other.number: made["other-trip"].number}
    await transaction.rollback()
    await blocker.close()
    await settled(service)
    assert await stored_trips(database_url) == {
        vehicle.number: made["trip"].number,
        other.number: made["other-trip"].number,
    }


async def test_more_rows_than_are_read_at_once_are_all_corrected(
    make_service: MakeService, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.refiling.ROWS_AT_ONCE", 3)
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP, now_ms() - 20_000)
    # Several fixes share a millisecond, across the limit of rows that are read at once.
    times = [now_ms() - 10_000 + second // 2 * 1000 for second in range(10)]
    taken = take(service, vehicle, session, *(a_fix(seq, fix_time=at) for seq, at in enumerate(times, 1)))
    await service.intake.committed(taken)
    await apply(service, vehicle)
    await settled(service)
    assert await stored_trips(database_url) == dict.fromkeys(range(1, 11), trip.number)


async def test_a_hub_refiles_the_fixes_of_one_that_died_before_it_applied_a_change(
    make_service: MakeService, database_url: str
) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    await service.intake.committed(take(service, vehicle, session, a_fix(1)))
    came_at = now_ms()
    await until(lambda: now_ms() > came_at + 1, "the clock goes on")
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP)
    await service.intake.committed(take(service, vehicle, session, a_fix(2)))
    assert await stored_trips(database_url) == {1: None, 2: None}
    following = await make_service()
    assert await following.ingest_vehicles.load(VAN) is not None
    await settled(following)
    assert await stored_trips(database_url) == {1: None, 2: trip.number}
