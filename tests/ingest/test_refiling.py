"""Fixes that race a change of their vehicle's trips, on real PostgreSQL.

The change is committed by somebody else, and applied here later, as a hub does that follows the log.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

from tests.ingest.direct import VAN, MakeService, a_fix, asked, nothing_is_stored, opened, take
from tests.support.clients import now_ms
from tests.support.devices import until
from tests.support.trip_feeds import Reader
from tracking.ingest.vehicles import IngestVehicle, Session, earliest_difference, read_states
from tracking.live.trips import TripFeed
from tracking.model import Place, Trip, TripStatus, Vehicle
from tracking.service import Service
from tracking.store import erasures, trips, vehicles

PLACE = Place(47.1, 9.5)


async def a_trip(service: Service, vehicle: IngestVehicle, trip_id: str = "trip") -> Trip:
    async with service.database.transaction() as connection:
        return await trips.insert(
            connection,
            trip_id=trip_id,
            fleet_id="fleet",
            vehicle=vehicle.number,
            pickup=PLACE,
            dropoff=PLACE,
            stops=(),
            route=None,
            now=now_ms(),
        )


async def commit(service: Service, vehicle: IngestVehicle, trip: Trip, status: TripStatus, at: int | None = None) -> Trip:
    """Somebody else commits that the trip is the vehicle's, with this status; the trip as it is then."""
    at = now_ms() if at is None else at
    async with service.housekeeping.transaction() as connection:
        await trips.close_span(connection, trip.number, at)
        if status.under_way:
            await trips.open_span(connection, trip.number, vehicle.number, at)
        started_at = at if status.under_way and trip.started_at is None else trip.started_at
        changed = msgspec.structs.replace(trip, status=status, version=trip.version + 1, started_at=started_at)
        await trips.update(connection, changed, vehicle=vehicle.number)
        after = await trips.get(connection, trip.trip_id)
    assert after is not None
    return after


async def apply(service: Service, vehicle: IngestVehicle, trip: Trip | None = None) -> int | None:
    """What a follower does when it comes to the change; since when the vehicle's trips are others."""
    async with service.housekeeping.connection() as connection:
        _, _, spans_of = await read_states(connection, [vehicle.number], now_ms())
        spans = spans_of.get(vehicle.number, [])
    before = vehicle.windows
    vehicle.set_spans(spans)
    since = earliest_difference(before, vehicle.windows)
    if since is not None:
        service.refiling.refile(vehicle, since)
    if trip is not None and service.hub.trip_changed(trip):
        service.refiling.begins_to_show(trip)
    return since


def watched(service: Service, trip: Trip) -> tuple[TripFeed, Reader]:
    """Somebody watches the trip, with an empty line."""
    feed, reader = service.hub.feed(trip), Reader()
    feed.begin(reader.queue, stored=(), unstored=(), last={}, now=now_ms())
    reader.read()
    return feed, reader


def snapshot(service: Service, feed: TripFeed) -> dict[str, Any]:
    """What somebody gets who begins to watch, while nothing of the line can be read from the store."""
    reader = Reader()
    unstored = list(service.recorder.pending(feed.trip.trip_id))
    feed.begin(reader.queue, stored=(), unstored=unstored, last={}, now=now_ms())
    feed.leave(reader.queue, now_ms())
    [found] = reader.read()
    return found


async def settled(service: Service) -> None:
    await service.recorder.flush()
    await service.refiling.flush()
    await service.latest.flush()


async def stored_trips(database_url: str) -> dict[int, int | None]:
    """By seq the trip of each position in the table."""
    connection = await asyncpg.connect(database_url)
    try:
        return {row["seq"]: row["trip"] for row in await connection.fetch("SELECT seq, trip FROM positions")}
    finally:
        await connection.close()


async def latest_trip(database_url: str) -> int | None:
    connection = await asyncpg.connect(database_url)
    try:
        [row] = await connection.fetch("SELECT trip FROM latest_positions")
    finally:
        await connection.close()
    trip: int | None = row["trip"]
    return trip


