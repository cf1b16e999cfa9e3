"""The keeper of history: sums up trips and days when their late fixes are in, and lets go of positions that are old enough.

A trip is compacted, and a UTC day summed up, `delay` after its end. A fix that is stored later than that has its trip and its
day done anew, within seconds. Which those are is held in memory; so that nothing is missed when a hub dies just then, each day
is looked through once more when nothing can come any more (`LATE_MS`), vehicle by vehicle, and in a tenth of the time: a large
fleet's day is hundreds of millions of rows. Only then may its positions be dropped.

What the database refuses to sum up, or can't in time, keeps nothing else from being done: it is put off, and given up at last.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.ingest.commit_queue import Entry
from tracking.model import Clock
from tracking.store import history
from tracking.store.pool import Connection, Database, timed_out
from tracking.store.positions import DAY_MS

logger = logging.getLogger(__name__)

LATE_MS = 7 * DAY_MS + 3_600_000
"""Older fixes are rejected; an hour for what waited in the recorder's queue."""
ROUND_SECONDS = 10.0
RETAIN_MS = 3_600_000
TRIPS_AT_ONCE = 200
VEHICLES_AT_ONCE = 200
SETTLE_SHARE = 0.1
"""Of a round: so much of it is spent on looking through days, and one vehicle at least is done."""
PUT_OFF_MS = 3_600_000
GIVE_UP_AFTER = 3
"""Failures of the same piece of work, or timeouts in a row of a round."""

_Key = int | tuple[int, int]
"""A trip, or a vehicle and a UTC day."""
_FOR_EVER = sys.maxsize


class _Trouble(NamedTuple):
    """How often it failed, how much else had been done by then, and until when it is left out."""

    times: int
    done: int
    until: int


