"""Trips and short tracks for all who begin to watch at the same time, each by one query."""

from tracking.model import Trip
from tracking.store import changes, trip_lines, trips
from tracking.store.pool import Database
from tracking.store.positions import TrackRow


async def as_they_are(database: Database, trip_ids: list[str]) -> dict[str, tuple[Trip, int]]:
    async with database.connection() as connection:
        # It is read first, so that what is read after it includes that change.
        newest = await changes.head(connection)
        found = await trips.get_all(connection, trip_ids)
    as_of = newest.number if newest is not None else 0
    return {trip_id: (trip, as_of) for trip_id, trip in found.items()}


async def short_tracks(database: Database, numbers: list[int]) -> dict[int, list[TrackRow]]:
    async with database.connection() as connection:
        return await trip_lines.short_tracks(connection, numbers)
