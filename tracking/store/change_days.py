"""The days of the change log: partitions that are made ahead, and the removal of the oldest rows.

Everything after one number, `changes_kept`, is kept. The number is raised first, in one short transaction. Then the rows up to
it are removed: whole days by their partitions, the rest in batches.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import NamedTuple

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.store.days import DAY_MS, date_of
from tracking.store.pool import Connection, Database, timed_out

LOCK_MS = 100
"""How long a partition waits for its lock. Meanwhile every writer of a change waits behind it."""
STATEMENT_MS = 1_000
"""How long PostgreSQL may search the DEFAULT partition while a partition is made."""
TRIES = 5
AHEAD_MS = 3_600_000
"""How far a row's instant may be ahead of now. If it is farther, the clock that wrote it was wrong."""
SAMPLES = 40
ROWS_OF_SAMPLE = 25
ROW_BYTES = 260
"""Bytes of a row without its texts: its head, its numbers, and its entries in four indices."""
SPARE = 0.05
"""A share of the bytes allowed. So much more is removed, so that not every check has work to do."""

_NAME = "changes_%Y%m%d"
_DEFAULT = "changes_default"


async def now(connection: Connection) -> int:
    """The instant by the database's clock, as rows have it."""
    found: int = await connection.fetchval("SELECT clock_timestamp()")
    return found


# --- days to come -------------------------------------------------------------------------------------------------------


async def make_days(database: Database, days: set[int]) -> set[int]:
    """Makes the partitions of UTC days. Returns the days that cannot have one now.

    A day that already has rows in DEFAULT gets no partition until these are gone.
    """
    async with database.connection() as connection:
        made = {part.name for part in await parts(connection) if part.attached}
    missing = {day for day in days if date_of(day).strftime(_NAME) not in made}
    left = set()
    for day in sorted(missing):
        if not await _tried(partial(_make, day=day), database):
            left.add(day)
    return left


async def _make(connection: Connection, *, day: int) -> bool:
    name, begin = date_of(day).strftime(_NAME), day * DAY_MS
    bounds = f"'{date_of(day)} 00:00:00+00'", f"'{date_of(day + 1)} 00:00:00+00'"
    held = await connection.fetchval(
        f"SELECT EXISTS (SELECT FROM {_DEFAULT} WHERE at >= $1 AND at < $2)", begin, begin + DAY_MS
    )
    if held:
        return False
    # The table is made first and attached later. Only attaching needs locks that writers wait for.
    await connection.execute(f"CREATE TABLE {name} (LIKE changes INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    await connection.execute(f"ALTER TABLE changes ATTACH PARTITION {name} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})")
    return True


# --- days that are over ---------------------------------------------------------------------------------------------------


