"""Changes of a vehicle's trips that race its fixes: another hub commits a change, and this one applies it later.

This is the order of events at a hub that follows the change log.
"""

import asyncpg
import msgspec

from tests.support.clients import now_ms
from tracking.ingest.vehicles import IngestVehicle, earliest_difference, read_states
from tracking.model import Place, Trip, TripStatus
from tracking.service import Service
from tracking.store import trips

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
    """Commits, as another hub would, that the vehicle drives the trip, with this status. Returns the changed trip."""
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
    """Applies the change, as a follower does. Returns the time since which the vehicle's trips differ."""
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


async def settled(service: Service) -> None:
    await service.recorder.flush()
    await service.refiling.flush()
    await service.latest.flush()


async def stored_trips(database_url: str) -> dict[int, int | None]:
    """The trip of each position in the table, by seq."""
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
