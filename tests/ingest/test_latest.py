"""The newest position of each vehicle, before it is written to its table."""

import asyncio

from tracking.ingest.latest import Latest
from tracking.model import Position
from tracking.store.pool import Database


def position(vehicle: int, fix_time: int) -> Position:
    unknown = None
    return Position(
        vehicle,
        f"van-{vehicle}",
        1,
        1,
        fix_time,
        fix_time,
        47.1,
        9.5,
        unknown,
        unknown,
        unknown,
        unknown,
        unknown,
        None,
        None,
        (),
        True,
    )


async def test_a_second_flush_waits_for_the_first(database_url: str) -> None:
    database = Database(database_url)
    await database.open()
    latest = Latest(database, interval=60)
    try:
        for vehicle in range(20):
            latest.note(position(vehicle, 1_000))
        await asyncio.gather(latest.flush(), latest.flush(), latest.flush())
    finally:
        await database.close()