@contextlib.asynccontextmanager
async def no_commit_ends(database_url: str) -> AsyncIterator[None]:
    """Meanwhile fixes are written, and wait for the end of their transaction."""
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
    """Waits until such a transaction has written its rows."""
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
async def test_a_fix_between_the_start_of_a_trip_and_its_applying_is_the_trips(
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
        assert not service.recorder.pending_of(vehicle.number)
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
            assert [position.seq for position in service.recorder.pending("trip")] == [2]
    else:
        async with nothing_is_stored(database_url):
            if stage == "waiting":
                take(service, vehicle, session, a_fix(2, latitude=0.0, longitude=0.0))
                await asked(service)
                take(service, vehicle, session, a_fix(3))
                assert len(service.recorder._waiting) == 1
            else:
                take(service, vehicle, session, a_fix(2))
                await asked(service)
            # Looked at before, and then again.
            assert not service.recorder.pending("trip")
            await apply(service, vehicle, trip)
            assert [position.seq for position in service.recorder.pending("trip")] == ([2, 3] if stage == "waiting" else [2])
    assert vehicle.newest is not None
    assert vehicle.newest.trip_id == "trip"
    live = service.hub.fleets.vehicles[VAN].position
    assert live is not None
    assert live.trip == trip.number
    await settled(service)
    expected = {1: None, 2: trip.number} | ({3: trip.number} if stage == "waiting" else {})
    assert await stored_trips(database_url) == expected
    assert await latest_trip(database_url) == trip.number


async def test_what_was_accepted_before_a_change_keeps_its_trip(make_service: MakeService, database_url: str) -> None:
    """Also where its fix time is of the trip, because a tap comes late."""
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    now = now_ms()
    old = service.intake.take(vehicle, session, [a_fix(1, fix_time=now - 10_000)], now - 10_000)
    await service.intake.committed(old)
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP, now)
    # By the spans alone: what came within some seconds before may have come after it, by the database's clock.
    await service.intake.committed(take(service, vehicle, session, a_fix(2, fix_time=now - 2_000)))
    assert await apply(service, vehicle, trip) == vehicle.windows[0].start
    await settled(service)
    assert await stored_trips(database_url) == {1: None, 2: trip.number}


async def test_what_came_after_the_end_of_a_span_is_not_the_trips_any_more(
    make_service: MakeService, database_url: str
) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP, now_ms() - 60_000)
    await apply(service, vehicle, trip)
    feed, reader = watched(service, trip)
    first = a_fix(1)
    await service.intake.committed(take(service, vehicle, session, first))
    async with service.housekeeping.transaction() as connection:
        other, _ = await vehicles.put(connection, Vehicle("other", "fleet"))
        end = now_ms() + 1
        await trips.close_span(connection, trip.number, end)
        await trips.open_span(connection, trip.number, other.number, end)
        await trips.update(connection, msgspec.structs.replace(trip, version=trip.version + 1), vehicle=other.number)
        moved_on = await trips.get(connection, trip.trip_id)
    await service.intake.committed(take(service, vehicle, session, a_fix(2, fix_time=end + 1_000)))
    async with nothing_is_stored(database_url):
        strays = [a_fix(3, fix_time=end + 2_000), a_fix(4, fix_time=end + 3_000)]
        take(service, vehicle, session, *strays)
        await asked(service)
        assert [message["type"] for message in reader.read()] == ["position"] * 4
        assert len(snapshot(service, feed)["track"]) == 4
        await apply(service, vehicle, moved_on)
        assert not service.recorder.pending(trip.trip_id)
        # What is stored already is corrected in a moment; what was shown of the others no snapshot has any more.
        assert {point[2] for point in snapshot(service, feed)["track"]}.isdisjoint(fix.fix_time for fix in strays)
    await settled(service)
    assert await stored_trips(database_url) == {1: trip.number, 2: None, 3: None, 4: None}
    assert await latest_trip(database_url) is None
    assert [point[2] for point in snapshot(service, feed)["track"]] == [first.fix_time]
    told: list[dict[str, Any]] = []

    def all_is_revised() -> bool:
        told.extend(reader.read())
        revised = [message for message in told if message["type"] == "track_revised"]
        return (
            bool(revised)
            and min(message["from"] for message in revised) == end + 1_000
            and max(message["to"] for message in revised) == end + 3_000
        )

    await until(all_is_revised, "the watchers are told the line without them")
    assert all(message["track"] == [] for message in told if message["type"] == "track_revised")


