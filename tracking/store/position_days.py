"""The UTC days that have a partition of `positions`: what became of each, and how one is removed."""

import logging
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg

from tracking.store.days import date_of, day_of
from tracking.store.pool import Connection

logger = logging.getLogger(__name__)

DETACH_SECONDS = 5.0
"""How long a partition waits for readers of positions before it is detached. Meanwhile no partition can be made."""
_NAME = "positions_%Y%m%d"


class PositionDay(NamedTuple):
    """A UTC day that has a partition, and what was done with it."""

    day: int
    attached: bool
    detaching: bool
    summed: bool
    settled: bool
    settled_to: int
    """All vehicles up to this number were searched once more for late positions."""
    dropped: bool


async def partitions(connection: Connection) -> list[PositionDay]:
    """The days that have a partition, oldest first. A table that was detached, and not dropped because of a failure, counts."""
    rows = await connection.fetch(
        """
        SELECT c.relname AS name, i.inhrelid IS NOT NULL AS attached, coalesce(i.inhdetachpending, false) AS detaching,
            d.summed_at IS NOT NULL AS summed, d.settled_at IS NOT NULL AS settled,
            coalesce(d.settled_to, 0) AS settled_to, d.dropped_at IS NOT NULL AS dropped
        FROM pg_class c
            LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'positions'::regclass
            LEFT JOIN position_days d ON 'positions_' || to_char(d.day, 'YYYYMMDD') = c.relname
        WHERE c.relkind = 'r' AND c.relname ~ '^positions_[0-9]{8}$'
            AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'positions'::regclass)
        ORDER BY c.relname
        """
    )
    return [PositionDay(day_of(datetime.strptime(name, _NAME).replace(tzinfo=UTC).date()), *rest) for name, *rest in rows]


async def note(connection: Connection, day: int, what: str, now: int) -> None:
    """Notes that a UTC day was `summed`, `settled` or `dropped`."""
    await connection.execute(
        f"""
        INSERT INTO position_days (day, {what}_at) VALUES ($1, $2)
        ON CONFLICT (day) DO UPDATE SET {what}_at = EXCLUDED.{what}_at
        """,
        date_of(day),
        now,
    )


async def note_settled_to(connection: Connection, day: int, vehicle: int) -> None:
    """Notes that all vehicles of a UTC day up to this one were searched once more."""
    await connection.execute(
        """
        INSERT INTO position_days (day, settled_to) VALUES ($1, $2)
        ON CONFLICT (day) DO UPDATE SET settled_to = EXCLUDED.settled_to
        """,
        date_of(day),
        vehicle,
    )


async def drop(connection: Connection, partition: PositionDay) -> None:
    """Removes a day's positions. Must not be in a transaction. Another hub may do the same at once.

    Raises `TimeoutError` if somebody reads positions for long. Half of the work is then done, and the next call does the rest.
    """
    name = date_of(partition.day).strftime(_NAME)
    # Dropping an attached partition locks all positions. That lock waits for every download, and the recorder waits for it.
    try:
        if partition.detaching:
            await connection.execute(f"ALTER TABLE positions DETACH PARTITION {name} FINALIZE", timeout=DETACH_SECONDS)
        elif partition.attached:
            await connection.execute(f"ALTER TABLE positions DETACH PARTITION {name} CONCURRENTLY", timeout=DETACH_SECONDS)
        await connection.execute(f"DROP TABLE {name}")
    except (asyncpg.UndefinedTableError, asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.WrongObjectTypeError) as error:
        logger.info("another hub removes the positions of %s: %s", date_of(partition.day), error)


async def horizon(connection: Connection) -> int | None:
    """Positions are kept from this instant on; None: all are kept."""
    found: int | None = await connection.fetchval("SELECT nullif(positions_horizon(), '-infinity')")
    return found