async def cut_by_age(connection: Connection, days: int, of_hub: int) -> int | None:
    """The number up to which changes are older than so many days; None if there are none, or it is not known.

    `of_hub` is the instant by the hub's clock. The earlier of the two clocks decides what is old, and the later one what is in
    the future. So a wrong clock removes nothing too early. A row from the future is removed with the rows that follow it.
    """
    earlier, later = sorted((of_hub, await now(connection)))
    # Whole days: then the first row of a partition decides.
    since = (earlier // DAY_MS - days) * DAY_MS
    first: int | None = await connection.fetchval(
        "SELECT number FROM changes WHERE at >= $1 AND at <= $2 ORDER BY number LIMIT 1", since, later + AHEAD_MS
    )
    return first - 1 if first is not None else None


async def cut_by_size(connection: Connection, most_bytes: int) -> int | None:
    """The number up to which changes must be removed, so that the rest has so many bytes; None: none must.

    The size is estimated from samples, with indices. Files do not shrink when rows are removed.
    """
    first = await connection.fetchval("SELECT number FROM changes ORDER BY number LIMIT 1")
    head = await connection.fetchval("SELECT number FROM changes ORDER BY number DESC LIMIT 1")
    if first is None:
        return None
    kept = await connection.fetchval("SELECT after FROM changes_kept")
    first = max(first, kept + 1)
    if head - first < 1:
        return None
    row_bytes: float | None = await connection.fetchval(
        """
        SELECT avg(bytes)::float8 FROM generate_series(0, $3::int - 1) i, LATERAL (
            SELECT $5::int + coalesce(pg_column_size(public), 0) + coalesce(pg_column_size(internal), 0)
                + 2 * coalesce(pg_column_size(subject), 0) + 2 * coalesce(pg_column_size(fleet_id), 0) AS bytes
            FROM changes WHERE number >= $1::bigint + i * ($2::bigint - $1::bigint) / $3::int ORDER BY number LIMIT $4::int
        ) sampled
        """,
        first,
        head,
        SAMPLES,
        ROWS_OF_SAMPLE,
        ROW_BYTES,
    )
    if not row_bytes or (head - first + 1) * row_bytes <= most_bytes:
        return None
    cut: int = max(first, head - int(most_bytes * (1 - SPARE) / row_bytes))
    return cut


async def raise_cut(connection: Connection, cut: int) -> int:
    """From now on only changes after `cut` are kept, and always the newest row. Returns how many numbers fewer are kept.

    Needs an open transaction.
    """
    raised: int | None = await connection.fetchval(
        """
        WITH before AS MATERIALIZED (SELECT after FROM changes_kept FOR UPDATE),
        wanted AS MATERIALIZED (
            SELECT least($1::bigint, (SELECT number FROM changes ORDER BY number DESC LIMIT 1) - 1) AS after
        )
        UPDATE changes_kept k SET after = w.after FROM wanted w, before b WHERE w.after > b.after RETURNING w.after - b.after
        """,
        cut,
    )
    return raised or 0


class Part(NamedTuple):
    """A partition, or a former one that was not dropped yet. The `day` of the DEFAULT partition is None."""

    name: str
    day: int | None
    attached: bool


async def parts(connection: Connection) -> list[Part]:
    """The partitions, oldest first."""
    rows = await connection.fetch(
        """
        SELECT c.relname AS name, i.inhrelid IS NOT NULL AS attached,
            to_date(substring(c.relname FROM '^changes_([0-9]{8})$'), 'YYYYMMDD') - date '1970-01-01' AS day
        FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'changes'::regclass
        WHERE c.relkind = 'r' AND c.relname ~ '^changes_([0-9]{8}|default)$'
            AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'changes'::regclass)
        ORDER BY day NULLS FIRST
        """
    )
    return [Part(row["name"], row["day"], row["attached"]) for row in rows]


async def drop_day(database: Database, part: Part, ahead: Collection[int]) -> bool:
    """Drops the partition of a day if nothing in it is kept any more, and the day is not `ahead`.

    Returns False if the partition stays, also if somebody holds a lock.
    """
    if part.day is None or (part.attached and part.day in ahead):
        return False
    if part.attached:
        async with database.connection() as connection:
            # This check needs no lock. Most partitions are kept.
            if not await _is_over(connection, part):
                return False
        if not await _tried(lambda connection: _detach(connection, part), database):
            return False
    return await _tried(lambda connection: _drop(connection, part), database)


async def _is_over(connection: Connection, part: Part) -> bool:
    over: bool = await connection.fetchval(
        f"SELECT coalesce((SELECT max(number) FROM {part.name}) <= (SELECT after FROM changes_kept), true)"
    )
    return over


async def _detach(connection: Connection, part: Part) -> bool:
    await connection.execute(f"ALTER TABLE changes DETACH PARTITION {part.name}")
    # Now nobody can write into it any more. A clock that was set back may have written since the first check.
    if not await _is_over(connection, part):
        raise _Kept
    return True


async def _drop(connection: Connection, part: Part) -> bool:
    await connection.execute(f"DROP TABLE IF EXISTS {part.name}")
    return True


class _Kept(Exception):
    """The partition has rows that are kept."""


class Rows:
    """Batches of a partition's rows that are no longer kept, the oldest first."""

    def __init__(self, part: Part) -> None:
        self._part = part

    async def __call__(self, connection: Connection, rows: int) -> int | None:
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", self._part.name):
            return None  # another hub has dropped it
        status = await connection.execute(
            f"""
            DELETE FROM {self._part.name} WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM {self._part.name} WHERE number <= (SELECT after FROM changes_kept) ORDER BY number LIMIT $1
            ))
            """,
            rows,
        )
        return int(status.rpartition(" ")[2]) or None


async def _tried(work: Callable[[Connection], Awaitable[bool]], database: Database) -> bool:
    """Whether the work is done, after a few tries. Each waits only as long for locks as writers may wait."""
    for number in range(TRIES):
        if number:
            await asyncio.sleep(random.uniform(0.1, 0.3))
        try:
            async with database.transaction() as connection:
                await connection.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
                await connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
                return await work(connection)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError):
            continue  # somebody holds a lock, or another hub makes the same partition
        except (asyncpg.DuplicateTableError, asyncpg.UndefinedTableError):
            return True  # another hub has done it
        except (asyncpg.CheckViolationError, _Kept):
            return False  # rows came meanwhile
        except StoreUnavailable as error:
            if not timed_out(error):
                raise
            return False
    return False
