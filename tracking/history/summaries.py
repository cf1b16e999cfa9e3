"""Summaries of trips and days, made when their late fixes are in, and the removal of positions that are old enough.

A trip is compacted, and a UTC day is summed up, `delay` after its end. If a fix is stored later, its trip and its day are
summed up again within seconds. These are noted in memory, and the note is lost if the hub dies. So each day is searched once
more when no fix can come any more (`LATE_MS`), vehicle by vehicle. Only then may its positions be dropped. A large fleet's day
is hundreds of millions of rows, so the search uses a tenth of the time.

Each trip, and each day of a vehicle, is a transaction of its own (decision 24 says why they are no group of `store/batch`). If
the database refuses one, or takes too long, it is put off, and at last given up. The others are summed up.

With several hubs, one does this. What the others have noted in memory they do themselves: the summary of a late fix's trip is
made invalid, and its day is summed up again.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

import asyncpg

from tracking.errors import LeaseLost, StoreUnavailable
from tracking.ingest.commit_queue import Entry
from tracking.model import Clock
from tracking.store import position_days, trip_summaries, vehicle_days
from tracking.store.days import DAY_MS, date_of
from tracking.store.jobs import Ours, always
from tracking.store.pool import Connection, Database, timed_out

logger = logging.getLogger(__name__)

LATE_MS = 7 * DAY_MS + 3_600_000
"""Older fixes are rejected. The hour is for fixes that waited in the recorder's queue."""
ROUND_SECONDS = 10.0
RETAIN_MS = 3_600_000
TRIPS_AT_ONCE = 200
VEHICLES_AT_ONCE = 200
SETTLE_SHARE = 0.1
"""The share of a round in which days are searched. At least one vehicle is done."""
PUT_OFF_MS = 3_600_000
GIVE_UP_AFTER = 3
"""Failures of the same trip or day, or timeouts in a row in one round."""

_Key = int | tuple[int, int]
"""The number of a trip, or of a vehicle and a UTC day."""
_FOR_EVER = sys.maxsize


class _Trouble(NamedTuple):
    """How often the work failed, how much other work was done by then, and until when it is left out."""

    times: int
    done: int
    until: int


