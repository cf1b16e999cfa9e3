"""Migrations on a real database."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tracking.cluster import Cluster
from tracking.errors import MigrationError, StoreUnavailable
from tracking.store.migrations import DIRECTORY, check, migrate, read


@pytest.fixture
def empty_url(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"empty_{abs(hash(request.node.nodeid)):x}"
    cluster.create_database(name)
    yield cluster.url(name)
    cluster.drop_database(name)


async def test_twice_and_at_once_changes_nothing_more(empty_url: str) -> None:
    names = [migration.name for migration in read()]
    applied = await asyncio.gather(migrate(empty_url), migrate(empty_url))
    assert sorted(applied, key=len) == [[], names]


async def test_an_edited_migration_is_refused(empty_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    await migrate(empty_url, copy)
    first = sorted(copy.glob("*.sql"))[0]
    first.write_text(first.read_text() + "\n-- an afterthought\n")
    with pytest.raises(MigrationError, match="edited"):
        await migrate(empty_url, copy)


async def test_one_that_fails_leaves_nothing_behind(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (id int);")
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE second (id int); SELECT 1/0;")
    with pytest.raises(MigrationError, match="0002_second"):
        await migrate(empty_url, tmp_path)
    connection = await asyncpg.connect(empty_url)
    assert await connection.fetchval("SELECT to_regclass('first') IS NOT NULL AND to_regclass('second') IS NULL")
    await connection.close()


async def test_a_database_from_the_future_is_refused(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (id int);")
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE second (id int);")
    await migrate(empty_url, tmp_path)
    (tmp_path / "0002_second.sql").unlink()
    with pytest.raises(MigrationError, match="newer"):
        await migrate(empty_url, tmp_path)


def test_a_gap_in_the_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="numbered"):
        read(tmp_path)


async def test_events_of_before_are_not_late(empty_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    [own] = copy.glob("*_late_events.sql")
    for later in sorted(copy.glob("*.sql")):
        if later.name >= own.name:
            later.unlink()
    await migrate(empty_url, copy)
    connection = await asyncpg.connect(empty_url)
    await connection.execute(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ('f', '');
        INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('v', 'f');
        INSERT INTO events (fleet_id, vehicle, kind, server_time)
        SELECT 'f', vehicle, 'enter', now() FROM vehicles, generate_series(1, 1000)
        """
    )
    await migrate(empty_url)
    assert await connection.fetchval("SELECT count(*) FROM events WHERE NOT late") == 1000
    await connection.close()


async def test_a_database_that_is_not_migrated_is_told_apart(empty_url: str) -> None:
    with pytest.raises(MigrationError, match="tracking migrate"):
        await check(empty_url)
    await migrate(empty_url)
    await check(empty_url)


async def test_no_database_is_said_in_one_line() -> None:
    with pytest.raises(StoreUnavailable, match="can't reach"):
        await migrate("postgresql://nobody@127.0.0.1:1/nothing")