async def test_the_newest_place_is_shown_when_its_trip_begins_to_show_and_the_others_are_its_line(
    make_service: MakeService, database_url: str
) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    feed, reader = watched(service, trip)
    changed = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP)
    first, second = a_fix(1), a_fix(2, fix_time=now_ms() + 1_000)
    await service.intake.committed(take(service, vehicle, session, first, second))
    assert not reader.read()
    await apply(service, vehicle)
    assert not reader.read(), "it does not show yet"
    assert service.hub.trip_changed(changed)
    service.refiling.begins_to_show(changed)
    assert feed.showing
    [told, position] = reader.read()
    assert (told["type"], position["type"]) == ("trip", "position")
    assert (position["fix_time"], feed.newest) == (second.fix_time, second.fix_time)
    await settled(service)
    messages: list[dict[str, Any]] = []

    def something_is_told() -> bool:
        messages.extend(reader.read())
        return bool(messages)

    await until(something_is_told, "the line")
    [line] = messages
    assert (line["type"], [point[2] for point in line["track"]]) == ("track_revised", [first.fix_time])
    # What is shown is not shown again.
    service.refiling.begins_to_show(changed)
    assert not reader.read()


async def test_a_place_that_was_filed_anew_is_shown_at_once_where_its_trip_shows(
    make_service: MakeService,
) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    changed = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP)
    # Somebody read from the store that it is under way, before that was applied here.
    _, reader = watched(service, changed)
    take(service, vehicle, session, a_fix(1))
    assert not reader.read()
    await apply(service, vehicle)
    assert [message["type"] for message in reader.read()] == ["position"]
    take(service, vehicle, session, a_fix(2))
    assert [message["type"] for message in reader.read()] == ["position"]


async def test_a_trip_that_was_removed_meanwhile_does_not_come_back(make_service: MakeService, database_url: str) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP)
    await service.intake.committed(take(service, vehicle, session, a_fix(1)))
    trip = await commit(service, vehicle, trip, TripStatus.CANCELED, now_ms() + 60_000)
    await apply(service, vehicle)
    service.refiling._due.clear()  # as if it had not come to it
    async with service.housekeeping.transaction() as connection:
        await erasures.begin_trip(connection, trip, now_ms())
    since = vehicle.windows[-1].start
    service.refiling.refile(vehicle, since)
    await settled(service)
    assert await stored_trips(database_url) == {1: None}
    # What this hub filed to it while it did not know is taken off it when it does.
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
    # Told of it, nothing is looked for any more.
    service.refiling.refile(vehicle, vehicle.windows[-1].start)
    service.refiling.forget({vehicle.number})
    assert not service.refiling._due


async def test_what_is_locked_is_tried_again_and_keeps_no_other_vehicle_waiting(
    make_service: MakeService, database_url: str
) -> None:
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


async def test_more_rows_than_are_looked_at_at_once_are_all_corrected(
    make_service: MakeService, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.refiling.ROWS_AT_ONCE", 3)
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    trip = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP, now_ms() - 20_000)
    # Several of one millisecond, across the border of what is looked at at once.
    times = [now_ms() - 10_000 + second // 2 * 1000 for second in range(10)]
    taken = take(service, vehicle, session, *(a_fix(seq, fix_time=at) for seq, at in enumerate(times, 1)))
    await service.intake.committed(taken)
    await apply(service, vehicle)
    await settled(service)
    assert await stored_trips(database_url) == dict.fromkeys(range(1, 11), trip.number)


async def test_what_a_hub_left_that_died_before_it_applied_the_change_is_filed_anew_at_the_next(
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
