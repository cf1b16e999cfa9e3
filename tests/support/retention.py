"""A store with a vehicle, and instants in days before now, for tests of retention."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.support.positions import DAY
from tracking.store.days import DAY_MS
from tracking.store.pool import Connection, Database

NOW = DAY * DAY_MS + 43_200_000
EVERYTHING = {
    "retention_days": 10,
    "summary_retention_days": 20,
    "event_retention_days": 10,
    "message_retention_days": 10,
    "trip_retention_days": 20,
    "session_retention_days": 10,
    "share_retention_days": 10,
    "revoked_retention_days": 400,
}
"""Settings that remove every kind of row."""


def ago(days: float) -> int:
    return NOW - int(days * DAY_MS)


@contextlib.asynccontextmanager
async def store_with_van(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    async with database.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO fleets (fleet_id, name) VALUES ('fleet', '');
            INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('van', 'fleet');
            """
        )
    yield database
    await database.close()


async def column(sql: Connection, query: str) -> list[Any]:
    return [row[0] for row in await sql.fetch(query)]


async def gone_until(sql: Connection, days: int) -> None:
    """Positions were dropped up to so many days ago."""
    await sql.execute("INSERT INTO position_days (day, dropped_at) VALUES (date '1970-01-01' + $1::int, $2)", DAY - days, NOW)
