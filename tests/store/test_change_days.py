"""The days of the change log on a real PostgreSQL: partitions made ahead, and the removal of the oldest rows."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.devices import until
from tracking.change_upkeep import DAYS_AHEAD, ChangeUpkeep
from tracking.config import load
from tracking.demo.postgres import Cluster
from tracking.model import Fleet
from tracking.store import change_days, changes, fleets
from tracking.store.changes import Change, ChangeKind
from tracking.store.days import DAY_MS, date_of
from tracking.store.jobs import Jobs
from tracking.store.migrations import DIRECTORY, migrate
from tracking.store.pool import Database

SETTINGS = load()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    async with database.transaction() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
    yield database
    await database.close()


async def _today(store: Database) -> int:
    async with store.connection() as connection:
        return await change_days.now(connection) // DAY_MS


async def _append(store: Database, count: int = 1, **public: str) -> None:
    async with store.transaction() as connection:
        change = Change(ChangeKind.FLEET_CHANGED, "fleet", "fleet", public={"fleet_id": "fleet", **public})
        await changes.append(connection, [change] * count)


async def _at(store: Database, day: int, count: int = 10) -> None:
    """Appends rows whose instant is in that day, as if the database's clock had said so, with the next numbers."""
    async with store.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO changes (number, mark, at, transaction, fleet_id, kind, subject)
            SELECT nextval('change_numbers'), 1, $1::timestamptz, 1, 'fleet', 'fleet.changed', 'fleet'
            FROM generate_series(1, $2)
            """,
            day * DAY_MS + 3_600_000,
            count,
        )


async def _numbers(store: Database) -> list[int]:
    async with store.connection() as connection:
        return [row["number"] for row in await connection.fetch("SELECT number FROM changes ORDER BY number")]


async def _names(store: Database) -> list[str]:
    async with store.connection() as connection:
        return [part.name for part in await change_days.parts(connection) if part.day is not None]


def _upkeep(store: Database, now: int, *, days: int = 7, most_bytes: int = 10**12) -> ChangeUpkeep:
    settings = SETTINGS.model_copy(update={"changes_days": days, "changes_bytes": most_bytes})
    return ChangeUpkeep(Jobs(store, rows=7, rest=0), store, settings, lambda: now)


async def test_days_are_made_ahead_but_for_one_that_has_rows_in_default(store: Database) -> None:
    today = await _today(store)
    await _append(store)
    upkeep = _upkeep(store, today * DAY_MS)
    await upkeep.work()
    ahead = [date_of(day).strftime("changes_%Y%m%d") for day in range(today + 1, today + DAYS_AHEAD + 1)]
    assert await _names(store) == ahead
    await _at(store, today + 1)
    async with store.connection() as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {ahead[0]}") == 10
        # It has the indices of the whole table.
        found = await connection.fetchval("SELECT count(*) FROM pg_indexes WHERE tablename = $1", ahead[0])
        assert found == await connection.fetchval("SELECT count(*) FROM pg_indexes WHERE tablename = 'changes'")
        await connection.execute("DELETE FROM changes_default")
    await upkeep.work()
    assert len(await _names(store)) == DAYS_AHEAD + 1


async def test_two_hubs_make_the_days_at_once(store: Database) -> None:
    today = await _today(store)
    left = await asyncio.gather(*(change_days.make_days(store, set(range(today, today + 4))) for _ in range(3)))
    assert left == [set(), set(), set()] and len(await _names(store)) == 4


async def test_a_writer_waits_for_a_partition_no_longer_than_for_its_lock(store: Database) -> None:
    """A long reader of the log delays the making of a partition. The making delays nobody."""
    today = await _today(store)
    async with store.reading() as reading:
        await reading.fetchval("SELECT count(*) FROM changes")
        making = asyncio.create_task(change_days.make_days(store, {today + 1}))
        async with store.connection() as witness:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'changes_default'::regclass"

            async def waits() -> bool:
                return bool(await witness.fetchval(waiting) > 0)

            await until(waits, "it waits for the reader")
        loop = asyncio.get_running_loop()
        began = loop.time()
        await _append(store)
        assert loop.time() - began < 1.0
        assert await making == {today + 1}
    assert await change_days.make_days(store, {today + 1}) == set()


@pytest.mark.parametrize("made", [True, False])
async def test_what_is_too_old_goes_and_the_rest_has_no_hole(store: Database, made: bool) -> None:
    today = await _today(store)
    days = range(today - 10, today + 1)
    if made:
        await change_days.make_days(store, set(days))
    for day in days:
        await _at(store, day)
    await _append(store)
    before = await _numbers(store)
    await _upkeep(store, today * DAY_MS).work()
    # Today, and seven days.
    assert await _numbers(store) == before[30:]
    async with store.connection() as connection:
        assert await changes.kept_after(connection) == before[29]
    assert len(await _names(store)) == (8 if made else 0) + DAYS_AHEAD
    await _upkeep(store, today * DAY_MS).work()
    assert await _numbers(store) == before[30:]


async def test_the_newest_row_stays_however_old_it_is(store: Database) -> None:
    today = await _today(store)
    await _at(store, today - 30)
    newest = (await _numbers(store))[-1]
    async with store.transaction() as connection:
        assert await change_days.raise_cut(connection, newest + 1000) > 0
    await _upkeep(store, today * DAY_MS).work()
    assert await _numbers(store) == [newest]


@pytest.mark.parametrize("off", [-3650, -10, 10, 3650])
@pytest.mark.parametrize("of_hub", [True, False])
async def test_trust_56_a_clock_that_is_wrong_loses_nothing(store: Database, off: int, of_hub: bool) -> None:
    today = await _today(store)
    for day in range(today - 6, today + 1):
        await _at(store, day)
    before = await _numbers(store)
    if of_hub:
        # Only the hub's clock is wrong.
        await _upkeep(store, (today + off) * DAY_MS).work()
        assert await _numbers(store) == before
        return
    # The database's clock was wrong for a while. Those rows are removed with the rows that were written before, not earlier.
    await _at(store, today + off)
    await _at(store, today)
    before = await _numbers(store)
    await _upkeep(store, today * DAY_MS).work()
    assert await _numbers(store) == before
    async with store.transaction() as connection:
        # Eight days later.
        await connection.execute("UPDATE changes SET at = at - interval '8 days' WHERE at < now() + interval '1 day'")
    await _append(store)
    await _upkeep(store, today * DAY_MS).work()
    assert await _numbers(store) == [before[-1] + 1]


async def test_what_is_too_much_goes_within_a_day_too(store: Database) -> None:
    today = await _today(store)
    for _ in range(20):
        await _append(store, 100, text="x" * 700)
    before = await _numbers(store)
    async with store.connection() as connection:
        size = await connection.fetchval("SELECT pg_total_relation_size('changes_default')")
        estimated = 1
        while await change_days.cut_by_size(connection, estimated * size // 100) is not None:
            estimated += 1
    assert 60 <= estimated <= 140, "the estimate, in per cent of the size of the files"
    await _upkeep(store, today * DAY_MS, most_bytes=size // 2).work()
    left = await _numbers(store)
    assert 600 < len(left) < 1_400 and left == before[-len(left) :]
    # The files are as large as before. That must not remove more rows.
    await _upkeep(store, today * DAY_MS, most_bytes=size // 2).work()
    assert await _numbers(store) == left


async def test_a_day_that_was_written_into_again_is_not_dropped(store: Database) -> None:
    """The clock was set back, so the day's partition has rows that are newer than the cut."""
    today = await _today(store)
    await change_days.make_days(store, {today - 9})
    await _at(store, today - 9)
    await _at(store, today)
    await _at(store, today - 9)
    await _append(store)
    before = await _numbers(store)
    await _upkeep(store, today * DAY_MS).work()
    assert await _numbers(store) == before[10:]
    [part] = [name for name in await _names(store) if name <= date_of(today - 9).strftime("changes_%Y%m%d")]
    async with store.connection() as connection:
        found = next(one for one in await change_days.parts(connection) if one.name == part)
    # The same if it happens after the first check.
    async with store.transaction() as connection:
        with pytest.raises(change_days._Kept):
            await change_days._detach(connection, found)
        await connection.execute("ROLLBACK")
        await connection.execute("BEGIN")
    assert part in await _names(store)


