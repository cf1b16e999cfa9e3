"""The keeper of history: sums up trips and days when their late fixes are in, and lets go of positions that are old enough.

A trip is compacted, and a UTC day summed up, `delay` after its end. A fix that is stored later than that has its trip and its
day done anew, within seconds. Which those are is held in memory; so that nothing is missed when a hub dies just then, each day
is looked through once more when nothing can come any more (`LATE_MS`). Only then may its positions be dropped.
"""

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.ingest.recorder import Entry
from tracking.model import Clock
from tracking.store import history
from tracking.store.pool import Database
from tracking.store.positions import DAY_MS

logger = logging.getLogger(__name__)

LATE_MS = 7 * DAY_MS + 3_600_000
"""Older fixes are rejected; an hour for what waited in the recorder's queue."""
ROUND_SECONDS = 10.0
RETAIN_MS = 3_600_000
TRIPS_AT_ONCE = 200
VEHICLES_AT_ONCE = 200


class History:
    """`stored` takes note of what was committed; `run` works until it is cancelled."""

    def __init__(
        self, database: Database, clock: Clock, *, delay: float, retention_days: int = 0, summary_retention_days: int = 0
    ) -> None:
        """`delay` in seconds; days of 0 are for ever."""
        self._database = database
        self._clock = clock
        self._delay_ms = int(delay * 1000)
        self._round_seconds = min(ROUND_SECONDS, max(0.05, delay / 10))
        self._retention_days = retention_days
        self._summary_retention_days = summary_retention_days
        self._late_trips: set[int] = set()
        self._late_days: set[tuple[int, int]] = set()
        self._failed: set[int] = set()
        self._retained_at: int | None = None

    def stored(self, group: Sequence[Entry]) -> None:
        """Takes a committed group. What is older than the delay may be of a trip or day that is summed up already."""
        # Not only what came too late for the marker: the backlog of a device that was away moves it, long after its trip's end.
        before = self._clock() - self._delay_ms
        for entry in group:
            position = entry.position
            if position is not None and position.fix_time < before and not position.suspect:
                if position.trip is not None:
                    self._late_trips.add(position.trip)
                self._late_days.add((position.vehicle, position.fix_time // DAY_MS))

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._round_seconds)
            try:
                await self.work()
            except StoreUnavailable as error:
                logger.warning("no summaries are made now, trying again: %s", error)
            except asyncpg.PostgresError:
                # Whatever the trouble is: the hub does without summaries, and must not go down with them.
                logger.exception("the database refuses the work on history; trying again")

    async def work(self) -> None:
        """One round: everything that is due by now. Raises `StoreUnavailable`, and goes on where it was the next time."""
        await self._compact_trips()
        await self._sum_up_days()
        now = self._clock()
        if self._retention_days and (self._retained_at is None or now - self._retained_at >= RETAIN_MS):
            await self._let_go()
            self._retained_at = now

    async def _compact_trips(self) -> None:
        late = list(self._late_trips)
        if late:
            async with self._database.connection() as connection:
                await history.uncompact(connection, late)
            self._late_trips.difference_update(late)
        while True:
            async with self._database.connection() as connection:
                due = await history.trips_to_compact(
                    connection, self._clock() - self._delay_ms, list(self._failed), TRIPS_AT_ONCE
                )
            if not due:
                return
            for trip in due:
                await self._compact(trip)

    async def _compact(self, trip: int) -> None:
        try:
            async with self._database.transaction() as connection:
                await history.compact_trip(connection, trip, self._clock())
        except asyncpg.PostgresError:
            # One that fails keeps no other from its summary.
            logger.exception("the database refuses to compact trip %d; left out until the next start", trip)
            self._failed.add(trip)

    async def _sum_up(self, vehicle: int, day: int) -> None:
        try:
            async with self._database.transaction() as connection:
                await history.sum_up_day(connection, vehicle, day, self._clock())
        except asyncpg.PostgresError:
            logger.exception("the database refuses to sum up %s of vehicle %d", history.date_of(day), vehicle)

    async def _sum_up_days(self) -> None:
        now = self._clock()
        over = (now - self._delay_ms) // DAY_MS
        async with self._database.connection() as connection:
            partitions = [found for found in await history.position_days(connection) if found.attached and not found.dropped]
        held = {partition.day for partition in partitions}
        for partition in partitions:
            if partition.day < over and not partition.summed:
                async with self._database.connection() as connection:
                    vehicles = await history.vehicles_to_sum_up(connection, partition.day)
                for number, vehicle in enumerate(vehicles):
                    if number % VEHICLES_AT_ONCE == VEHICLES_AT_ONCE - 1:
                        # A large fleet's day takes long, and trips go on ending.
                        await self._compact_trips()
                    await self._sum_up(vehicle, partition.day)
                async with self._database.connection() as connection:
                    await history.note_day(connection, partition.day, "summed", now)
        for vehicle, day in sorted(self._late_days):
            # Of a day that is not over there is nothing stored yet, and of one that was dropped nothing to make it from.
            if day < over and day in held:
                await self._sum_up(vehicle, day)
            self._late_days.discard((vehicle, day))
        for partition in partitions:
            if (partition.day + 1) * DAY_MS + LATE_MS <= now and not partition.settled:
                await self._settle(partition.day)

    async def _settle(self, day: int) -> None:
        async with self._database.connection() as connection:
            vehicles, trips = await history.came_later(connection, day)
        for vehicle in vehicles:
            await self._sum_up(vehicle, day)
        for trip in trips:
            await self._compact(trip)
        async with self._database.connection() as connection:
            await history.note_day(connection, day, "settled", self._clock())

    async def _let_go(self) -> None:
        """Drops what is older than it is to be kept."""
        now = self._clock()
        first_kept = now // DAY_MS - self._retention_days
        async with self._database.connection() as connection:
            partitions = await history.position_days(connection)
        for partition in partitions:
            if partition.day >= first_kept or not (partition.settled or partition.dropped):
                continue
            if not partition.dropped:
                async with self._database.connection() as connection:
                    trips = await history.trips_of_day(connection, partition.day)
                # Those that are still under way too: what they had until now is kept in their lines.
                for trip in trips:
                    await self._compact(trip)
                if not self._failed.isdisjoint(trips):
                    continue
                async with self._database.connection() as connection:
                    await history.note_day(connection, partition.day, "dropped", now)
            async with self._database.connection() as connection:
                await history.drop_partition(connection, partition)
            logger.info("dropped the positions of %s", history.date_of(partition.day))
        if self._summary_retention_days:
            async with self._database.connection() as connection:
                await history.forget(connection, now // DAY_MS - self._summary_retention_days)