class Summaries:
    """`stored` notes what was committed. `run` works until it is cancelled."""

    def __init__(self, database: Database, clock: Clock, *, delay: float, retention_days: int = 0, ours: Ours = always) -> None:
        """`delay` is in seconds. With 0 days, positions are kept for ever.

        `ours`: whether this hub does what no hub has noted, if there are several.
        """
        self._database = database
        self._clock = clock
        self._delay_ms = int(delay * 1000)
        self._round_seconds = min(ROUND_SECONDS, max(0.05, delay / 10))
        self._retention_days = retention_days
        self._ours = ours
        self._late_trips: set[int] = set()
        self._late_days: set[tuple[int, int]] = set()
        self._troubles: dict[_Key, _Trouble] = {}
        self._done = 0
        self._timeouts = 0
        self._retained_at: int | None = None

    def stored(self, group: Sequence[Entry]) -> None:
        """Notes the trips and days of committed fixes that are older than the delay. They may be summed up already."""
        # This includes fixes that move the marker. The backlog of a device that was away does so long after its trip's end.
        before = self._clock() - self._delay_ms
        for entry in group:
            position = entry.position
            if position is not None and position.fix_time < before and not position.suspect:
                if position.trip is not None:
                    self._late_trips.add(position.trip)
                self._late_days.add((position.vehicle, position.fix_time // DAY_MS))

    def refiled(self, trips: Iterable[int]) -> None:
        """Notes trips, by their numbers, that got or lost positions that were stored before."""
        self._late_trips.update(trips)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._round_seconds)
            try:
                await self.work()
            except StoreUnavailable as error:
                logger.warning("no summaries are made now, trying again: %s", error)
            except asyncpg.PostgresError:
                # The hub can work without summaries, so this error must not stop it.
                logger.exception("the database refuses the work on history; trying again")

    async def work(self) -> None:
        """Does everything that is due by now: one round.

        If parts raise `StoreUnavailable` or `PostgresError`, the other parts still run, and the first error is raised at the
        end. The next round continues.
        """
        self._timeouts = 0
        failures: list[Exception] = []
        own = (self._uncompact_late_trips, self._sum_up_late_days)
        for part in (*own, self._compact_trips, self._sum_up_days, self._settle_days, self._retain):
            try:
                if part in own or await self._ours():
                    await part()
            except LeaseLost:
                break  # another hub goes on
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                failures.append(error)
        for further in failures[1:]:
            logger.warning("another part of the work on history failed too: %s", further)
        if failures:
            raise failures[0]

    # --- work that may fail -------------------------------------------------------------------------------------------------

    async def _try(self, key: _Key, what: str, work: Callable[[Connection], Awaitable[None]]) -> bool:
        """Does the work in a transaction. Returns whether it was done. Raises `StoreUnavailable` if all work fails."""
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
        """Puts the work off for an hour. The failure counts only if other work was done meanwhile."""
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

    async def _go_on(self) -> None:
        """To be called before each piece of long work. Raises `LeaseLost` if another hub does it now."""
        if not await self._ours():
            raise LeaseLost("another hub goes on with the history")

    async def _uncompact_late_trips(self) -> None:
        late = list(self._late_trips)
        if late:
            async with self._database.transaction() as connection:
                await trip_summaries.uncompact(connection, late)
            self._late_trips.difference_update(late)

    async def _compact_trips(self) -> None:
        await self._uncompact_late_trips()
        while True:
            left_out = [key for key in self._troubles if isinstance(key, int) and self._waits(key)]
            async with self._database.connection() as connection:
                due = await trip_summaries.trips_to_compact(connection, self._clock() - self._delay_ms, left_out, TRIPS_AT_ONCE)
            if not due:
                return
            for trip in due:
                await self._go_on()
                await self._compact(trip)

    async def _compact(self, trip: int) -> bool:
        return await self._try(
            trip, f"compact trip {trip}", lambda connection: trip_summaries.compact_trip(connection, trip, self._clock())
        )

    async def _sum_up(self, vehicle: int, day: int) -> None:
        # The note is removed before. If a fix is stored meanwhile, it is made again.
        self._late_days.discard((vehicle, day))
        try:
            await self._try(
                (vehicle, day),
                f"sum up {date_of(day)} of vehicle {vehicle}",
                lambda connection: vehicle_days.sum_up_day(connection, vehicle, day, self._clock()),
            )
        except StoreUnavailable:
            self._late_days.add((vehicle, day))
            raise
        if self._waits((vehicle, day)):
            self._late_days.add((vehicle, day))

    async def _sum_up_days(self) -> None:
        now = self._clock()
        for partition in await self._held():
            if partition.day < self._over() and not partition.summed:
                async with self._database.connection() as connection:
                    vehicles = await vehicle_days.vehicles_of_day(connection, partition.day, unsummed=True)
                for number, vehicle in enumerate(vehicles):
                    if number % VEHICLES_AT_ONCE == VEHICLES_AT_ONCE - 1:
                        # A large fleet's day takes long, and trips end meanwhile.
                        await self._compact_trips()
                    if not self._waits((vehicle, partition.day)):
                        await self._go_on()
                        await self._sum_up(vehicle, partition.day)
                async with self._database.transaction() as connection:
                    await position_days.note(connection, partition.day, "summed", now)

    async def _sum_up_late_days(self) -> None:
        if not self._late_days:
            return
        held = {partition.day for partition in await self._held()}
        for vehicle, day in sorted(self._late_days):
            # A day that is not over has no summary yet. A day that was dropped has no positions to sum up.
            if day >= self._over() or day not in held:
                self._late_days.discard((vehicle, day))
            elif not self._waits((vehicle, day)):
                await self._sum_up(vehicle, day)

    def _over(self) -> int:
        """The first day that is not over."""
        return (self._clock() - self._delay_ms) // DAY_MS

    async def _held(self) -> list[position_days.PositionDay]:
        async with self._database.connection() as connection:
            return [found for found in await position_days.partitions(connection) if found.attached and not found.dropped]

    # --- the search for late fixes ------------------------------------------------------------------------------------------

    async def _settle_days(self) -> None:
        now = self._clock()
        until = time.monotonic() + SETTLE_SHARE * self._round_seconds
        for partition in await self._held():
            if (partition.day + 1) * DAY_MS + LATE_MS <= now and not partition.settled:
                try:
                    if not await self._settle(partition, until):
                        return
                finally:
                    # These are the trips for which late fixes were found.
                    await self._compact_trips()

    async def _settle(self, partition: position_days.PositionDay, until: float) -> bool:
        """Continues the search of a day, vehicle by vehicle. Returns whether the day is finished."""
        day, settled_to = partition.day, partition.settled_to
        while True:
            async with self._database.connection() as connection:
                vehicles = await vehicle_days.vehicles_of_day(connection, day, after=settled_to, limit=VEHICLES_AT_ONCE)
            if not vehicles:
                break
            for vehicle in vehicles:
                await self._go_on()
                out_of_time = settled_to != partition.settled_to and time.monotonic() >= until
                if out_of_time or not await self._look_through(vehicle, day):
                    async with self._database.transaction() as connection:
                        await position_days.note_settled_to(connection, day, settled_to)
                    return False
                settled_to = vehicle
        async with self._database.transaction() as connection:
            await position_days.note(connection, day, "settled", self._clock())
        return True

    async def _look_through(self, vehicle: int, day: int) -> bool:
        """Sums up again what got late fixes. Returns False if it must be tried again later."""
        trips: list[int] = []

        async def look(connection: Connection) -> None:
            nonlocal trips
            day_is_old, trips = await vehicle_days.came_later(connection, vehicle, day)
            if day_is_old:
                await vehicle_days.sum_up_day(connection, vehicle, day, self._clock())

        key = vehicle, day
        if not self._waits(key):
            await self._try(key, f"search {date_of(day)} of vehicle {vehicle} for late fixes", look)
            if trips:
                async with self._database.transaction() as connection:
                    await trip_summaries.uncompact(connection, trips)
        trouble = self._troubles.get(key)
        return trouble is None or trouble.until == _FOR_EVER

    # --- removal of old positions -------------------------------------------------------------------------------------------

    async def _retain(self) -> None:
        now = self._clock()
        if self._retention_days and (self._retained_at is None or now - self._retained_at >= RETAIN_MS):
            await self._let_go()
            self._retained_at = now

    async def _let_go(self) -> None:
        """Drops days that are older than positions are kept."""
        now = self._clock()
        first_kept = now // DAY_MS - self._retention_days
        async with self._database.connection() as connection:
            partitions = await position_days.partitions(connection)
        for partition in partitions:
            # Oldest first, up to the first day that may not go. All days before the last dropped day count as dropped.
            if partition.day >= first_kept or not (partition.dropped or await self._may_go(partition)):
                break
            await self._go_on()
            if not partition.dropped:
                async with self._database.transaction() as connection:
                    await position_days.note(connection, partition.day, "dropped", now)
            async with self._database.connection() as connection:
                await position_days.drop(connection, partition)
            logger.info("dropped the positions of %s", date_of(partition.day))

    async def _may_go(self, partition: position_days.PositionDay) -> bool:
        """Whether no fix can come any more, and all trips of that day are compacted."""
        if not partition.settled:
            return False
        async with self._database.connection() as connection:
            trips = await trip_summaries.trips_of_day(connection, partition.day)
        # This includes trips that are still under way. Their lines keep what they have driven so far.
        for trip in trips:
            if self._waits(trip) or not await self._compact(trip):
                logger.warning("positions are kept from %s on: trip %d is not compacted", date_of(partition.day), trip)
                return False
        return True