class Summaries:
    """`stored` takes note of what was committed; `run` works until it is cancelled."""

    def __init__(self, database: Database, clock: Clock, *, delay: float, retention_days: int = 0) -> None:
        """`delay` in seconds; days of 0 are for ever."""
        self._database = database
        self._clock = clock
        self._delay_ms = int(delay * 1000)
        self._round_seconds = min(ROUND_SECONDS, max(0.05, delay / 10))
        self._retention_days = retention_days
        self._late_trips: set[int] = set()
        self._late_days: set[tuple[int, int]] = set()
        self._troubles: dict[_Key, _Trouble] = {}
        self._done = 0
        self._timeouts = 0
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

    def refiled(self, trips: Iterable[int]) -> None:
        """Takes note of trips, by their numbers, that got or lost positions which were stored before."""
        self._late_trips.update(trips)

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
        """One round: everything that is due by now.

        Raises the first part's `StoreUnavailable` or `PostgresError` when the others had their turn; the next round goes on
        where this one was.
        """
        self._timeouts = 0
        failures: list[Exception] = []
        for part in (self._compact_trips, self._sum_up_days, self._settle_days, self._retain):
            try:
                await part()
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                failures.append(error)
        for further in failures[1:]:
            logger.warning("and so it is with more of the work on history: %s", further)
        if failures:
            raise failures[0]

    # --- what may fail ------------------------------------------------------------------------------------------------------

    async def _try(self, key: _Key, what: str, work: Callable[[Connection], Awaitable[None]]) -> bool:
        """Does it in a transaction; whether it was done. Raises `StoreUnavailable` where not this work alone is in trouble."""
        try:
            async with self._database.transaction() as connection:
                await work(connection)
        except asyncpg.PostgresError:
            logger.exception("the database refuses to %s", what)
            self._put_off(key, what)
            return False
        except StoreUnavailable as error:
            if not timed_out(error):
                raise
            await self._database.ping()
            logger.warning("it takes too long to %s", what)
            self._put_off(key, what)
            self._timeouts += 1
            if self._timeouts >= GIVE_UP_AFTER:
                raise
            return False
        self._done += 1
        self._timeouts = 0
        self._troubles.pop(key, None)
        return True

    def _put_off(self, key: _Key, what: str) -> None:
        """For an hour. It counts only where other work was done meanwhile: a bad hour of the database is not the work's."""
        before = self._troubles.get(key, _Trouble(0, -1, 0))
        times = before.times + (before.done != self._done)
        given_up = times >= GIVE_UP_AFTER
        if given_up:
            logger.error("gave up to %s, until the next start", what)
        self._troubles[key] = _Trouble(times, self._done, _FOR_EVER if given_up else self._clock() + PUT_OFF_MS)

    def _waits(self, key: _Key) -> bool:
        trouble = self._troubles.get(key)
        return trouble is not None and self._clock() < trouble.until

    # --- trips and days -----------------------------------------------------------------------------------------------------

    async def _compact_trips(self) -> None:
        late = list(self._late_trips)
        if late:
            async with self._database.transaction() as connection:
                await history.uncompact(connection, late)
            self._late_trips.difference_update(late)
        while True:
            left_out = [key for key in self._troubles if isinstance(key, int) and self._waits(key)]
            async with self._database.connection() as connection:
                due = await history.trips_to_compact(connection, self._clock() - self._delay_ms, left_out, TRIPS_AT_ONCE)
            if not due:
                return
            for trip in due:
                await self._compact(trip)

    async def _compact(self, trip: int) -> bool:
        return await self._try(
            trip, f"compact trip {trip}", lambda connection: history.compact_trip(connection, trip, self._clock())
        )

    async def _sum_up(self, vehicle: int, day: int) -> None:
        # Taken off before: what is stored meanwhile puts it there again.
        self._late_days.discard((vehicle, day))
        try:
            await self._try(
                (vehicle, day),
                f"sum up {history.date_of(day)} of vehicle {vehicle}",
                lambda connection: history.sum_up_day(connection, vehicle, day, self._clock()),
            )
        except StoreUnavailable:
            self._late_days.add((vehicle, day))
            raise
        if self._waits((vehicle, day)):
            self._late_days.add((vehicle, day))

    async def _sum_up_days(self) -> None:
        now = self._clock()
        over = (now - self._delay_ms) // DAY_MS
        partitions = await self._held()
        for partition in partitions:
            if partition.day < over and not partition.summed:
                async with self._database.connection() as connection:
                    vehicles = await history.vehicles_of_day(connection, partition.day, unsummed=True)
                for number, vehicle in enumerate(vehicles):
                    if number % VEHICLES_AT_ONCE == VEHICLES_AT_ONCE - 1:
                        # A large fleet's day takes long, and trips go on ending.
                        await self._compact_trips()
                    if not self._waits((vehicle, partition.day)):
                        await self._sum_up(vehicle, partition.day)
                async with self._database.transaction() as connection:
                    await history.note_day(connection, partition.day, "summed", now)
        held = {partition.day for partition in partitions}
        for vehicle, day in sorted(self._late_days):
            # Of a day that is not over there is nothing stored yet, and of one that was dropped nothing to make it from.
            if day >= over or day not in held:
                self._late_days.discard((vehicle, day))
            elif not self._waits((vehicle, day)):
                await self._sum_up(vehicle, day)

    async def _held(self) -> list[history.PositionDay]:
        async with self._database.connection() as connection:
            return [found for found in await history.position_days(connection) if found.attached and not found.dropped]

    # --- looking through once more ------------------------------------------------------------------------------------------

    async def _settle_days(self) -> None:
        now = self._clock()
        until = time.monotonic() + SETTLE_SHARE * self._round_seconds
        for partition in await self._held():
            if (partition.day + 1) * DAY_MS + LATE_MS <= now and not partition.settled:
                try:
                    if not await self._settle(partition, until):
                        return
                finally:
                    # Those of which it found that more had come.
                    await self._compact_trips()

    async def _settle(self, partition: history.PositionDay, until: float) -> bool:
        """Goes on with a day where it was, vehicle by vehicle; whether it is through."""
        day, settled_to = partition.day, partition.settled_to
        while True:
            async with self._database.connection() as connection:
                vehicles = await history.vehicles_of_day(connection, day, after=settled_to, limit=VEHICLES_AT_ONCE)
            if not vehicles:
                break
            for vehicle in vehicles:
                out_of_time = settled_to != partition.settled_to and time.monotonic() >= until
                if out_of_time or not await self._look_through(vehicle, day):
                    async with self._database.transaction() as connection:
                        await history.note_settled_to(connection, day, settled_to)
                    return False
                settled_to = vehicle
        async with self._database.transaction() as connection:
            await history.note_day(connection, day, "settled", self._clock())
        return True

    async def _look_through(self, vehicle: int, day: int) -> bool:
        """False where it is to be tried again later."""
        trips: list[int] = []

        async def look(connection: Connection) -> None:
            nonlocal trips
            day_is_old, trips = await history.came_later(connection, vehicle, day)
            if day_is_old:
                await history.sum_up_day(connection, vehicle, day, self._clock())

        key = vehicle, day
        if not self._waits(key):
            await self._try(key, f"look through {history.date_of(day)} of vehicle {vehicle}", look)
            if trips:
                async with self._database.transaction() as connection:
                    await history.uncompact(connection, trips)
        trouble = self._troubles.get(key)
        return trouble is None or trouble.until == _FOR_EVER

    # --- letting go ---------------------------------------------------------------------------------------------------------

    async def _retain(self) -> None:
        now = self._clock()
        if self._retention_days and (self._retained_at is None or now - self._retained_at >= RETAIN_MS):
            await self._let_go()
            self._retained_at = now

    async def _let_go(self) -> None:
        """Drops what is older than it is to be kept."""
        now = self._clock()
        first_kept = now // DAY_MS - self._retention_days
        async with self._database.connection() as connection:
            partitions = await history.position_days(connection)
        for partition in partitions:
            # The oldest first, up to the first that may not go: positions count as gone from the last dropped day on backwards.
            if partition.day >= first_kept or not (partition.dropped or await self._may_go(partition)):
                break
            if not partition.dropped:
                async with self._database.transaction() as connection:
                    await history.note_day(connection, partition.day, "dropped", now)
            async with self._database.connection() as connection:
                await history.drop_partition(connection, partition)
            logger.info("dropped the positions of %s", history.date_of(partition.day))

    async def _may_go(self, partition: history.PositionDay) -> bool:
        """Whether nothing can come any more, and all trips of that day are compacted."""
        if not partition.settled:
            return False
        async with self._database.connection() as connection:
            trips = await history.trips_of_day(connection, partition.day)
        # Those that are still under way too: what they had until now is kept in their lines.
        for trip in trips:
            if self._waits(trip) or not await self._compact(trip):
                logger.warning("positions are kept from %s on: trip %d is not compacted", history.date_of(partition.day), trip)
                return False
        return True
