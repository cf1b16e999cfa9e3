"""Work on many rows in batches: each a short transaction of its own, one at a time, with a rest after it.

How to use it. Write the work as a `Batch`: a function that does the next few rows in the transaction that it is given. What it
has done must be seen from the tables, so that the work goes on after a restart where it was. `delete_some` is one for rows that
can just go:

    async def old_events(connection: Connection, rows: int) -> int | None:
        return await delete_some(connection, "events", "server_time < $1::timestamptz", before, rows=rows)

    removed = await service.jobs.run("remove old events", old_events)

All jobs of a hub share one `Jobs`: however many have work, one transaction of them is open at a time, and they take turns.
How many rows a batch has follows from how long the last one took. The condition needs an index: a batch that reads a whole
table to find its rows is no short transaction.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.store.pool import Connection, Database, timed_out

logger = logging.getLogger(__name__)

ROWS = 2_000
"""In the first batch of a job."""
MAX_ROWS = 20_000
SECONDS = 0.1
"""How long a batch should take, and so a turn."""
REST = 1.0
"""How long nothing is done after a turn, as a share of what it took: half of the time is everybody else's."""
DEADLOCKS = 5
LOCK_MS = 500
"""How long a batch waits for a lock of somebody else's: meanwhile all the others wait for their turn."""

Batch = Callable[[Connection, int], Awaitable[int | None]]
"""Does at most so many rows, and returns how many it did; None where none were left to do."""


class Jobs:
    """Runs the batches of all jobs, one after the other."""

    def __init__(
        self, database: Database, *, rows: int = ROWS, most: int = MAX_ROWS, seconds: float = SECONDS, rest: float = REST
    ) -> None:
        """`rows` are in a job's first batch, and `most` in any; `seconds` and `rest` as above."""
        self._database = database
        self._rows = rows
        self._most = most
        self._seconds = seconds
        self._rest = rest
        self._turn = asyncio.Lock()
        self.longest = 0.0
        """Seconds that the longest transaction took until now."""

    async def run(self, what: str, batch: Batch) -> int:
        """Calls `batch` until nothing is left; how many rows were done in all.

        Raises `StoreUnavailable`, and what else the database says to a batch: also asyncpg's `LockNotAvailableError`, where
        somebody holds a lock for long. What was done until then is done; call it again later.
        """
        done = deadlocks = 0
        rows = self._rows
        while True:
            # Whoever waits is served in the order of coming, so that a short job does not wait for the end of a long one.
            async with self._turn:
                turn_began = began = time.monotonic()
                # Several small ones in a turn.
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
                        logger.warning("it takes too long to %s, %d rows at a time: trying fewer", what, rows)
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


async def delete_some(connection: Connection, table: str, condition: str, *values: Any, rows: int) -> int | None:
    """Deletes at most `rows` rows of the table for which the condition on `values` (`$1`, `$2`, …) holds; None where there are
    none. Rows that somebody else has locked are left for the next time.
    """
    status = await connection.execute(
        f"""
        DELETE FROM {table} WHERE ctid = ANY(
            ARRAY(SELECT ctid FROM {table} WHERE {condition} LIMIT {int(rows)} FOR UPDATE SKIP LOCKED)
        )
        """,
        *values,
    )
    return int(status.rpartition(" ")[2]) or None
