"""The latest positions on real PostGIS: the newest is found, however late it was noted."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.positions import BEGIN, DAY, a_position, a_vehicle
from tracking.demo.postgres import Cluster
from tracking.errors import StoreUnavailable
from tracking.ingest.latest import Latest
from tracking.model import Suspicion
from tracking.store import erasures, latest_positions, positions
from tracking.store.pool import Database


@pytest.fixture(scope="module")
async def store(cluster: Cluster, template: str) -> AsyncIterator[Database]:
    cluster.create_database("latest_positions", template)
    database = Database(cluster.url("latest_positions"))
    await database.open()
    async with database.connection() as connection:
        await positions.ensure_partition(connection, DAY)
    yield database
    await database.close()
    cluster.drop_database("latest_positions")


async def test_the_newest_is_found_before_it_is_noted_and_after(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "newest")
    latest = Latest(store, interval=1.0)
    async with store.connection() as connection:
        assert (await latest_positions.newest(connection, [vehicle])).get(vehicle) is None
        first, second = (a_position(vehicle, session, seq) for seq in (1, 2))
        await positions.insert(connection, [first])
        latest.note(first)
        await latest.flush()
        await positions.insert(connection, [second, a_position(vehicle, session, 3, suspect=(Suspicion.JUMP,))])
        found = (await latest_positions.newest(connection, [vehicle])).get(vehicle)
        assert found is not None
        assert (found.fix_time, found.speed) == (second.fix_time, 7.5)
        # Without its partition, the noted position is left.
        await connection.execute("DELETE FROM positions WHERE vehicle = $1", vehicle)
        found = (await latest_positions.newest(connection, [vehicle])).get(vehicle)
        assert found is not None
        assert found.fix_time == first.fix_time


async def test_of_the_latest_only_a_newer_one_counts_and_none_of_a_vehicle_that_is_gone(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "latest")
    gone, _ = await a_vehicle(store, "gone")
    async with store.connection() as connection:
        await erasures.begin(connection, gone)
    latest = Latest(store, interval=1.0)
    for seq in (5, 3):
        latest.note(a_position(vehicle, session, seq))
        latest.note(a_position(gone, session, seq))
        await latest.flush()
    async with store.connection() as connection:
        rows = await connection.fetch(
            "SELECT vehicle, fix_time FROM latest_positions WHERE vehicle = ANY($1::int[])", [vehicle, gone]
        )
    assert [tuple(row) for row in rows] == [(vehicle, BEGIN + 5_000)]


async def test_what_was_noted_waits_for_a_database_that_is_away(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "away")
    away = Database("postgresql://nobody@127.0.0.1:1/none", timeout=1)
    await away.open()
    latest = Latest(away, interval=1.0)
    latest.note(a_position(vehicle, session, 1))
    with pytest.raises(StoreUnavailable):
        await latest.flush()
    latest._database = store
    await latest.flush()
    async with store.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM latest_positions WHERE vehicle = $1", vehicle) == 1
    await away.close()


async def test_a_table_that_refuses_is_tried_again_and_ends_nothing(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "refused")
    latest = Latest(store, interval=0.01)
    async with store.connection() as connection:
        await connection.execute("ALTER TABLE latest_positions RENAME TO away")
        latest.note(a_position(vehicle, session, 1))
        with pytest.raises(asyncpg.UndefinedTableError):
            await latest.flush()
        running = asyncio.create_task(latest.run())
        done, _ = await asyncio.wait({running}, timeout=0.2)
        assert not done
        await connection.execute("ALTER TABLE away RENAME TO latest_positions")
        async with asyncio.timeout(10):
            while not await connection.fetchval("SELECT count(*) FROM latest_positions WHERE vehicle = $1", vehicle):
                await asyncio.sleep(0)
        running.cancel()
