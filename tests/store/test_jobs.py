"""Jobs on a real PostgreSQL: short transactions, one at a time, by turns."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tracking.errors import StoreUnavailable
from tracking.store.jobs import Jobs
from tracking.store.pool import Connection, Database


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, timeout=1.0)
    await database.open()
    async with database.transaction() as connection:
        await connection.execute("CREATE TABLE things AS SELECT n FROM generate_series(1, 1000) n")
    yield database
    await database.close()


async def _left(store: Database) -> int:
    async with store.connection() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM things")
    return count


async def _delete(connection: Connection, condition: str, rows: int) -> int | None:
    status = await connection.execute(f"DELETE FROM things WHERE n IN (SELECT n FROM things WHERE {condition} LIMIT {rows})")
    return int(status.rpartition(" ")[2]) or None


async def test_all_goes_in_batches_of_so_many_rows(store: Database) -> None:
    jobs = Jobs(store, rows=60, most=100, rest=0)
    counts = []

    async def batch(connection: Connection, rows: int) -> int | None:
        count = await _delete(connection, "n > 100", rows)
        counts.append(count)
        return count

    assert await jobs.run("delete things", batch) == 900
    assert await _left(store) == 100
    assert counts[0] == 60 and counts[-1] is None and max(count or 0 for count in counts) == 100
    assert 0 < jobs.longest < 1


async def test_two_jobs_take_turns_and_never_have_a_transaction_each(store: Database) -> None:
    jobs = Jobs(store, rows=10, most=10, seconds=0, rest=0)
    order: list[str] = []
    open_now: set[str] = set()

    async def job(name: str, count: int) -> None:
        left = count

        async def batch(connection: Connection, rows: int) -> int | None:
            nonlocal left
            assert not open_now
            open_now.add(name)
            await connection.execute("SELECT 1")
            order.append(name)
            open_now.remove(name)
            left -= 1
            return 1 if left >= 0 else None

        await jobs.run(name, batch)

    await asyncio.gather(job("long", 20), job("short", 2))
    assert order[:6] == ["long", "short"] * 3


async def test_a_turn_has_as_many_small_batches_as_are_done_in_a_moment(store: Database) -> None:
    jobs = Jobs(store, rows=10, most=10, seconds=60, rest=0)
    order: list[str] = []

    async def job(name: str) -> None:
        async def batch(connection: Connection, rows: int) -> int | None:
            order.append(name)
            return 1 if order.count(name) < 4 else None

        await jobs.run(name, batch)

    await asyncio.gather(job("first"), job("second"))
    assert order == ["first"] * 4 + ["second"] * 4


async def _all_things(connection: Connection, rows: int) -> int | None:
    return await _delete(connection, "true", rows)


async def test_a_batch_that_takes_too_long_is_tried_with_fewer_rows(store: Database) -> None:
    asked = []

    async def batch(connection: Connection, rows: int) -> int | None:
        asked.append(rows)
        if rows > 200:
            await connection.execute("SELECT pg_sleep(30)", timeout=0.05)
        return None

    await Jobs(store, rows=1_000, rest=0).run("wait", batch)
    assert asked == [1_000, 500, 250, 125]


async def test_a_database_that_refuses_or_is_away_is_told_to_who_asked(store: Database) -> None:
    async def wrong(connection: Connection, rows: int) -> int | None:
        return await connection.fetchval("SELECT count(*) FROM nothing")  # type: ignore[no-any-return]

    jobs = Jobs(store, rest=0)
    with pytest.raises(asyncpg.UndefinedTableError):
        await jobs.run("delete nothing", wrong)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await jobs.run("delete things", _all_things)


async def test_who_is_locked_out_for_long_gives_the_turn_to_others(store: Database) -> None:
    jobs = Jobs(store, rest=0)
    async with store.transaction() as other:
        await other.execute("LOCK TABLE things IN SHARE MODE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await jobs.run("delete things", _all_things)
    assert await jobs.run("delete things", _all_things) == 1_000