async def test_a_day_that_a_killed_hub_left_detached_is_dropped(store: Database) -> None:
    today = await _today(store)
    await change_days.make_days(store, {today - 9})
    name = (await _names(store))[0]
    await _at(store, today - 9)
    await _append(store)
    async with store.transaction() as connection:
        await connection.execute(f"ALTER TABLE changes DETACH PARTITION {name}")
    await _upkeep(store, today * DAY_MS).work()
    assert name not in await _names(store)


# --- the migration ------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_url(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"empty_{abs(hash(request.node.nodeid)):x}"
    cluster.create_database(name)
    yield cluster.url(name)
    cluster.drop_database(name)


async def test_a_log_with_rows_in_it_is_brought_along(empty_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    [own] = copy.glob("*_change_log_kept.sql")
    for later in sorted(copy.glob("*.sql")):
        if later.name >= own.name:
            later.unlink()
    await migrate(empty_url, copy)
    connection = await asyncpg.connect(empty_url)
    await connection.execute(
        """
        INSERT INTO pending_changes (kind, subject, fleet_id, vehicle, public)
        SELECT 'vehicle.changed', 'v' || i, 'f', i, '{"plate": "P"}' FROM generate_series(1, 500) i
        """
    )
    await migrate(empty_url)
    assert await connection.fetchval("SELECT after FROM changes_kept") == 0
    assert await connection.fetchval("SELECT count(*) FROM changes") == 500
    await connection.execute("INSERT INTO pending_changes (kind, subject, vehicle) VALUES ('vehicle.deleted', 'v1', 1)")
    await connection.close()
    store = Database(empty_url)
    await store.open()
    async with store.transaction() as writer:
        assert await changes.blank_vehicle(writer, 1, 0, 100) == (1, 501)
    await _upkeep(store, await _today(store) * DAY_MS).work()
    assert len(await _numbers(store)) == 501
    await store.close()
