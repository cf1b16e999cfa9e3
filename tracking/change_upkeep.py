"""The upkeep of the change log: its partitions are made ahead, and rows that are too old or too many are removed.

One hub does it. Several may do it at once. It uses the database's clock, as the rows of the log do.
"""

import asyncio
import logging

import asyncpg

from tracking.config import Settings
from tracking.errors import LeaseLost, StoreUnavailable
from tracking.metrics import CHANGES_CUT
from tracking.model import Clock
from tracking.store import change_days
from tracking.store.days import DAY_MS
from tracking.store.jobs import Jobs, Ours, always
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

DAYS_AHEAD = 3
LOOK_SECONDS = 300.0
"""How often the log is checked. A busy fleet writes some 50 MB in that time."""


class ChangeUpkeep:
    """`run` works until it is cancelled."""

    def __init__(self, jobs: Jobs, database: Database, settings: Settings, clock: Clock, *, ours: Ours = always) -> None:
        """`ours`: whether this hub does it, if there are several."""
        self._jobs = jobs
        self._database = database
        self._settings = settings
        self._clock = clock
        self._ours = ours
        self._without: set[int] = set()
        """Days that cannot have a partition now."""

    async def run(self) -> None:
        while True:
            try:
                if await self._ours():
                    await self.work()
            except LeaseLost as lost:
                logger.info("the upkeep of the change log stops here: %s", lost)
            except StoreUnavailable as error:
                logger.warning("the upkeep of the change log is not possible now, trying again: %s", error)
            except asyncpg.PostgresError:
                logger.exception("the database refuses the upkeep of the change log; trying again")
            await asyncio.sleep(LOOK_SECONDS)

    async def work(self) -> None:
        """Makes partitions ahead, and removes what is no longer kept. Raises `LeaseLost` and `StoreUnavailable`."""
        async with self._database.connection() as connection:
            today = await change_days.now(connection) // DAY_MS
        ahead = range(today, today + DAYS_AHEAD + 1)
        without = await change_days.make_days(self._database, set(ahead))
        if without - self._without:
            logger.info("no partition for %d days of the change log: their rows stay in the DEFAULT partition", len(without))
        self._without = without
        await self._raise_cut()
        await self._let_go(ahead)

    async def _raise_cut(self) -> None:
        settings = self._settings
        async with self._database.connection() as connection:
            cuts = [
                await change_days.cut_by_age(connection, settings.changes_days, self._clock()),
                await change_days.cut_by_size(connection, settings.changes_bytes),
            ]
        cut = max((cut for cut in cuts if cut is not None), default=0)
        if cut > 0:
            async with self._database.transaction() as connection:
                raised = await change_days.raise_cut(connection, cut)
            if raised:
                CHANGES_CUT.inc(raised)
                logger.info("the change log is kept from number %d on: %d rows fewer", cut + 1, raised)

    async def _let_go(self, ahead: range) -> None:
        async with self._database.connection() as connection:
            found = await change_days.parts(connection)
        for part in found:
            if not await change_days.drop_day(self._database, part, ahead) and part.attached:
                await self._jobs.run("cut the change log", change_days.Rows(part), self._ours)
