"""Sums of vehicles' days that are not over, or not stored yet. A sum is made once for all who ask, and kept for a minute.

The time that PostgreSQL needs for a day grows with its fixes. So sums have a pool of their own, and are made one at a time.
Tokens take turns. A token that asks for many days waits for all of them. Another token waits for one of these at most.
"""

import asyncio
import logging
from collections import deque
from typing import NamedTuple

import asyncpg

from tracking.errors import ErrorCode, Refusal, StoreUnavailable
from tracking.model import Clock
from tracking.store import vehicle_days
from tracking.store.days import DAY_MS, date_of
from tracking.store.pool import Database, timed_out
from tracking.store.vehicle_days import VehicleDay

logger = logging.getLogger(__name__)

KEPT_MS = 60_000
WAIT_SECONDS = 30.0
"""How long a request waits for a sum. After that the sum is still made, for the next request."""

_Key = tuple[int, int, int]
"""A vehicle's number, a UTC day, and the instant from which on the day is summed up."""


class _Kept(NamedTuple):
    """`failed`: the day cannot be summed up, or not in time. This is kept too. Otherwise each request would begin anew."""

    found: VehicleDay | None
    made_at: int
    failed: bool = False


class Sums:
    """`day` returns a sum. `forget` removes those of a vehicle. `run` makes sums until it is cancelled."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """The `timeout` of the database limits each sum."""
        self._database = database
        self._clock = clock
        self._kept: dict[_Key, _Kept] = {}
        """The oldest first."""
        self._asked: dict[str, deque[_Key]] = {}
        """By the token that asked first. The first token has the next turn."""
        self._waited: dict[_Key, asyncio.Future[_Kept | None]] = {}
        self._some = asyncio.Event()

    def known(self, vehicle: int, day: int, since: int = 0) -> bool:
        """Whether the sum is there already."""
        self._let_go()
        return (vehicle, day, since) in self._kept

    async def day(self, holder: str, vehicle: int, day: int, since: int = 0) -> VehicleDay | None:
        """The vehicle's day, from the instant `since` on, as it was within the last minute; None if it has no positions.

        `holder` is who asks. Holders take turns. Raises `Refusal` (`unavailable`) if it takes too long.
        """
        key = vehicle, day, since
        self._let_go()
        kept = self._kept.get(key)
        if kept is None:
            made = self._waited.get(key)
            if made is None:
                made = self._waited[key] = asyncio.get_running_loop().create_future()
                self._asked.setdefault(holder, deque()).append(key)
                self._some.set()
            # It is not awaited itself. Otherwise a request that is cancelled would cancel it for the others.
            await asyncio.wait({made}, timeout=WAIT_SECONDS)
            kept = made.result() if made.done() else None
        if kept is None or kept.failed:
            detail = f"the day {date_of(day)} is not summed up yet: try again in a while"
            raise Refusal(ErrorCode.UNAVAILABLE, detail, retry_after=WAIT_SECONDS)
        return kept.found

    def forget(self, vehicle: int) -> None:
        """Removes the sums of a vehicle that was erased."""
        for key in [key for key in self._kept if key[0] == vehicle]:
            del self._kept[key]
        for key in [key for key in self._waited if key[0] == vehicle]:
            self._waited.pop(key).set_result(None)

    async def run(self) -> None:
        while True:
            await self._some.wait()
            if not self._asked:
                self._some.clear()
                continue
            holder, keys = next(iter(self._asked.items()))
            key = keys.popleft()
            del self._asked[holder]
            if keys:
                self._asked[holder] = keys
            made = self._waited.get(key)
            if made is None:
                continue  # forgotten
            kept = await self._make(*key)
            if self._waited.get(key) is made:
                # That today has no positions is found quickly, and soon wrong. It is not kept.
                if kept is not None and (kept.found is not None or kept.failed or key[1] < self._clock() // DAY_MS):
                    self._kept[key] = kept
                del self._waited[key]
                made.set_result(kept)

    async def _make(self, vehicle: int, day: int, since: int) -> _Kept | None:
        """Sums up a day. None if the store is away."""
        began = self._clock()
        try:
            async with self._database.connection() as connection:
                return _Kept(await vehicle_days.day_now(connection, vehicle, day, since), began)
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            logger.warning("cannot sum up %s of vehicle %d: %s", date_of(day), vehicle, error)
            away = isinstance(error, StoreUnavailable) and not timed_out(error)
            return None if away else _Kept(None, self._clock(), failed=True)

    def _let_go(self) -> None:
        before = self._clock() - KEPT_MS
        for key, kept in list(self._kept.items()):
            if before < kept.made_at <= self._clock():
                break
            del self._kept[key]
