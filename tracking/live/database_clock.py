"""How the database's clock differs from this host's. Spans of trips are given by the database's."""

import logging
import time

from tracking.metrics import DATABASE_CLOCK
from tracking.model import Clock
from tracking.store import changes
from tracking.store.pool import Connection

logger = logging.getLogger(__name__)

CLOCK_SECONDS = 10.0
"""Between two comparisons."""
CLOCK_TOLERANCE_MS = 1_000
"""By how much the clocks may differ: as in `span_instant`."""


class DatabaseClock:
    """`clock` is this host's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due = 0.0
        self.offset = 0
        """By how many ms the database's clock is ahead at least; negative: behind."""

    @property
    def ahead(self) -> int:
        """By how many ms the clock that gives spans is ahead of this host's: see `span_instant` in `sql/`."""
        return self.offset if abs(self.offset) <= CLOCK_TOLERANCE_MS else 0

    async def compare(self, connection: Connection) -> None:
        """Compares the clocks if it is time. A difference within the round trip of the question does not count."""
        if time.monotonic() < self._due:
            return
        before = self._clock()
        there = await changes.database_clock(connection)
        after = self._clock()
        self._due = time.monotonic() + CLOCK_SECONDS
        differed = abs(self.offset) > CLOCK_TOLERANCE_MS
        self.offset = min(there - before, 0) or max(there - after, 0)
        seconds = self.offset / 1000
        DATABASE_CLOCK.set(seconds)
        if (abs(self.offset) > CLOCK_TOLERANCE_MS) is not differed:
            if differed:
                logger.warning("the database's clock is right again by this host's")
            else:
                logger.warning("the database's clock is %+.1f s from this host's: set the one that is wrong", seconds)
