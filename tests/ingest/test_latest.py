"""The newest position of each vehicle, on its way to the table."""

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


async def test_who_flushes_beside_another_waits_for_it(database_url: str) -> None:
    database = Database(database_url)
    await database.open()
    latest = Latest(database, interval=60)
    try:
        for vehicle in range(20):
            latest.note(position(vehicle, 1_000))
        await asyncio.gather(latest.flush(), latest.flush(), latest.flush())
    finally:
        await database.close()
