"""What watchers of a trip are shown of fixes that race a change of their vehicle's trips, on real PostgreSQL."""

from typing import Any

import msgspec

from tests.ingest.direct import MakeService, a_fix, asked, nothing_is_stored, opened, take
from tests.ingest.racing import a_trip, apply, commit, latest_trip, settled, stored_trips
from tests.support.clients import now_ms
from tests.support.devices import until
from tests.support.trip_feeds import Reader
from tracking.live.trips import TripFeed
from tracking.model import Trip, TripStatus, Vehicle
from tracking.service import Service
from tracking.store import trips, vehicles


def watched(service: Service, trip: Trip) -> tuple[TripFeed, Reader]:
    """Starts to watch the trip, with an empty line."""
    feed, reader = service.hub.feed(trip), Reader()
    feed.begin(reader.queue, stored=(), uncommitted=(), last={}, now=now_ms())
    reader.read()
    return feed, reader


def snapshot(service: Service, feed: TripFeed) -> dict[str, Any]:
    """The snapshot for a new watcher while the line can't be read from the store."""
    reader = Reader()
    uncommitted = list(service.recorder.queue.pending(feed.trip.trip_id))
    feed.begin(reader.queue, stored=(), uncommitted=uncommitted, last={}, now=now_ms())
    feed.leave(reader.queue, now_ms())
    [found] = reader.read()
    return found


async def test_fixes_after_the_end_of_a_span_are_taken_out_of_the_trip(make_service: MakeService, database_url: str) -> None:
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
        assert not service.recorder.queue.pending(trip.trip_id)
        # Stored fixes are corrected a moment later. The others are in no snapshot any more.
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


async def test_a_trip_that_begins_to_show_gets_the_newest_position_and_its_line_the_others(
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
    # A position that is shown is not shown again.
    service.refiling.begins_to_show(changed)
    assert not reader.read()


async def test_a_refiled_position_is_shown_at_once_if_its_trip_shows(
    make_service: MakeService,
) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    trip = await a_trip(service, vehicle)
    changed = await commit(service, vehicle, trip, TripStatus.ENROUTE_TO_PICKUP)
    # A watcher read from the store that the trip is under way, before this hub applied it.
    _, reader = watched(service, changed)
    take(service, vehicle, session, a_fix(1))
    assert not reader.read()
    await apply(service, vehicle)
    assert [message["type"] for message in reader.read()] == ["position"]
    take(service, vehicle, session, a_fix(2))
    assert [message["type"] for message in reader.read()] == ["position"]
