"""Jobs: work on many rows, done in batches. Each batch is a short transaction, and a pause follows it.

A job is a `Batch`, a function that processes the next few rows in the transaction that it is given. The tables must show what
is done, so that the job can continue after a restart:

    async def old_events(connection: Connection, rows: int) -> int | None:
        status = await connection.execute("DELETE FROM events WHERE event IN (SELECT ... LIMIT $1)", rows)
        return int(status.rpartition(" ")[2]) or None

    removed = await service.jobs.run("remove old events", old_events)

All jobs of a hub share one `Jobs`. They take turns, and have one open transaction together. The duration of the last batch
decides how many rows the next one has. A batch must find its rows by an index. If it reads a whole table, it is no short
transaction.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import asyncpg

from tracking.errors import LeaseLost, StoreUnavailable
from tracking.store.pool import Connection, Database, timed_out

logger = logging.getLogger(__name__)

ROWS = 2_000
"""Rows in the first batch of a job."""
MAX_ROWS = 20_000
SECONDS = 0.1
"""How long a batch should take, and a turn."""
REST = 1.0
"""The pause after a turn, as a share of the turn. With 1.0, jobs use half of the time."""
DEADLOCKS = 5
LOCK_MS = 500
"""How long a batch waits for a lock. Meanwhile all other jobs wait for their turn."""

Batch = Callable[[Connection, int], Awaitable[int | None]]
"""Processes at most so many rows, and returns how many; None if no rows were left."""

Ours = Callable[[], Awaitable[bool]]
"""Whether this hub may do the next turn of a job that one hub is enough for. See `nodes.leases`. Raises `StoreUnavailable`."""


async def always() -> bool:
    """No other hub does this job."""
    return True


class Jobs:
    """Runs the batches of all jobs, one after the other."""

    def __init__(
        self, database: Database, *, rows: int = ROWS, most: int = MAX_ROWS, seconds: float = SECONDS, rest: float = REST
    ) -> None:
        """`rows` is the size of a job's first batch, and `most` the largest size. `seconds` and `rest` are as above."""
        self._database = database
        self._rows = rows
        self._most = most
        self._seconds = seconds
        self._rest = rest
        self._turn = asyncio.Lock()
        self.longest = 0.0
        """The seconds of the longest transaction so far."""

    async def run(self, what: str, batch: Batch, ours: Ours = always) -> int:
        """Calls `batch` until nothing is left. Returns how many rows were processed. `ours` is asked before each turn.

        Raises `LeaseLost` if another hub does the job now, `StoreUnavailable`, and every other error of the database. One of
        them is `LockNotAvailableError` of asyncpg, if somebody holds a lock for long. Finished batches are committed. Call it
        again later.
        """
        done = deadlocks = 0
        rows = self._rows
        while True:
            # The lock is first come, first served. So a short job does not wait for the end of a long one.
            async with self._turn:
                if not await ours():
                    raise LeaseLost(f"another hub goes on to {what}")
                turn_began = began = time.monotonic()
                # A turn may have several small batches.
                while began - turn_began <= self._seconds / 2:
                    try:
                        count = await self._transact(batch, rows)
                    except asyncpg.DeadlockDetectedError:
                        deadlocks += 1
                        if deadlocks == DEADLOCKS:
                            raise
                        count = 0
                    except StoreUnavailable as error:
                        if not timed_out(error) or rows == 1:
                            raise
                        await self._database.ping()
                        logger.warning("it takes too long to %s %d rows at a time: trying fewer rows", what, rows)
                        count = 0
                        rows //= 2
                    else:
                        took = time.monotonic() - began
                        self.longest = max(self.longest, took)
                        rows = min(self._most, max(1, int(rows * min(2.0, max(0.5, self._seconds / max(took, 1e-6))))))
                    if count is None:
                        return done
                    done += count
                    began = time.monotonic()
                await asyncio.sleep((began - turn_began) * self._rest)

    async def _transact(self, batch: Batch, rows: int) -> int | None:
        async with self._database.transaction() as connection:
            await connection.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
            return await batch(connection, rows)
