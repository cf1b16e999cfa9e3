"""Erasure: what a removed vehicle or trip has left in the tables is removed in batches. Meanwhile none of it is shown.

`store.erasures.begin` runs in the transaction of the removal, and `asked` after it. `run` then does the work. Erasures take
turns. An erasure continues where a hub that is gone has left it. With several hubs, one does all erasures.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from tracking.errors import LeaseLost, StoreUnavailable
from tracking.metrics import ERASED, ERASURES
from tracking.model import Clock
from tracking.store import erasures, trip_erasures
from tracking.store.erasures import Erasure
from tracking.store.jobs import Batch, Jobs, Ours, always
from tracking.store.pool import Connection, Database
from tracking.store.trip_erasures import TripErasure

logger = logging.getLogger(__name__)

AT_ONCE = 20
"""Erasures that take turns. Further ones wait until one of these has ended."""
LOOK_SECONDS = 60.0
"""How often the tables are checked, for spans that became old enough, and for removals by other hubs."""
RETRY_SECONDS = 2.0
ASK_SECONDS = 0.05
"""How often the store is asked whether another hub has done an erasure that a request here waits for."""


class Erasures:
    """`run` works until it is cancelled. `settled` waits until all fixes that were taken so far are stored."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        clock: Clock,
        *,
        settled: Callable[[], Awaitable[None]],
        ours: Ours = always,
    ) -> None:
        """`ours`: whether this hub does the erasures, if there are several."""
        self._database = database
        self._jobs = jobs
        self._clock = clock
        self._settled = settled
        self._ours = ours
        self._is_ours = True
        self._asked = asyncio.Event()
        self._ends: dict[int, asyncio.Event] = {}
        """By the number of a vehicle: set when its erasure ends. Requests wait for it."""

    def asked(self) -> None:
        """To be called after COMMIT: there is another erasure."""
        self._asked.set()

    async def wait(self, vehicle: int, seconds: float) -> bool:
        """Whether the erasure of the vehicle, which was asked for just now, ends within that time."""
        end = self._ends.setdefault(vehicle, asyncio.Event())
        self._asked.set()
        try:
            async with asyncio.timeout(seconds):
                while not end.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(end.wait(), ASK_SECONDS)
                    if not self._is_ours and await self._is_done(vehicle):
                        break
        except (TimeoutError, StoreUnavailable, asyncpg.PostgresError):
            return False
        finally:
            self._ends.pop(vehicle, None)
        return True

    async def _is_done(self, vehicle: int) -> bool:
        async with self._database.connection() as connection:
            return not await erasures.is_under_way(connection, vehicle)

    async def run(self) -> None:
        """Does the erasures that are under way. One that fails is tried again, and delays no other."""
        tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        try:
            while True:
                self._asked.clear()
                left = await self._begin(tasks)
                asked = asyncio.create_task(self._asked.wait())
                try:
                    await asyncio.wait(
                        {asked, *tasks.values()},
                        timeout=RETRY_SECONDS if left is None else LOOK_SECONDS,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    asked.cancel()
                failed = False
                for key, task in list(tasks.items()):
                    if task.done():
                        del tasks[key]
                        failed = failed or not self._judge(key, task)
                if failed:
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _begin(self, tasks: dict[tuple[str, int], asyncio.Task[None]]) -> int | None:
        """Begins erasures. Returns how many are under way; None if the store is away, or another hub does them.

        The other hub may die, so this one asks again soon while some are under way.
        """
        try:
            self._is_ours = await self._ours()
            async with self._database.connection() as connection:
                vehicles = await erasures.under_way(connection, AT_ONCE)
                trips = await trip_erasures.under_way(connection, self._clock(), AT_ONCE)
                count = await erasures.count(connection)
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            logger.warning("cannot read which erasures are under way, trying again: %s", error)
            return None
        ERASURES.set(count)
        if not self._is_ours:
            return None if count else 0
        for erasure in vehicles:
            if ("vehicle", erasure.vehicle) not in tasks:
                tasks["vehicle", erasure.vehicle] = asyncio.create_task(self._erase(erasure))
        for trip in trips:
            if ("trip", trip.trip) not in tasks:
                tasks["trip", trip.trip] = asyncio.create_task(self._erase_trip(trip))
        return count

    def _judge(self, key: tuple[str, int], task: "asyncio.Task[None]") -> bool:
        error = task.exception()
        if error is None:
            return True
        if isinstance(error, LeaseLost):
            logger.info("another hub goes on with the erasure of %s %d", *key)
            return True
        known = isinstance(error, StoreUnavailable | asyncpg.PostgresError)
        logger.warning("the erasure of %s %d failed, trying again: %s", *key, error, exc_info=None if known else error)
        return False

    async def _erase(self, erasure: Erasure) -> None:
        vehicle = erasure.vehicle
        async with self._database.connection() as connection:
            tables = await erasures.tables_of(connection, vehicle)
        if tables:
            logger.info("erasing vehicle %d: it has positions of %d days", vehicle, len(tables))
        await self._run("erase a vehicle", erasures.OfVehicle(vehicle, tables, self._clock()))
        logger.info("vehicle %d is erased", vehicle)
        if (end := self._ends.get(vehicle)) is not None:
            end.set()

    async def _erase_trip(self, erasure: TripErasure) -> None:
        trip, trip_id = erasure
        if trip_id is None:
            # The last step, days later: a hub may have stored a fix for the trip that it took before it knew of the removal.
            await self._take_off(trip)
        else:
            await self._run("take a trip out of the change log", trip_erasures.Changes(trip_id))
            # Fixes that were taken for this trip are stored with its number. They must be stored before.
            await self._settled()
            vehicles = await self._take_off(trip)
            for vehicle in vehicles:
                await self._run("take a trip off its events", trip_erasures.Events(trip_id, vehicle))
            async with self._database.transaction() as connection:
                await trip_erasures.end_names(connection, trip, vehicles)
        async with self._database.transaction() as connection:
            await trip_erasures.end(connection, trip, self._clock())

    async def _take_off(self, trip: int) -> list[int]:
        """Takes the trip off positions. Returns the vehicles that drove it."""
        async with self._database.connection() as connection:
            vehicles = await trip_erasures.vehicles_of(connection, trip)
        for vehicle in vehicles:
            await self._run("take a trip off its positions", trip_erasures.Positions(trip, vehicle))
        return vehicles

    async def _run(self, what: str, batch: Batch) -> None:
        async def counted(connection: Connection, rows: int) -> int | None:
            count = await batch(connection, rows)
            ERASED.inc(count or 0)
            return count

        await self._jobs.run(what, counted, self._ours)
